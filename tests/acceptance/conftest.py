"""The whole service, in processes of its own, on a database of its own."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import psycopg
import pytest

from tests import processes
from tests.conftest import DEADLINE

PROJECT = Path(__file__).parents[2]
START = 60
"""Seconds for a service to start, its database included; only a deadline."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here is an acceptance test."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.acceptance)


class Service:
    """`manage.py runsale`, as its operator runs it."""

    def __init__(self, environment: dict[str, str], arguments: list[str]) -> None:
        self.environment = environment
        self.arguments = arguments
        self.port = 0
        self.log = Path(environment["FLASHSALE_DATA_DIR"]) / "output.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Service":
        """Start it and wait for its first screen."""
        port = ["--port", str(self.port)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "runsale", *port, *self.arguments],
                cwd=PROJECT,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        found = self.wait_for(r"Flash sale on http://127\.0\.0\.1:(\d+)", START)
        self.port = int(found[1])
        self.wait_for(r"stop +Ctrl-C\n")
        return self

    @property
    def output(self) -> str:
        """Everything it has printed so far."""
        return self.log.read_text()

    def wait_for(self, pattern: str, timeout: float = DEADLINE) -> re.Match[str]:
        """Wait until its output matches."""
        assert self.process is not None
        end = time.monotonic() + timeout
        while not (found := re.search(pattern, self.output)):
            assert self.process.poll() is None, f"it ended with {self.process.returncode}:\n{self.output}"
            assert time.monotonic() < end, f"no {pattern!r} in:\n{self.output}"
            time.sleep(0.02)
        return found

    def signal(self, sig: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(sig)

    def wait(self) -> int:
        """Wait for its end and return its exit code."""
        assert self.process is not None
        end = time.monotonic() + START
        while (code := self.process.poll()) is None:
            assert time.monotonic() < end, f"it does not end:\n{self.output}"
            time.sleep(0.02)
        return code

    def stop(self) -> int:
        """Ctrl-C."""
        self.signal(signal.SIGINT)
        return self.wait()

    def workers(self) -> list[int]:
        """The pids of its worker processes."""
        assert self.process is not None
        return processes.workers(self.process.pid)

    def has_replaced(self, old: Collection[int], count: int = 2) -> bool:
        """Whether so many workers run, and none of the old ones: one look, as processes come and go."""
        now = self.workers()
        return len(now) == count and not set(old) & set(now)

    def metrics_directories(self) -> list[Path]:
        """Where workers keep their figures, or kept them."""
        return list(Path(self.environment["FLASHSALE_DATA_DIR"], "metrics").iterdir())

    def manage(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Another command of `manage.py` on the same database."""
        return subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=PROJECT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=START,
            check=False,
        )

    def sql(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run a statement in its database."""
        with psycopg.connect(self.database_url(), autocommit=True) as connection:
            cursor = connection.execute(statement, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def database_url(self) -> str:
        """The URL that its workers use."""
        for pid in self.workers():
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            for entry in environment:
                if entry.startswith(b"DATABASE_URL="):
                    return entry.partition(b"=")[2].decode()
        return self.environment["DATABASE_URL"]


def clean_environment(data_dir: Path) -> dict[str, str]:
    """That of this process, without what would shape the service, and with a data directory of its own."""
    shaping = ("FLASHSALE_", "DATABASE_URL", "DJANGO_SETTINGS_MODULE", "SECRET_KEY", "DEBUG", "PROMETHEUS_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(shaping)}
    return kept | {"FLASHSALE_DATA_DIR": str(data_dir), "PYTHONUNBUFFERED": "1"}


MakeService = Callable[..., Service]


@pytest.fixture(scope="module", params=["express", "django"])
def lane(request: pytest.FixtureRequest) -> str:
    """Every test of the whole service runs on both lanes."""
    return str(request.param)


@pytest.fixture(scope="module")
def make_service(lane: str) -> Iterator[MakeService]:
    """Make services (not started), each on a new database; stopped and removed after the module.

    The database is embedded, or, where the tests were given a DATABASE_URL, a new one on that server.
    """
    services: list[Service] = []
    directories: list[Path] = []
    databases: list[str] = []
    server = os.environ.get("DATABASE_URL")

    def make(*arguments: str, items: int = 100, workers: int = 2, **variables: str) -> Service:
        directory = Path(tempfile.mkdtemp(prefix="flashsale service "))
        directory.chmod(0o755)
        directories.append(directory)
        environment = clean_environment(directory) | {"FLASHSALE_LANE": lane} | variables
        if server:
            name = f"flashsale_{uuid4().hex}"
            with psycopg.connect(server, autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {name}")
            databases.append(name)
            environment["DATABASE_URL"] = urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
        service = Service(environment, ["--items", str(items), "--workers", str(workers), *arguments])
        services.append(service)
        return service

    yield make
    for service in services:
        if service.process is not None and service.process.poll() is None:
            service.stop()
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)
    if server:
        with psycopg.connect(server, autocommit=True) as connection:
            for name in databases:
                connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def service(make_service: MakeService) -> Service:
    """A service of 100 items on two workers, shared by the tests of a module."""
    return make_service().start()
