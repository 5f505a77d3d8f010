"""Runs the worker processes of one service: starts them, starts them again, retires and stops them.

A worker that ends is replaced, and so is one that is stuck: it is killed when its heartbeat is missed.
"""

import asyncio
import contextlib
import logging
import random
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flashsale_project.serving.heartbeat import Vigil
from flashsale_project.serving.limits import (
    FIRST_PAUSE,
    HEARTBEAT,
    LASTING,
    LONGEST_PAUSE,
    RETIRE_TIMEOUT,
    STOP_TIMEOUT,
)

logger = logging.getLogger(__name__)


def pause(failures: int) -> float:
    """Seconds to wait after so many workers in a row that did not last; none after the first.

    Up to a half is left off at random, so that workers that fail for one reason do not all come back at
    the same moment.
    """
    if failures <= 1:
        return 0.0
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures - 2, 10)) * random.uniform(0.5, 1)  # noqa: S311


@dataclass(eq=False)
class Worker:
    """One worker process. ``ready`` is set once it serves, ``retiring`` once it is to have a successor."""

    slot: int
    process: asyncio.subprocess.Process
    vigil: Vigil = field(default_factory=Vigil)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    ready_at: float = 0.0
    retiring: bool = False

    def tell(self, sig: signal.Signals, seconds: int) -> None:
        """Tell it to go, within so many seconds."""
        self.vigil.must_end_within(seconds)
        _send(self, sig)


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
        self._sockets = sockets
        self._environment = dict(environment)
        self._directory = directory
        self._ended = ended
        self._workers: dict[int, Worker] = {}  # the one that is to serve, by number of its socket
        self._live: set[Worker] = set()  # all processes, those that retire included
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures = [0] * len(sockets)  # workers in a row that did not last, by number of their socket
        self._started = False
        self._stopping = asyncio.Event()
        self._restarting = asyncio.Lock()

    @property
    def ready(self) -> int:
        """How many workers serve."""
        return sum(worker.ready.is_set() for worker in self._workers.values())

    async def start(self) -> None:
        """Start all workers and wait until they serve.

        Raises `RuntimeError` where one ends before that; then all are stopped.
        """
        workers = [await self._start(slot) for slot in range(len(self._sockets))]
        if not all(await asyncio.gather(*(_until_ready(worker) for worker in workers))):
            await self.stop()
            raise RuntimeError("A worker did not start; its own message stands above.")
        self._started = True

    @property
    def is_stopping(self) -> bool:
        """Whether all workers are to end."""
        return self._stopping.is_set()

    async def restart(self) -> bool:
        """Replace the workers one by one; each goes when its successor serves. Nobody is refused.

        Returns false where it was given up, because a new one did not get ready or all are to stop.
        """
        async with self._restarting:
            for slot in range(len(self._sockets)):
                if self._stopping.is_set():
                    return False
                old = self._workers[slot]
                old.retiring = True  # if it ends now, it has its successor already
                new = await self._start(slot)
                if not await _until_ready(new):
                    # Its watcher goes on trying; the old one serves until that succeeds.
                    return False
                await old.process.wait()
            return True

    async def stop(self) -> None:
        """Drain all workers and wait for their end; kill those that take longer than `STOP_TIMEOUT`."""
        self._stopping.set()
        for worker in self._live:
            worker.tell(signal.SIGTERM, STOP_TIMEOUT)
        # Else the kernel would go on taking connections for us that nobody serves.
        for listener in self._sockets:
            listener.close()
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _start(self, slot: int) -> Worker:
        ours, theirs = socket.socketpair()
        listener = self._sockets[slot]
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "flashsale_project.serving.worker",
                str(listener.fileno()),
                str(theirs.fileno()),
                pass_fds=(listener.fileno(), theirs.fileno()),
                env=self._environment,
                cwd=self._directory,
                start_new_session=True,  # a Ctrl-C in the terminal is for the supervisor alone
            )
        worker = self._workers[slot] = Worker(slot, process)
        self._live.add(worker)
        if self._stopping.is_set():  # while the process was being made
            worker.tell(signal.SIGTERM, STOP_TIMEOUT)
        task = asyncio.create_task(self._watch(worker, ours), name=f"worker {process.pid}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return worker

    async def _watch(self, worker: Worker, channel: socket.socket) -> None:
        """Wait for the end of a worker, or kill it; where nobody wanted that, start another."""
        pid, slot, loop = worker.process.pid, worker.slot, asyncio.get_running_loop()
        ended = asyncio.create_task(worker.process.wait(), name=f"end of worker {pid}")
        with channel:
            channel.setblocking(False)
            loop.add_reader(channel, self._hear, worker, channel)
            fault = None
            while not ended.done() and fault is None:
                await asyncio.wait({ended}, timeout=HEARTBEAT)
                fault = None if ended.done() else worker.vigil.second()
            if fault is not None:
                _send(worker, signal.SIGKILL)
            code = await ended
            loop.remove_reader(channel)
        was_ready = worker.ready.is_set()
        worker.ready.clear()
        self._live.discard(worker)
        self._ended(pid)
        is_wanted = not (worker.retiring or self._stopping.is_set())
        is_missed = is_wanted and (was_ready or self._started)  # else the start of the service has failed
        reason = f"ended with {code}" if fault is None else f"{fault} and was killed"
        if is_missed:
            _log(logging.ERROR, "worker.replaced", worker, reason=reason)
        elif is_wanted:
            _log(logging.ERROR, "worker.failed", worker, reason=reason)
        elif fault is not None:
            _log(logging.ERROR, "worker.killed", worker, reason=reason)
        else:
            _log(logging.INFO, "worker.stopped" if self._stopping.is_set() else "worker.retired", worker)
        if not is_missed:
            return
        lasted = was_ready and loop.time() - worker.ready_at >= LASTING
        self._failures[slot] = 0 if lasted else self._failures[slot] + 1
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause(self._failures[slot])):
                await self._stopping.wait()
        if not (worker.retiring or self._stopping.is_set()):
            await self._start(slot)

    def _hear(self, worker: Worker, channel: socket.socket) -> None:
        """Take what the channel of a worker brings: heartbeats, or its end."""
        loop = asyncio.get_running_loop()
        try:
            beats = channel.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            beats = b""
        if not beats:
            loop.remove_reader(channel)
            return
        worker.vigil.beat()
        if worker.ready.is_set():
            return
        worker.ready.set()
        worker.ready_at = loop.time()
        self._workers[worker.slot] = worker
        _log(logging.INFO, "worker.ready", worker)
        for other in self._live:
            if other.slot == worker.slot and other is not worker:
                other.retiring = True
                other.tell(signal.SIGHUP, RETIRE_TIMEOUT)


async def _until_ready(worker: Worker) -> bool:
    """Wait until the worker serves (true) or has ended (false): its watcher kills it when it is late."""
    ready = asyncio.create_task(worker.ready.wait())
    ended = asyncio.create_task(worker.process.wait())
    await asyncio.wait({ready, ended}, return_when=asyncio.FIRST_COMPLETED)
    ready.cancel()
    ended.cancel()
    return worker.ready.is_set()


def _log(level: int, event: str, worker: Worker, **fields: object) -> None:
    logger.log(level, event, extra={"fields": {"pid": worker.process.pid, "worker": worker.slot, **fields}})


def _send(worker: Worker, sig: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        worker.process.send_signal(sig)
