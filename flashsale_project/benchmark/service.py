"""A service to measure: ``runsale`` as its operator runs it, on a new embedded database of its own."""

import contextlib
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from django.conf import settings

from flashsale_project.benchmark.processes import GONE, Memory, children, cpu_seconds, memory
from flashsale_project.embedded_postgres import EmbeddedPostgres
from flashsale_project.postgres_binaries import EmbeddedPostgresError

START_SECONDS = 60.0
STOP_SECONDS = 40.0

ROOM = 3600
"""Seconds that the sale goes on at least."""


class EmbeddedDatabase:
    """A new PostgreSQL cluster in a directory of its own; both are removed. Use it with ``with``.

    The server belongs to whoever acquires it last, so it outlives a service that is stopped.
    """

    def __enter__(self) -> Self:
        self.directory = Path(tempfile.mkdtemp(prefix="flashsale-bench-"))
        self.directory.chmod(0o755)  # as root, the server runs as another user, who must get in
        self.server = EmbeddedPostgres(self.directory, settings.FLASHSALE_PG_BIN)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if (pid := self.server.pid) is not None:
            os.kill(pid, signal.SIGQUIT)  # at once: what it would still write is thrown away
        self.server.release()
        shutil.rmtree(self.server.location, ignore_errors=True)
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def url(self) -> str:
        """Where to connect. Starts the server, where nobody has. Raises `RuntimeError` where it cannot."""
        try:
            return self.server.acquire()
        except EmbeddedPostgresError as error:
            raise RuntimeError(str(error)) from error

    @property
    def environment(self) -> dict[str, str]:
        """For a command of the project that is to use this database, and nothing else of ours."""
        shaping = ("FLASHSALE_", "DATABASE_URL", "DEBUG", "PROMETHEUS_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(shaping)}
        return kept | {
            # Empty rather than missing: what a file .env says does not count then.
            "DATABASE_URL": "",
            "DEBUG": "false",
            "FLASHSALE_DATA_DIR": str(self.directory),
            "FLASHSALE_PG_BIN": str(settings.FLASHSALE_PG_BIN or ""),
            "FLASHSALE_TRAIN_EXAMPLE": "false",
            "DJANGO_SETTINGS_MODULE": "flashsale_project.settings",
        }

    def cpu_seconds(self) -> float:
        """CPU time of the server with all its processes. Raises `RuntimeError` where it has ended."""
        if (postmaster := self.server.pid) is None:
            raise RuntimeError("The database server has ended.")
        seconds = 0.0
        for pid in children(postmaster):
            with contextlib.suppress(*GONE):  # a process that ends now is counted by the postmaster
                seconds += cpu_seconds(pid)
        return seconds + cpu_seconds(postmaster)


class Service:
    """One running service. Use it with ``with``.

    Raises `RuntimeError` where it does not start.
    """

    def __init__(self, *, lane: str, workers: int, items: int) -> None:
        self._arguments = [
            *("--lane", lane, "--workers", str(workers), "--items", str(items), "--port", "0"),
            *("--user-limit", "10", "--checkout-ttl", "60", "--period", str(sale_period(time.time()))),
        ]
        self._stack = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.workers: list[int] = []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.database = stack.enter_context(EmbeddedDatabase())
            stack.callback(self.stop)
            log = self.database.directory / "output.log"
            with log.open("wb") as file:
                self._process = process = subprocess.Popen(
                    [sys.executable, "manage.py", "runsale", *self._arguments],
                    cwd=settings.BASE_DIR,
                    env=self.database.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    start_new_session=True,  # a Ctrl-C in the terminal is for the command alone
                )
            give_up = time.monotonic() + START_SECONDS
            while not (found := re.search(r"Flash sale on http://127\.0\.0\.1:(\d+)", log.read_text())):
                if process.poll() is not None or time.monotonic() > give_up:
                    raise RuntimeError(f"The service did not start:\n{log.read_text()}")
                time.sleep(0.02)
            self.port = int(found[1])
            self.workers = [pid for pid in children(process.pid) if _is_worker(pid)]
            self.url = self.database.url
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def stop(self) -> None:
        """End it as Ctrl-C does; kill it where it takes too long. Harmless where it has ended."""
        if self._process is None:
            return
        process, self._process = self._process, None
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_SECONDS)
        finally:
            process.kill()
            process.wait()

    def cpu_seconds(self) -> float:
        """CPU time of the workers. Raises `RuntimeError` where one has ended."""
        try:
            return sum(cpu_seconds(pid) for pid in self.workers)
        except GONE as error:
            raise RuntimeError("A worker has ended.") from error

    def memory(self) -> list[Memory]:
        """That of each worker."""
        return [memory(pid) for pid in self.workers]


def sale_period(now: float) -> int:
    """A period, in seconds, whose current sale goes on for `ROOM`: sales are aligned to the wall clock."""
    return next(period for period in itertools.count(86_400, 7) if period - now % period > ROOM)


def _is_worker(pid: int) -> bool:
    return b"flashsale_project.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
