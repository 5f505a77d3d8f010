"""One HTTP/1.1 connection of a client, as light as it can be: a thousand of them must not be the load."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Response:
    """One response; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> dict[str, Any] | None:
        """The JSON document in it, if there is one."""
        if "json" not in self.headers.get("content-type", ""):
            return None
        document = json.loads(self.body)
        return document if isinstance(document, dict) else None


class Connection(asyncio.Protocol):
    """Sends one request at a time and waits for its response."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._waiting: asyncio.Future[Response] | None = None
        self.used_at = 0.0
        self.is_new = True
        self.closed = False

    @classmethod
    async def open(cls, address: tuple[str, int]) -> "Connection":
        """Connect. Raises `OSError`."""
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(cls, *address)
        connection.used_at = loop.time()
        return connection

    def request(self, data: bytes) -> "asyncio.Future[Response]":
        """Send a request; the future fails with `ConnectionResetError` where the connection ends before."""
        loop = asyncio.get_running_loop()
        self.used_at = loop.time()
        self.is_new = False
        self._waiting = loop.create_future()
        if self.closed or self._transport is None:
            self._end()
        else:
            self._transport.write(data)
        return self._waiting

    def send(self, data: bytes) -> None:
        """Send bytes, and wait for nothing."""
        if self._transport is not None:
            self._transport.write(data)

    def abort(self) -> None:
        """Leave without a word."""
        if self._transport is not None:
            self._transport.abort()
        self.closed = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what answers are asked through."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Hand over the answer once it is whole."""
        self._buffer += data
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return
        lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
        length = int(headers.get("content-length", 0))
        if len(rest) < length:
            return
        self._buffer = rest[length:]
        if headers.get("connection") == "close":
            self.abort()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(Response(int(lines[0].split(" ", 2)[1]), headers, rest[:length]))

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail whoever still waits for an answer."""
        self.closed = True
        self._end()

    def _end(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(ConnectionResetError("the connection ended before the answer"))
