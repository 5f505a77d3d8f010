"""Taking connections from a listening socket, as many as wait.

uvloop's own server takes one in each turn of the loop, and a turn of a busy worker answers hundreds of
requests: of a thousand who connect at once, the last would wait for seconds.
"""

import asyncio
import contextlib
import ctypes
import logging
import socket
import struct
import sys
from collections.abc import Callable, Iterator

from flashsale_project.serving.limits import ACCEPT_PAUSE, AT_ONCE

logger = logging.getLogger(__name__)

SO_ATTACH_FILTER = 26
"""Of <asm-generic/socket.h>; Python does not name it."""


class Acceptor:
    """Serves a listening socket in the running loop; owns the socket."""

    def __init__(self, listener: socket.socket, make_protocol: Callable[[], asyncio.Protocol]) -> None:
        self._listener = listener
        self._make_protocol = make_protocol
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[object]] = set()
        self._resuming: asyncio.TimerHandle | None = None
        listener.setblocking(False)
        self._resume()

    def close(self, *, let_in: bool) -> None:
        """Take no more connections; ``let_in``: but those that wait, whom closing would cut off."""
        self._loop.remove_reader(self._listener)
        if self._resuming is not None:
            self._resuming.cancel()
        last: list[socket.socket] = []
        if let_in:
            drop_all(self._listener)
            last += self._waiting()
        self._listener.close()
        self._connect(last)

    def _resume(self) -> None:
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        try:
            self._connect(self._waiting())
        except OSError as error:  # most likely there are too many open files
            logger.error("no connection can be taken: %s", error)
            self._loop.remove_reader(self._listener)
            self._resuming = self._loop.call_later(ACCEPT_PAUSE, self._resume)

    def _waiting(self) -> Iterator[socket.socket]:
        with contextlib.suppress(BlockingIOError):
            for _ in range(AT_ONCE):
                with contextlib.suppress(ConnectionAbortedError):  # it has left already
                    yield self._listener.accept()[0]

    def _connect(self, connections: Iterator[socket.socket] | list[socket.socket]) -> None:
        for connection in connections:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = self._loop.create_task(
                self._loop.connect_accepted_socket(self._make_protocol, connection), name="a new connection"
            )
            self._tasks.add(task)
            task.add_done_callback(self._connected)

    def _connected(self, task: "asyncio.Task[object]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a connection failed: %s", error)


def drop_all(listener: socket.socket) -> None:
    """Have the kernel drop what comes for a listening socket; who is connected already waits on.

    Else it would connect somebody between the last accept and the close, and reset them. Who is dropped
    knocks again a second later, and is refused or served by another. Linux only.
    """
    if sys.platform != "linux":
        return
    instruction = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))  # BPF: return 0 bytes
    program = struct.pack("HP", 1, ctypes.addressof(instruction))
    with contextlib.suppress(OSError):  # where a sandbox forbids it
        listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
