"""A plain HTTP/1.1 client on one connection: what it sends and what it gets is exactly what is there."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any, Self

from tests.support.waiting import DEADLINE


@dataclass(frozen=True)
class Answer:
    """One response; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def reason(self) -> str:
        """The reason of a problem document; the type and the status in it must be right."""
        assert self.headers["content-type"] == "application/problem+json"
        assert self.json["status"] == self.status
        return str(self.json["reason"])


class Client:
    """A connection that is kept alive; it is opened anew after the server has said that it closes it.

    Whatever else goes wrong (refused, reset, closed without a word) raises.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        if self._streams:
            self._streams[1].close()
            self._streams = None

    async def request(self, method: str, target: str, headers: str = "", body: bytes = b"") -> Answer:
        return await self.send(
            f"{method} {target} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode("latin-1") + body
        )

    async def post(self, target: str) -> Answer:
        return await self.request("POST", target)

    async def get(self, target: str) -> Answer:
        return await self.request("GET", target)

    async def send(self, request: bytes) -> Answer:
        async with asyncio.timeout(DEADLINE):
            if self._streams is None:
                self._streams = await asyncio.open_connection("127.0.0.1", self.port)
            reader, writer = self._streams
            writer.write(request)
            answer = await _read(reader, bodiless=request.startswith(b"HEAD"))
        if answer.headers.get("connection") == "close":
            self.close()
        return answer


async def _read(reader: asyncio.StreamReader, *, bodiless: bool) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    status = int(head[0].split(" ", 2)[1])
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
    length = 0 if bodiless else int(headers.get("content-length", 0))
    return Answer(status, headers, await reader.readexactly(length))
