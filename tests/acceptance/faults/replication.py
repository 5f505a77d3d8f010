"""A primary and its standby, as an operator makes them, loses them and makes them again."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg
import pytest
from django.conf import settings

from flashsale_project.postgres.binaries import Account, credentials, environment, find_binaries, run
from flashsale_project.postgres.cluster import USER
from flashsale_project.postgres.ports import HOST, PORTS
from tests.support.processes import descendants, send
from tests.support.waiting import DEADLINE

NAME = "standby"
"""What standbys call themselves."""

START = 60
"""Seconds for a server to start, a backup or a promotion; only a deadline."""


class Server:
    """One PostgreSQL server, on a port that is its own, running or not."""

    def __init__(self, directory: Path, port: int) -> None:
        self.port = port
        self._cluster = directory / f"on {port}"
        self._account = Account.for_a_new_cluster() if os.geteuid() == 0 else None
        self._binaries = find_binaries(settings.FLASHSALE_PG_BIN, major=None, account=self._account)
        self._process: subprocess.Popen[bytes] | None = None
        if self._account is not None:
            os.chown(directory, self._account.uid, self._account.gid)
        if not (self._binaries / "pg_basebackup").exists():
            pytest.skip(f"there is no pg_basebackup in {self._binaries}")

    @property
    def url(self) -> str:
        """The URL of its database."""
        return f"postgresql://{USER}@{HOST}:{self.port}/postgres"

    def make(self) -> None:
        """Make a new cluster and start it."""
        options = ("--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
        self._run("initdb", f"--pgdata={self._cluster}", f"--username={USER}", *options)
        self.start()

    def copy(self, primary: "Server", through: int) -> None:
        """Become a standby of this primary, reached by another port, and start; returns when it follows."""
        shutil.rmtree(self._cluster, ignore_errors=True)
        where = f"host={HOST} user={USER} application_name={NAME}"
        self._run(
            "pg_basebackup", "-D", self._cluster, "-R", "-c", "fast", "-d", f"{where} port={primary.port}"
        )
        # It will be alone when it is promoted.
        settings_file = self._cluster / "postgresql.auto.conf"
        lines = [line for line in settings_file.read_text().splitlines() if "standby_names" not in line]
        settings_file.write_text("\n".join([*lines, f"primary_conninfo = '{where} port={through}'", ""]))
        self.start()
        primary.until_followed()

    def start(self) -> None:
        """Start it and wait until it answers."""
        with (self._cluster / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    self._binaries / "postgres",
                    *("-D", self._cluster),
                    *("-c", f"listen_addresses={HOST}"),
                    *("-c", f"port={self.port}"),
                    *("-c", "unix_socket_directories="),
                    # Until that is over, a standby that looks for its primary is not promoted.
                    *("-c", "wal_retrieve_retry_interval=100ms"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=environment(),
                start_new_session=True,
                **credentials(self._account),
            )
        self._until("SELECT true")

    def wait_for_standby(self) -> None:
        """From now on, a commit is one when a standby has it, too."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"ALTER SYSTEM SET synchronous_standby_names TO '{NAME}'")
            connection.execute("SELECT pg_reload_conf()")
        self._until("SELECT sync_state = 'sync' FROM pg_stat_replication")

    def wait_for_nobody(self) -> None:
        """From now on, a commit is one when it is one here."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM RESET synchronous_standby_names")
            connection.execute("SELECT pg_reload_conf()")

    def until_followed(self) -> None:
        """Wait until a standby streams from it."""
        self._until("SELECT state = 'streaming' FROM pg_stat_replication")

    def promote(self) -> None:
        """Be a primary from now on."""
        self._run("pg_ctl", "promote", "-w", "-D", self._cluster)

    def kill(self) -> None:
        """End all its processes at once, if it runs."""
        if self._process is not None:
            send(signal.SIGKILL, [self._process.pid, *descendants(self._process.pid)])
            self._process.wait()
            self._process = None

    def _run(self, program: str, *arguments: str | Path) -> None:
        finished = run(self._account, self._binaries / program, *arguments)
        assert finished.returncode == 0, f"{program}: {finished.stdout}{finished.stderr}"

    def _until(self, question: str) -> None:
        """Wait until the answer is yes."""
        end = time.monotonic() + START
        while True:
            try:
                with psycopg.connect(self.url, autocommit=True, connect_timeout=DEADLINE) as connection:
                    if connection.execute(question).fetchone() == (True,):
                        return
            except psycopg.OperationalError:
                pass
            assert time.monotonic() < end, f"{question}:\n{(self._cluster / 'log').read_text()[-2000:]}"
            time.sleep(0.02)


class Pair:
    """Two servers that take turns as the primary. Close it at the end."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="flashsale replication "))
        self._directory.chmod(0o755)
        self.primary, self.standby = (Server(self._directory, port) for port in _free_ports(2))
        self.primary.make()

    @property
    def url(self) -> str:
        """The database, wherever its primary is."""
        hosts = ",".join(f"{HOST}:{port}" for port in sorted((self.primary.port, self.standby.port)))
        return f"postgresql://{USER}:none@{hosts}/postgres?target_session_attrs=read-write"

    def replicate(self, through: int) -> None:
        """Make the standby anew, following the primary by another port, and have commits wait for it."""
        self.standby.kill()
        self.standby.copy(self.primary, through)
        self.primary.wait_for_standby()

    def fail_over(self) -> None:
        """Kill the primary, and promote the standby in its place."""
        self.primary.kill()
        self.standby.promote()
        self.primary, self.standby = self.standby, self.primary

    def close(self) -> None:
        """End both and remove them."""
        self.primary.kill()
        self.standby.kill()
        shutil.rmtree(self._directory, ignore_errors=True)


def _free_ports(count: int) -> list[int]:
    """Ports where nobody listens, of those that no outgoing connection takes meanwhile."""
    found: list[int] = []
    for port in PORTS:
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) != 0:
                found.append(port)
        if len(found) == count:
            break
    return found
