"""The built-in crowd: many connections in one process, as light as Python allows.

It tells apart what a load generator usually adds up: the latencies of holds, of purchases and of refusals.
No two of its requests have the same head (`browser`).
Every code that is received is bought next. What a crowd asks for, and when, is in `loads`.
"""

import asyncio
import contextlib
import random
from collections import Counter
from time import perf_counter
from typing import cast

from flashsale_project.benchmark.answer import AnswerReader
from flashsale_project.benchmark.browser import Browser

CONNECTING = 200
"""Connections that are opened at the same time: fewer than any listen queue holds."""

CONNECT_TIMEOUT = 10.0
"""Seconds that one connection may take to open."""

USERS = 2**40

GREETING = b"POST /checkout HTTP/1.1\r\nHost: localhost\r\n\r\n"
"""A checkout of nobody: it is refused, by the service as by what it is compared with."""

CHECKOUT, PURCHASE = "checkout", "purchase"


class Connection(asyncio.Protocol):
    """One connection of the crowd, with at most one request under way."""

    def __init__(self, crowd: "Crowd") -> None:
        self._crowd = crowd
        self._reader = AnswerReader()
        self._browser = Browser()
        self.transport: asyncio.Transport
        self.asked: str | None = None
        self.code = b""
        self.since = 0.0
        self.answers = 0
        self._greeting: asyncio.Future[None] | None = None

    async def greet(self) -> None:
        """Wait until the server answers, or closes: the system connects before the server knows of it."""
        self._greeting = asyncio.get_running_loop().create_future()
        self.transport.write(GREETING)
        await self._greeting

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what requests are written to."""
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Tell the crowd of an answer once it is whole; what is no answer is an error, and ends this."""
        try:
            answer = self._reader.feed(data)
        except ValueError as error:
            self._crowd.errors[str(error)] += 1
            self.transport.abort()
            return
        if answer is not None and not self._is_greeted():
            self.answers += 1
            self._crowd.answered(self, *answer)

    def connection_lost(self, exc: Exception | None) -> None:
        """End a greeting that is waited for, and tell the crowd."""
        self._is_greeted()
        self._crowd.lost(self)

    def ask(self, kind: str, call: bytes, since: float) -> None:
        """Send a request for this call; its latency counts from ``since``."""
        self.asked = kind
        self.since = since
        self.transport.write(self._browser.request(call))

    def _is_greeted(self) -> bool:
        """Whether it was the end of a greeting, and not of a request."""
        greeting, self._greeting = self._greeting, None
        if greeting is not None and not greeting.done():
            greeting.set_result(None)
        return greeting is not None


class Crowd:
    """Sends requests until its load is done. A load says in `next` what an idle connection asks."""

    def __init__(self, items: int) -> None:
        self.items = items
        self.connections: list[Connection] = []
        self.latencies: dict[str, list[float]] = {CHECKOUT: [], PURCHASE: [], "refusal": []}
        self.codes: list[bytes] = []
        self.bought: list[bytes] = []
        self.bought_at: list[float] = []
        self.failed: Counter[int] = Counter()
        self.errors: Counter[str] = Counter()
        self.connect_errors = 0
        self.resets = 0
        self.outstanding = 0
        self.open = 0
        self.started_at = self.ended_at = 0.0
        self._stopping = False
        self._done = asyncio.Event()

    # --- life

    async def connect(self, port: int, count: int) -> None:
        """Open the connections, and wait until the server has taken them; those that fail are counted."""
        loop = asyncio.get_running_loop()
        gate = asyncio.Semaphore(CONNECTING)

        async def connect() -> None:
            async with gate:
                try:
                    async with asyncio.timeout(CONNECT_TIMEOUT):
                        _, connection = await loop.create_connection(
                            lambda: Connection(self), "127.0.0.1", port
                        )
                except (OSError, TimeoutError):
                    self.connect_errors += 1
                else:
                    self.connections.append(connection)
                    self.open += 1

        await asyncio.gather(*(connect() for _ in range(count)))
        # They are taken in order, and the first would be idle for too long if each was greeted.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await asyncio.gather(*(last.greet() for last in self.connections[-CONNECTING:]))

    async def run(self, deadline: float) -> bool:
        """Run the load; false where it was not done after ``deadline`` seconds."""
        self.started_at = perf_counter()
        if not self.open:
            self._done.set()
        self.start()
        try:
            async with asyncio.timeout(deadline):
                await self._done.wait()
        except TimeoutError:
            return False
        finally:
            self.ended_at = perf_counter()
            self._stopping = True
        return True

    def start(self) -> None:
        """Send the first requests."""
        for connection in self.connections:
            if not connection.transport.is_closing():
                self.next(connection)

    def stop(self) -> None:
        """Ask nothing more; the load is done when all that was asked is answered."""
        self._stopping = True
        if not self.outstanding:
            self._done.set()

    @property
    def unanswered(self) -> int:
        """Requests that were due and have no answer; those of lost connections are counted as resets."""
        return self.outstanding

    # --- what connections report

    def answered(self, connection: Connection, status: int, body: bytes) -> None:
        """An answer has come."""
        now = perf_counter()
        asked, connection.asked = connection.asked, None
        if asked is None:
            self.errors["An answer to no request."] += 1
            return
        self.outstanding -= 1
        seconds = now - connection.since
        granted = False
        if status == 200 and asked == CHECKOUT and len(body) == 36:
            self.latencies[CHECKOUT].append(seconds)
            self.codes.append(body)
            granted = True
        elif status == 200 and asked == PURCHASE and body == b"purchased":
            self.latencies[PURCHASE].append(seconds)
            self.bought.append(connection.code)
            self.bought_at.append(now)
        elif status == 409:
            self.latencies["refusal"].append(seconds)
        else:
            self.failed[status] += 1
        if self._stopping:
            if not self.outstanding:
                self._done.set()
        elif granted:
            self.granted(connection, body)
        else:
            self.next(connection)

    def lost(self, connection: Connection) -> None:
        """A connection was closed: a server may close an idle one, but not leave a request unanswered."""
        self.open -= 1
        if connection.asked is not None:
            connection.asked = None
            self.resets += 1
            self.outstanding -= 1
        if not self.open or (self._stopping and not self.outstanding):
            self._done.set()

    # --- what loads do

    def next(self, connection: Connection) -> None:
        """This connection is idle."""
        raise NotImplementedError

    def granted(self, connection: Connection, code: bytes) -> None:
        """This connection is idle and was just given a code."""
        self.buy(connection, code, perf_counter())

    def hold(self, connection: Connection, item: int | None, since: float) -> None:
        """Ask for an item, or for any."""
        user = int(random.random() * USERS)
        call = (
            b"POST /checkout?user_id=%d" % user
            if item is None
            else b"POST /checkout?user_id=%d&item_id=%d" % (user, item)
        )
        self.outstanding += 1
        connection.ask(CHECKOUT, call, since)

    def buy(self, connection: Connection, code: bytes, since: float) -> None:
        """Buy what a code holds."""
        connection.code = code
        self.outstanding += 1
        connection.ask(PURCHASE, b"POST /purchase?code=" + code, since)
