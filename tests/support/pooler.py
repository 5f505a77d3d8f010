"""PgBouncer in front of a database."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from flashsale_project.postgres.binaries import Account, credentials
from tests.support.waiting import DEADLINE

CONFIGURATION = """
[databases]
* = host={url.hostname} port={url.port} user={url.username} password={url.password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = 40
"""


class Pooler:
    """A running PgBouncer."""

    def __init__(self, program: str, database_url: str, directory: Path, mode: str) -> None:
        self._database = urlsplit(database_url)
        self._configuration = directory / "pgbouncer.ini"
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self._port = probe.getsockname()[1]
        self._configure(mode)
        # It does not run as root, as PostgreSQL does not.
        account = Account.for_a_new_cluster() if os.geteuid() == 0 else None
        options: dict[str, Any] = {"cwd": "/", **credentials(account)}
        self._process = subprocess.Popen([program, "-q", self._configuration], **options)

    @property
    def url(self) -> str:
        """The database through it."""
        name = self._database.path.removeprefix("/")
        return f"postgresql://anybody:none@127.0.0.1:{self._port}/{name}"

    def wait(self) -> None:
        """Wait until it lets somebody in."""
        end = time.monotonic() + DEADLINE
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=DEADLINE).close()
                return
            except psycopg.OperationalError:
                assert self._process.poll() is None, "it has ended"
                assert time.monotonic() < end
                time.sleep(0.02)

    def change_mode(self, mode: str) -> None:
        """What an operator may do at any time."""
        self._configure(mode)
        self._process.send_signal(signal.SIGHUP)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()

    def _configure(self, mode: str) -> None:
        self._configuration.write_text(CONFIGURATION.format(url=self._database, port=self._port, mode=mode))
        self._configuration.chmod(0o644)


@contextlib.contextmanager
def pooler(database_url: str, mode: str) -> Iterator[Pooler]:
    """Run one; skip the test where it is not installed."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("PgBouncer is not installed")
    directory = Path(tempfile.mkdtemp(prefix="flashsale-pooler-"))
    directory.chmod(0o755)
    pooler = Pooler(program, database_url, directory, mode)
    try:
        pooler.wait()
        yield pooler
    finally:
        pooler.close()
        shutil.rmtree(directory)
