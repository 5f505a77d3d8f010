"""Runs the worker processes of one service: starts them, starts them again, retires and stops them.

A worker that ends is replaced, and so is one that is stuck: it is killed when its heartbeat is missed.
"""

import asyncio
import contextlib
import logging
import random
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from flashsale_project.serving.limits import (
    FIRST_PAUSE,
    LASTING,
    LONGEST_PAUSE,
    RETIRE_TIMEOUT,
    STOP_TIMEOUT,
)
from flashsale_project.serving.worker_process import End, Worker, spawn

logger = logging.getLogger(__name__)


def pause(failures: int) -> float:
    """Seconds to wait after so many workers in a row that did not last; none after the first.

    Up to a half is left off at random, so that workers that fail for one reason do not all come back at
    the same moment.
    """
    if failures <= 1:
        return 0.0
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures - 2, 10)) * random.uniform(0.5, 1)  # noqa: S311


class Slot:
    """One listening socket, and the workers that serve it one after another.

    The succession: a worker joins, and takes over when it serves; whoever else is there retires then, and
    leaves. Where one leaves that nobody told to go, another one has to join.
    """

    def __init__(self, number: int, listener: socket.socket) -> None:
        self.number = number
        self.listener = listener
        self.worker: Worker | None = None
        """The one that is to serve."""
        self.live: set[Worker] = set()
        """All processes, those that retire included."""
        self._failures = 0  # workers in a row that did not last

    @property
    def serves(self) -> bool:
        """Whether the worker that is to serve does."""
        return self.worker is not None and self.worker.ready.is_set()

    def join(self, worker: Worker) -> None:
        """A new worker is there; others serve until it does."""
        self.worker = worker
        self.live.add(worker)

    def take_over(self, worker: Worker) -> None:
        """A worker serves: all others go. One that is to retire itself leaves that to its successor."""
        if worker.retiring:
            return
        self.worker = worker
        for other in self.live - {worker}:
            other.retiring = True
            other.tell(signal.SIGHUP, RETIRE_TIMEOUT)

    def leave(self, worker: Worker) -> None:
        """A worker has ended."""
        self.live.discard(worker)

    def pause_after(self, worker: Worker) -> float:
        """Seconds to wait before the successor of a worker that has just ended is started."""
        now = asyncio.get_running_loop().time()
        lasted = worker.ready_at is not None and now - worker.ready_at >= LASTING
        self._failures = 0 if lasted else self._failures + 1
        return pause(self._failures)


class Supervisor:
    """Keeps one worker running for each socket, until it is stopped.

    ``environment`` is that of the workers; ``ended`` is called with the pid of each that is gone.
    """

    def __init__(
        self,
        sockets: list[socket.socket],
        *,
        environment: Mapping[str, str],
        directory: Path,
        ended: Callable[[int], None],
    ) -> None:
        self._slots = [Slot(number, listener) for number, listener in enumerate(sockets)]
        self._environment = dict(environment)
        self._directory = directory
        self._ended = ended
        self._tasks: set[asyncio.Task[None]] = set()
        self._started = False
        self._stopping = asyncio.Event()
        self._restarting = asyncio.Lock()

    @property
    def ready(self) -> int:
        """How many workers serve."""
        return sum(slot.serves for slot in self._slots)

    @property
    def is_stopping(self) -> bool:
        """Whether all workers are to end."""
        return self._stopping.is_set()

    async def start(self) -> None:
        """Start all workers and wait until they serve.

        Raises `RuntimeError` where one ends before that; then all are stopped.
        """
        workers = [await self._start(slot) for slot in self._slots]
        if not all(await asyncio.gather(*(worker.until_ready() for worker in workers))):
            await self.stop()
            raise RuntimeError("A worker did not start; its own message stands above.")
        self._started = True

    async def restart(self) -> bool:
        """Replace the workers one by one; each goes when its successor serves. Nobody is refused.

        Returns false where it was given up, because a new one did not get ready or all are to stop.
        """
        async with self._restarting:
            for slot in self._slots:
                old = slot.worker
                if self.is_stopping or old is None:
                    return False
                old.retiring = True  # if it ends now, it has its successor already
                new = await self._start(slot)
                if not await new.until_ready():
                    # Its watcher goes on trying; the old one serves until that succeeds.
                    return False
                await old.process.wait()
            return True

    async def stop(self) -> None:
        """Drain all workers and wait for their end; kill those that take longer than `STOP_TIMEOUT`."""
        self._stopping.set()
        for worker in self._live():
            worker.tell(signal.SIGTERM, STOP_TIMEOUT)
        # Else the kernel would go on taking connections for us that nobody serves.
        for slot in self._slots:
            slot.listener.close()
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _live(self) -> Iterator[Worker]:
        for slot in self._slots:
            yield from slot.live

    async def _start(self, slot: Slot) -> Worker:
        worker = await spawn(slot.listener, self._environment, self._directory)
        slot.join(worker)
        if self.is_stopping:  # while the process was being made
            worker.tell(signal.SIGTERM, STOP_TIMEOUT)
        task = asyncio.create_task(self._watch(slot, worker), name=f"worker {worker.pid}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return worker

    async def _watch(self, slot: Slot, worker: Worker) -> None:
        """Hear a worker until its end; where nobody wanted that, start another."""
        loop = asyncio.get_running_loop()
        with worker.channel as channel:
            loop.add_reader(channel, self._hear, slot, worker)
            end = await worker.until_ended()
            loop.remove_reader(channel)
        slot.leave(worker)
        self._ended(worker.pid)
        self._report(slot, worker, end)
        if self._is_missed(worker):
            await self._replace(slot, worker)

    def _hear(self, slot: Slot, worker: Worker) -> None:
        if worker.hear():
            _log(logging.INFO, "worker.ready", slot, worker)
            slot.take_over(worker)

    def _is_wanted(self, worker: Worker) -> bool:
        """Whether nobody has told it to go."""
        return not (worker.retiring or self.is_stopping)

    def _is_missed(self, worker: Worker) -> bool:
        """Whether one that has ended must be replaced: else the start of the service has failed."""
        return self._is_wanted(worker) and (worker.ready_at is not None or self._started)

    def _report(self, slot: Slot, worker: Worker, end: End) -> None:
        if self._is_missed(worker):
            _log(logging.ERROR, "worker.replaced", slot, worker, reason=end.reason)
        elif self._is_wanted(worker):
            _log(logging.ERROR, "worker.failed", slot, worker, reason=end.reason)
        elif end.fault is not None:
            _log(logging.ERROR, "worker.killed", slot, worker, reason=end.reason)
        else:
            _log(logging.INFO, "worker.stopped" if self.is_stopping else "worker.retired", slot, worker)

    async def _replace(self, slot: Slot, worker: Worker) -> None:
        """Start the successor of a worker, after a pause where workers end soon again and again."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(slot.pause_after(worker)):
                await self._stopping.wait()
        if self._is_wanted(worker):  # nobody has started one meanwhile
            await self._start(slot)


def _log(level: int, event: str, slot: Slot, worker: Worker, **fields: object) -> None:
    logger.log(level, event, extra={"fields": {"pid": worker.pid, "worker": slot.number, **fields}})
