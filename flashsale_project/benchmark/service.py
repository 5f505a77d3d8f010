"""A service to measure: ``runsale`` as its operator runs it, on an embedded database of its own."""

import itertools
import re
import signal
import subprocess
import sys
import time
from typing import Self

from django.conf import settings

from flashsale_project.benchmark.database_server import DatabaseServer
from flashsale_project.benchmark.processes import GONE, Memory, children, command, cpu_seconds, memory

START_SECONDS = 180.0
"""Most of it is for making sales of a million items."""

STOP_SECONDS = 40.0

ROOM = 3600
"""Seconds that the sale goes on at least."""


class Service:
    """One running service on a new database, or on the one of ``url``. Use it with ``with``.

    Raises `RuntimeError` where it does not start.
    """

    def __init__(
        self, server: DatabaseServer, *, lane: str, workers: int, items: int, url: str | None = None
    ) -> None:
        self._server = server
        self._arguments = [
            *("--lane", lane, "--workers", str(workers), "--items", str(items), "--port", "0"),
            *("--user-limit", "10", "--checkout-ttl", "60", "--period", str(sale_period(time.time()))),
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self._kept = url
        self.url = ""
        self.port = 0
        self.workers: list[int] = []

    def __enter__(self) -> Self:
        self.url = self._kept or self._server.renew()
        log = self._server.directory / "output.log"
        with log.open("wb") as file:
            self._process = process = subprocess.Popen(
                [sys.executable, "manage.py", "runsale", *self._arguments],
                cwd=settings.BASE_DIR,
                env=self._server.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,  # a Ctrl-C in the terminal is for the command alone
            )
        try:
            give_up = time.monotonic() + START_SECONDS
            while not (found := re.search(r"Flash sale on http://127\.0\.0\.1:(\d+)", log.read_text())):
                if process.poll() is not None or time.monotonic() > give_up:
                    raise RuntimeError(f"The service did not start:\n{log.read_text()}")
                time.sleep(0.02)
        except BaseException:
            self.stop()
            raise
        self.port = int(found[1])
        self.workers = [pid for pid in children(process.pid) if _is_worker(pid)]
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End it as Ctrl-C does. Harmless where it has ended.

        Raises `RuntimeError` where it takes too long, and was killed.
        """
        if self._process is None:
            return
        process, self._process = self._process, None
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise RuntimeError("The service did not stop.") from error
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
    return "flashsale_project.serving.worker" in command(pid)
