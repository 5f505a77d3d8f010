"""What crowds ask for, and when.

A closed loop sends the next request of a connection when its last one is answered; the open loop sends at
intended times.
"""

import asyncio
import random
from collections import deque
from time import perf_counter

from flashsale_project.benchmark.arrivals import Arrivals
from flashsale_project.benchmark.crowd import Connection, Crowd

PAUSE = 0.05
"""Seconds before "is it sold out?" is asked again."""

TICK = 0.001
"""Seconds between two looks at what is due in an open loop: the resolution of the loop's timers."""


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
