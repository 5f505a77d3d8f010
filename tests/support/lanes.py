"""The two lanes side by side: the same bytes to both, over real sockets, and what comes back."""

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
import uvicorn
from uvicorn.server import ServerState

from flashsale_project.asgi import application
from flashsale_project.serving.http.express import ExpressProtocol
from flashsale_project.serving.http.protocol import Protocol
from sales.connections import connection_info
from sales.runtime import Runtime
from tests.support.waiting import DEADLINE

HEADERS = [(b"date", b"Sat, 21 Nov 2026 00:00:00 GMT"), (b"server", b"uvicorn")]
CODE = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
KEEP_ALIVE = 5
NEVER = "00000000-0000-8000-8000-000000000000"
"""A checkout code that was never given out."""


class _Counts:
    """Counts the bytes that a protocol got, and notices how it ends."""

    received = 0
    lost = False

    def data_received(self, data: bytes) -> None:
        """Count them, and pass them on."""
        self.received += len(data)
        super().data_received(data)  # type: ignore[misc]

    def connection_lost(self, exc: Exception | None) -> None:
        """Remember that it is over."""
        self.lost = True
        super().connection_lost(exc)  # type: ignore[misc]


class Express(_Counts, ExpressProtocol):
    """The express lane."""


class Stock(_Counts, Protocol):
    """Django's lane."""


LANES: tuple[type[Express] | type[Stock], ...] = (Express, Stock)


@dataclass
class Lane:
    """One connection to one of the lanes."""

    protocol: Any
    client: socket.socket
    state: ServerState
    sent: int = 0
    got: bytearray = field(default_factory=bytearray)

    async def send(self, data: bytes) -> None:
        """Send bytes; a server that has closed is no error."""
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().sock_sendall(self.client, data)
            self.sent += len(data)

    async def arrive(self) -> None:
        """Wait until the server has read what was sent, or does not want to read now."""
        protocol = self.protocol
        async with asyncio.timeout(DEADLINE):
            while protocol.received < self.sent and not protocol.lost:
                if protocol.flow.read_paused or protocol.transport.is_closing():
                    break
                await asyncio.sleep(0)

    async def settle(self) -> None:
        """Wait until the server has read everything and answered what it understood."""
        async with asyncio.timeout(DEADLINE):
            while not self.is_idle():
                await self.read()
                await asyncio.sleep(0)
        await self.read()

    def is_idle(self) -> bool:
        """Whether nothing can come any more without another byte."""
        protocol = self.protocol
        if protocol.lost or (protocol.transport is not None and protocol.transport.is_closing()):
            return not self.state.tasks
        return (
            protocol.received == self.sent
            and protocol.cycle is None
            and not protocol.flow.read_paused
            and protocol.transport.get_write_buffer_size() == 0
        )

    async def read(self) -> None:
        """Take what has been sent so far."""
        with contextlib.suppress(BlockingIOError, ConnectionError):
            while data := self.client.recv(65536):
                self.got += data

    def codes(self) -> list[bytes]:
        """The checkout codes given so far."""
        return CODE.findall(bytes(self.got))


@contextlib.asynccontextmanager
async def connected(kind: Callable[..., Any], runtime: Runtime, **options: Any) -> AsyncIterator[Lane]:
    """A connection to a lane, on a socket pair."""
    loop = asyncio.get_running_loop()
    config = uvicorn.Config(
        application,
        http=kind,
        ws="none",
        log_config=None,
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE,
        **options,
    )
    config.load()
    state = ServerState()
    state.default_headers = list(HEADERS)
    server, client = socket.socketpair()
    client.setblocking(False)
    _, protocol = await loop.connect_accepted_socket(
        lambda: kind(config=config, server_state=state, app_state={"runtime": runtime}), server
    )
    lane = Lane(protocol, client, state)
    try:
        yield lane
    finally:
        client.close()
        async with asyncio.timeout(DEADLINE):
            while not protocol.lost or state.tasks:
                protocol.transport.abort()
                await asyncio.sleep(0)


async def until(lane: Lane, done: Callable[[], Any]) -> None:
    """Read what comes until a state is reached."""
    async with asyncio.timeout(DEADLINE):
        while not done():
            await lane.read()
            await asyncio.sleep(0)


def post(target: str, *headers: str, body: bytes = b"") -> bytes:
    """A request as an ordinary client sends it."""
    return "\r\n".join([f"POST {target} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode() + body


def statuses(lane: Lane) -> list[int]:
    """The statuses of all answers so far."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", lane.got)]


def reasons(lane: Lane) -> list[str]:
    """The reasons of all refusals so far."""
    return [reason.decode() for reason in re.findall(rb'"reason": "(\w+)"', lane.got)]


@contextlib.asynccontextmanager
async def commits_held(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Meanwhile no batch can be committed, for as long as it takes."""
    monkeypatch.setattr("sales.limits.STATEMENT_TIMEOUT", 3600)
    monkeypatch.setattr("sales.limits.SAVE_TIMEOUT", 3600)
    async with await psycopg.AsyncConnection.connect(connection_info()) as connection:
        await connection.execute("LOCK TABLE sales_saleitem IN SHARE MODE")
        yield
        await connection.rollback()


def normalized(lane: Lane) -> tuple[bytes, bool]:
    """What came back, without what is different each time, and whether the server closed."""
    seen: dict[bytes, bytes] = {}
    text = CODE.sub(lambda m: seen.setdefault(m[0], b"<code %d>" % len(seen)), bytes(lane.got))
    text = re.sub(rb'"(item_id|user_id|\w+_at)": ("[^"]*"|\d+)', rb'"\1": N', text)
    text = re.sub(rb"content-length: \d+", b"content-length: N", text)
    return text, lane.protocol.lost or lane.protocol.transport.is_closing()


async def both(
    runtime: Runtime, script: Sequence[Sequence[bytes]], first: int
) -> tuple[tuple[bytes, bool], tuple[bytes, bool]]:
    """Send a script to both lanes: steps of chunks; after each step wait for what comes.

    In it ``{item3}`` and ``{user3}`` are numbers of this lane alone, from ``first`` on, and ``{code3}`` the
    fourth code that this lane has got.
    """
    results = []
    for number, kind in enumerate(LANES):
        base = first + 50 * number

        async with connected(kind, runtime) as lane:

            def fill(match: re.Match[bytes], lane: Lane = lane, base: int = base) -> bytes:
                index = int(match[2])
                if match[1] == b"code":
                    codes = lane.codes()
                    return codes[index] if index < len(codes) else b"00000000-0000-8000-8000-000000000000"
                return b"%d" % (base + index)

            for step in script:
                for chunk in step:
                    await lane.send(re.sub(rb"\{(item|user|code)(\d)\}", fill, chunk))
                    await lane.arrive()
                await lane.settle()
            results.append(normalized(lane))
    return results[0], results[1]
