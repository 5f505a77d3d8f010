"""The built-in crowd: many connections in one process, as light as Python allows.

It tells apart what a load generator usually adds up: the latencies of holds, of purchases and of refusals.
A closed loop sends the next request of a connection when its last one is answered; the open loop sends at
intended times. Every code that is received is bought next.
"""

import asyncio
import contextlib
import random
from collections import Counter, deque
from time import perf_counter
from typing import cast

from flashsale_project.benchmark.answer import AnswerReader
from flashsale_project.benchmark.arrivals import Arrivals

CONNECTING = 200
"""Connections that are opened at the same time: fewer than any listen queue holds."""

CONNECT_TIMEOUT = 10.0
"""Seconds that one connection may take to open."""

PAUSE = 0.05
"""Seconds before "is it sold out?" is asked again."""

TICK = 0.001
"""Seconds between two looks at what is due in an open loop: the resolution of the loop's timers."""

USERS = 2**40

GREETING = b"POST /checkout HTTP/1.1\r\nHost: localhost\r\n\r\n"
"""A checkout of nobody: it is refused, by the service as by what it is compared with."""

CHECKOUT, PURCHASE = "checkout", "purchase"


class Connection(asyncio.Protocol):
    """One connection of the crowd, with at most one request under way."""

    def __init__(self, crowd: "Crowd") -> None:
        self._crowd = crowd
        self._reader = AnswerReader()
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
        """Called by the transport."""
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Called by the transport."""
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
        """Called by the transport."""
        self._is_greeted()
        self._crowd.lost(self)

    def ask(self, kind: str, request: bytes, since: float) -> None:
        """Send a request; its latency counts from ``since``."""
        self.asked = kind
        self.since = since
        self.transport.write(request)

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
        target = (
            b"/checkout?user_id=%d" % user
            if item is None
            else b"/checkout?user_id=%d&item_id=%d" % (user, item)
        )
        self.outstanding += 1
        connection.ask(CHECKOUT, b"POST %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % target, since)

    def buy(self, connection: Connection, code: bytes, since: float) -> None:
        """Buy what a code holds."""
        connection.code = code
        self.outstanding += 1
        connection.ask(PURCHASE, b"POST /purchase?code=%b HTTP/1.1\r\nHost: localhost\r\n\r\n" % code, since)


class EachItemOnce(Crowd):
    """A closed loop that asks for each item once, in random order, until the sale is sold out.

    So the service is measured, and not how long random draws take to meet the last item. What is refused is
    made up for by requests for any item. It is done when the service has said ``sold_out``.
    """

    def __init__(self, items: int) -> None:
        super().__init__(items)
        self._order = random.sample(range(items), items)
        self._asks_whether_sold_out = False
        self.told_sold_out = False

    def next(self, connection: Connection) -> None:
        """Ask for the next item, for any where one may be left, or not at all."""
        if self._order:
            self.hold(connection, self._order.pop(), perf_counter())
        elif not connection.answers or len(self.bought) + self.outstanding < self.items:
            self.hold(connection, None, perf_counter())
        elif not self.outstanding:
            # All is bought. Another worker may need a moment to know it.
            asyncio.get_running_loop().call_later(
                PAUSE if self._asks_whether_sold_out else 0, self._ask_whether_sold_out, connection
            )

    def answered(self, connection: Connection, status: int, body: bytes) -> None:
        """An answer has come."""
        if len(self.bought) == self.items and status == 409 and b'"sold_out"' in body:
            self.told_sold_out = True
            self.stop()
        super().answered(connection, status, body)

    def _ask_whether_sold_out(self, connection: Connection) -> None:
        self._asks_whether_sold_out = True
        self.hold(connection, None, perf_counter())


class RandomItems(Crowd):
    """A closed loop that asks for random items, until it has bought all or ``seconds`` have passed."""

    def __init__(self, items: int, seconds: float) -> None:
        super().__init__(items)
        self._seconds = seconds

    def start(self) -> None:
        """Send the first requests."""
        asyncio.get_running_loop().call_later(self._seconds, self.stop)
        super().start()

    def next(self, connection: Connection) -> None:
        """Ask for a random item."""
        if len(self.bought) == self.items:
            self.stop()
        else:
            self.hold(connection, int(random.random() * self.items), perf_counter())


class OpenLoop(Crowd):
    """Sends ``rate`` requests a second at intended times; those that find no idle connection wait for one.

    A request is a purchase where a code waits, else a hold of the next item in random order, and of a random
    one once each was asked for.
    """

    def __init__(self, items: int, rate: float, seconds: float) -> None:
        super().__init__(items)
        self._rate = rate
        self._count = int(rate * seconds)
        self._order = random.sample(range(items), items)
        self._idle: deque[Connection] = deque()
        self._due: deque[float] = deque()
        self._unpaid: deque[bytes] = deque()
        self.lags: list[float] = []

    def start(self) -> None:
        """Begin the schedule."""
        self._idle.extend(self.connections)
        self._arrivals = Arrivals(self.started_at, self._rate, self._count)
        self._tick()

    def next(self, connection: Connection) -> None:
        """Send what is due."""
        self._idle.append(connection)
        self._send()

    def granted(self, connection: Connection, code: bytes) -> None:
        """Keep the code for the next arrival."""
        self._unpaid.append(code)
        self.next(connection)

    @property
    def unanswered(self) -> int:
        """Those that wait for a connection included."""
        return self.outstanding + len(self._due)

    def _tick(self) -> None:
        self._due.extend(self._arrivals.due(perf_counter()))
        self._send()
        if (next_at := self._arrivals.next_at) is not None:
            asyncio.get_running_loop().call_later(max(TICK, next_at - perf_counter()), self._tick)

    def _send(self) -> None:
        while self._due and self._idle:
            connection = self._idle.popleft()
            if connection.transport.is_closing():
                continue
            intended = self._due.popleft()
            self.lags.append(perf_counter() - intended)
            if self._unpaid:
                self.buy(connection, self._unpaid.popleft(), intended)
            else:
                item = self._order.pop() if self._order else int(random.random() * self.items)
                self.hold(connection, item, intended)
        if not self._due and self._arrivals.next_at is None:
            self.stop()
