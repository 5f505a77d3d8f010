"""A worker process as its supervisor sees it: how it is started, spoken to and heard."""

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flashsale_project.serving.heartbeat import Vigil
from flashsale_project.serving.limits import HEARTBEAT


@dataclass(frozen=True, kw_only=True)
class End:
    """How a worker ended."""

    code: int
    fault: str | None
    """What it did not do, where it was killed for that."""

    @property
    def reason(self) -> str:
        """The same in words."""
        return f"ended with {self.code}" if self.fault is None else f"{self.fault} and was killed"


@dataclass(eq=False)
class Worker:
    """One worker process. ``ready`` is set while it serves, ``retiring`` once it is to have a successor."""

    process: asyncio.subprocess.Process
    channel: socket.socket
    vigil: Vigil = field(default_factory=Vigil)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    ready_at: float | None = None
    """When it began to serve, by the clock of the loop."""
    retiring: bool = False

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def tell(self, sig: signal.Signals, seconds: int) -> None:
        """Tell it to go, within so many seconds."""
        self.vigil.must_end_within(seconds)
        self.send(sig)

    def send(self, sig: signal.Signals) -> None:
        """Send it a signal, if it lives."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(sig)

    def hear(self) -> bool:
        """Take what its channel brings; true where it has begun to serve just now."""
        loop = asyncio.get_running_loop()
        try:
            beats = self.channel.recv(4096)
        except BlockingIOError:
            return False
        except OSError:
            beats = b""
        if not beats:  # it has closed the channel, which would be readable for ever
            loop.remove_reader(self.channel)
            return False
        self.vigil.beat()
        if self.ready.is_set():
            return False
        self.ready.set()
        self.ready_at = loop.time()
        return True

    async def until_ready(self) -> bool:
        """Wait until it serves (true) or has ended (false): it is killed when it is late."""
        ready = asyncio.create_task(self.ready.wait())
        ended = asyncio.create_task(self.process.wait())
        await asyncio.wait({ready, ended}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        ended.cancel()
        return self.ready.is_set()

    async def until_ended(self) -> End:
        """Wait for its end, or kill it when its vigil says so."""
        ended = asyncio.create_task(self.process.wait(), name=f"end of worker {self.pid}")
        fault = None
        while not ended.done() and fault is None:
            await asyncio.wait({ended}, timeout=HEARTBEAT)
            fault = None if ended.done() else self.vigil.second()
        if fault is not None:
            self.send(signal.SIGKILL)
        code = await ended
        self.ready.clear()
        return End(code=code, fault=fault)


async def spawn(listener: socket.socket, environment: Mapping[str, str], directory: Path) -> Worker:
    """Start a worker on a listening socket. Its end of the channel is closed here; ours is the caller's."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "flashsale_project.serving.worker",
            str(listener.fileno()),
            str(theirs.fileno()),
            pass_fds=(listener.fileno(), theirs.fileno()),
            env=environment,
            cwd=directory,
            start_new_session=True,  # a Ctrl-C in the terminal is for the supervisor alone
        )
    return Worker(process, ours)
