"""`manage.py runsale` in processes of its own, as its operator runs it."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import psycopg

from tests.support import processes
from tests.support.database import new_database
from tests.support.waiting import DEADLINE, START, wait_for

PROJECT = Path(__file__).parents[2]

SHAPING = ("FLASHSALE_", "DATABASE_URL", "DJANGO_SETTINGS_MODULE", "SECRET_KEY", "DEBUG", "PROMETHEUS_")
"""How the names of variables begin that shape a service."""

SLOWING = ("PYTHONDONTWRITEBYTECODE",)
"""The same of what makes each of hundreds of processes compile all its modules."""


class Service:
    """`manage.py runsale`, as its operator runs it."""

    def __init__(self, environment: dict[str, str], arguments: list[str]) -> None:
        self.environment = environment
        self.arguments = arguments
        self.port = 0
        self.log = Path(environment["FLASHSALE_DATA_DIR"]) / "output.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Start it and wait for its first screen."""
        port = ["--port", str(self.port)]
        with self.log.open("wb") as log:
            self.process = launch(
                "runsale", *port, *self.arguments, env=self.environment, stdout=log, stderr=log
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

    def stop_if_it_runs(self) -> None:
        """Leave nothing behind, however a test ended."""
        if self.process is not None and self.process.poll() is None:
            self.stop()

    @property
    def pid(self) -> int:
        """That of its main process."""
        assert self.process is not None
        return self.process.pid

    def family(self) -> list[int]:
        """Its main process, its workers, its embedded PostgreSQL and all of their children."""
        return [self.pid, *processes.descendants(self.pid)]

    def workers(self) -> list[int]:
        """The pids of its worker processes."""
        return processes.workers(self.pid)

    def has_replaced(self, old: Collection[int], count: int = 2) -> bool:
        """Whether so many workers run, and none of the old ones: one look, as processes come and go."""
        if any(map(processes.runs, old)):
            return False
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
        if url := self.environment.get("DATABASE_URL"):
            return url
        return str(wait_for(self._told_to_workers))

    def _told_to_workers(self) -> str | None:
        return next(filter(None, (processes.variable(pid, "DATABASE_URL") for pid in self.workers())), None)


def launch(*arguments: str, env: dict[str, str], **options: Any) -> subprocess.Popen[Any]:
    """Start a command of `manage.py` in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "manage.py", *arguments],
        cwd=PROJECT,
        env=env,
        start_new_session=True,
        **options,
    )


def clean_environment(data_dir: Path) -> dict[str, str]:
    """That of this process, without what would shape the service, and with a data directory of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(SHAPING + SLOWING)}
    return kept | {"FLASHSALE_DATA_DIR": str(data_dir), "PYTHONUNBUFFERED": "1"}


MakeService = Callable[..., Service]


@contextmanager
def services(lane: str) -> Iterator[MakeService]:
    """Make services (not started), each on a new database; all are stopped and removed at the end.

    All use one server, which saves them seconds. ``embedded``: with a PostgreSQL of its own, for whoever
    looks at that, or does it harm.
    """
    with ExitStack() as stack:

        def make(
            *arguments: str, items: int = 100, workers: int = 2, embedded: bool = False, **variables: str
        ) -> Service:
            directory = Path(tempfile.mkdtemp(prefix="flashsale service "))
            directory.chmod(0o755)
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
            environment = clean_environment(directory) | {"FLASHSALE_LANE": lane} | variables
            if not embedded:
                environment["DATABASE_URL"] = stack.enter_context(new_database())
            service = Service(environment, ["--items", str(items), "--workers", str(workers), *arguments])
            stack.callback(service.stop_if_it_runs)
            return service

        yield make
