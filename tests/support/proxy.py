"""A network between workers and PostgreSQL that delays, cuts, resets and swallows."""

import asyncio
import contextlib
import socket
import struct
from collections import deque
from dataclasses import dataclass
from enum import Enum, auto
from typing import Self
from urllib.parse import urlsplit, urlunsplit

from tests.support.waiting import eventually

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER that makes a close a reset."""

WORTH_CUTTING = 150
"""Bytes of a request that is more than housekeeping, most likely a batch."""

PIECE = 2**20
"""Bytes that are passed on at once at most: what is held back is held back in one piece."""


class Direction(Enum):
    """Which way bytes go."""

    REQUEST = auto()
    ANSWER = auto()


@dataclass(frozen=True)
class Cut:
    """Cuts a connection at the next request of some size, or at the answer to it.

    ``passed``: which part of the bytes still arrives, from 0 to 1. ``reset``: by a reset, not an orderly end.
    ``statement``: only at a request with this text, which a connection sends until it has prepared it.
    ``least``: bytes of the request. ``lockout``: nobody is let in from then on. ``late``: the database does
    not hear of the cut, and the request is kept back until `Proxy.deliver`.
    """

    direction: Direction
    passed: float = 0.0
    reset: bool = True
    statement: bytes = b""
    least: int = WORTH_CUTTING
    lockout: bool = False
    late: bool = False

    def fits(self, direction: Direction, asked: bytes) -> bool:
        """Whether it is to be made now, after this request."""
        return self.direction is direction and len(asked) >= self.least and self.statement in asked


class Link:
    """One connection of a worker, and its own to the database: the writers are in this order."""

    def __init__(self, writers: tuple[asyncio.StreamWriter, asyncio.StreamWriter]) -> None:
        self._writers = writers
        self.asked = b""
        """The last request."""

    def leave(self) -> None:
        """Close that of the worker only."""
        self._writers[0].transport.abort()

    def end(self, *, reset: bool) -> None:
        """Close both."""
        for writer in self._writers:
            if reset and (sock := writer.get_extra_info("socket")) is not None:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                writer.transport.abort()
            else:
                writer.close()


class Proxy:
    """Listens in front of a database. Use it with ``async with``.

    ``cuts``: to be made, one after the other. ``delay``: seconds that every answer is held back.
    ``silent``: nothing goes through, and nobody is told; what was ``swallowed`` (pieces, so far) stays lost,
    so the connections of that time are ended with it. ``refusing``: nobody is let in.
    """

    def __init__(self, database_url: str) -> None:
        parts = urlsplit(database_url)
        self._database = (parts.hostname, parts.port)
        self._parts = parts
        self._links: set[Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._hurry = asyncio.Event()
        self._late: tuple[asyncio.StreamWriter, bytes] | None = None
        self.cuts: deque[Cut] = deque()
        self.delay = 0.0
        self.silent = False
        self.swallowed = 0
        self.refusing = False

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=PIECE)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
        self._hurry.set()
        self.end_all()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        """The database through this proxy."""
        where = f"{self._parts.username}:{self._parts.password}@127.0.0.1:{self.port}"
        return urlunsplit(self._parts._replace(netloc=where))

    def end_all(self, *, reset: bool = True) -> None:
        """End every connection, by a reset or in order."""
        for link in list(self._links):
            link.end(reset=reset)

    def hurry(self) -> None:
        """No delay any more, and what is being held back goes at once."""
        self.delay = 0.0
        self._hurry.set()

    async def deliver(self) -> None:
        """Send the request that was kept back, once the database has ended its session.

        Raises `TimeoutError` where it does not: then the request could still be served.
        """
        assert self._late is not None
        sink, request = self._late
        await eventually(sink.is_closing)
        sink.write(request)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            writer.transport.abort()
            return
        try:
            theirs = await asyncio.open_connection(*self._database, limit=PIECE)
        except OSError:
            writer.transport.abort()
            return
        link = Link((writer, theirs[1]))
        self._links.add(link)
        for direction, source, sink in (
            (Direction.REQUEST, reader, theirs[1]),
            (Direction.ANSWER, theirs[0], writer),
        ):
            task = asyncio.create_task(self._pump(link, direction, source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(
        self, link: Link, direction: Direction, source: asyncio.StreamReader, sink: asyncio.StreamWriter
    ) -> None:
        cut: Cut | None = None
        with contextlib.suppress(OSError):
            while data := await source.read(PIECE):
                if self.silent:
                    self.swallowed += 1
                    continue
                if direction is Direction.REQUEST:
                    link.asked = data
                elif self.delay:
                    self._hurry.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(self.delay):
                            await self._hurry.wait()
                if self.cuts and self.cuts[0].fits(direction, link.asked):
                    cut = self.cuts.popleft()
                    self.refusing |= cut.lockout
                    if cut.late:
                        self._late = sink, data
                        link.leave()
                        return
                    sink.write(data[: int(len(data) * cut.passed)])
                    with contextlib.suppress(OSError):
                        await sink.drain()
                    break
                sink.write(data)
                await sink.drain()
        self._links.discard(link)
        link.end(reset=cut is not None and cut.reset)
