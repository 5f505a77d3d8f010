"""Runs the worker processes of one service: starts them, starts them again, retires and stops them."""

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

logger = logging.getLogger(__name__)

BACKLOG = 4096
"""Connections that may wait for a worker to accept them."""

READY_TIMEOUT = 30.0
"""Seconds for a new worker to become ready before it is given up."""

STOP_TIMEOUT = 20.0
"""Seconds for workers to stop before they are killed."""

PAUSE = 2.0
"""Seconds between the end of a worker that never got ready and the start of the next: one that dies at
once, again and again, must not keep the machine busy."""


def listen(host: str, port: int, count: int) -> list[socket.socket]:
    """Open ``count`` listening sockets on one address, for a worker each. Raises `OSError`.

    With SO_REUSEPORT the kernel spreads connections evenly over them. They belong to the supervisor: a
    worker that restarts inherits its socket, and the connections that wait on it. Where the system does
    not spread (only Linux does), all workers share one socket.
    """
    family, _, _, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    # SO_REUSEPORT would let us join the sockets of another service of ours: find out without it.
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
        address = probe.getsockname()
    spread = sys.platform == "linux" and count > 1
    sockets: list[socket.socket] = []
    for _ in range(count if spread else 1):
        sock = socket.socket(family)
        sockets.append(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if spread:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    return sockets * count if not spread else sockets


@dataclass(eq=False)
class Worker:
    """One worker process. ``ready`` is set once it serves, ``retiring`` once it has a successor."""

    process: asyncio.subprocess.Process
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    retiring: bool = False


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
        self._stopping = False
        self._restarting = asyncio.Lock()

    @property
    def ready(self) -> int:
        """How many workers serve."""
        return sum(worker.ready.is_set() for worker in self._workers.values())

    async def start(self) -> None:
        """Start all workers and wait until they serve.

        Raises `RuntimeError` where one ends before that, or takes longer than `READY_TIMEOUT`.
        """
        workers = [await self._start(slot) for slot in range(len(self._sockets))]
        if not all(await asyncio.gather(*(_until_ready(worker) for worker in workers))):
            await self.stop()
            raise RuntimeError("A worker did not start; its own message stands above.")

    async def restart(self) -> None:
        """Replace the workers one by one; each goes when its successor serves. Nobody is refused."""
        async with self._restarting:
            for slot in range(len(self._sockets)):
                if self._stopping:
                    return
                old = self._workers[slot]
                old.retiring = True  # if it ends now, it has its successor already
                new = await self._start(slot)
                if not await _until_ready(new):
                    # Its watcher goes on trying; the old one serves as long as it can.
                    logger.error("a new worker did not get ready; the restart ends here")
                    return
                _send(old, signal.SIGHUP)
                await old.process.wait()

    async def stop(self) -> None:
        """Drain all workers and wait for their end; kill those that take longer than `STOP_TIMEOUT`."""
        self._stopping = True
        for worker in self._live:
            _send(worker, signal.SIGTERM)
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=STOP_TIMEOUT)
        if late:
            logger.error("killing workers that did not stop within %s seconds", STOP_TIMEOUT)
            for worker in self._live:
                _send(worker, signal.SIGKILL)
            await asyncio.wait(late)

    async def _start(self, slot: int) -> Worker:
        ours, theirs = socket.socketpair()
        listener = self._sockets[slot]
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "flashsale_project.worker",
                str(listener.fileno()),
                str(theirs.fileno()),
                pass_fds=(listener.fileno(), theirs.fileno()),
                env=self._environment,
                cwd=self._directory,
                start_new_session=True,  # a Ctrl-C in the terminal is for the supervisor alone
            )
        worker = self._workers[slot] = Worker(process)
        self._live.add(worker)
        task = asyncio.create_task(self._watch(slot, worker, ours), name=f"worker {process.pid}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return worker

    async def _watch(self, slot: int, worker: Worker, channel: socket.socket) -> None:
        """Note when the worker is ready; when it ends, and nobody wanted that, start another."""
        loop = asyncio.get_running_loop()
        with channel:
            channel.setblocking(False)
            with contextlib.suppress(OSError):
                if await loop.sock_recv(channel, 64):
                    worker.ready.set()
            code = await worker.process.wait()
        was_ready = worker.ready.is_set()
        worker.ready.clear()
        self._live.discard(worker)
        self._ended(worker.process.pid)
        if self._stopping or worker.retiring:
            return
        logger.error("worker %s ended with %s; starting another", worker.process.pid, code)
        if not was_ready:
            await asyncio.sleep(PAUSE)
        if not self._stopping:
            await self._start(slot)


async def _until_ready(worker: Worker) -> bool:
    """Wait until the worker serves (true), has ended, or has taken too long and was killed (false)."""
    ready = asyncio.create_task(worker.ready.wait())
    ended = asyncio.create_task(worker.process.wait())
    await asyncio.wait({ready, ended}, timeout=READY_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
    ready.cancel()
    ended.cancel()
    if worker.ready.is_set():
        return True
    _send(worker, signal.SIGKILL)
    return False


def _send(worker: Worker, sig: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        worker.process.send_signal(sig)
