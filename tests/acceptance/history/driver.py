"""Many clients at once over real sockets, of every kind that a sale meets; every request is recorded."""

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Self

from flashsale_project.benchmark.browser import Browser
from tests.acceptance.history.connection import Connection, Response
from tests.acceptance.history.operations import Call, Operation

Address = tuple[str, int]
Journey = Callable[["Shopper"], Awaitable[None]]

FIRST_USER = 1_000_000
"""Users from here on come once; those below share a few names and meet their limit."""

IDLE = 2.0
IDLE_NEW = 10.0
"""Seconds that a connection waits for its next and for its first request; later it is not used any more.

The service waits for 5 and for 15 seconds: a request that meets its hanging up would be lost.
"""

BODIES = {Call.PURCHASE: "purchased", Call.RELEASE: ""}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a load is like.

    ``journeys``: what a client does next, with its weight. ``pause``: mean seconds between two requests of
    a client. ``patience``: seconds until a client takes a request for lost.
    """

    journeys: Mapping[Journey, float]
    clients: int = 50
    seed: int = 0
    pause: float = 0.005
    patience: float = 20.0


class Load:
    """Clients at work on one sale, behind one address or several. Use it with ``async with``.

    Leaving it lets every client finish what it does.
    """

    def __init__(self, addresses: Sequence[Address], plan: Plan) -> None:
        self.addresses = addresses
        self.plan = plan
        self.operations: list[Operation] = []
        self.acknowledged = 0
        """Holds and purchases so far."""
        self.users = count(FIRST_USER)
        self.items = 1
        self.user_limit = 1
        self.checkout_ttl = 0.0
        self.gone = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        looker = Shopper(self, -1)
        try:
            operation = await looker.ask(Call.SALE)
        finally:
            looker.close()
        assert operation.answer is not None, f"there is no sale to visit: {operation.outcome}"
        self.items = operation.answer["items"]
        self.user_limit = operation.answer["user_limit"]
        self.checkout_ttl = operation.answer["checkout_ttl_seconds"]
        self._tasks = [
            asyncio.create_task(Shopper(self, number).shop(), name=f"client {number}")
            for number in range(self.plan.clients)
        ]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.gone.set()
        await asyncio.gather(*self._tasks)

    async def until(self, check: Callable[[], Any], timeout: float) -> None:
        """Wait until a check is true. Raises `TimeoutError`, or what a client failed with."""
        async with asyncio.timeout(timeout):
            while not check():
                for task in self._tasks:
                    if task.done():
                        task.result()
                await asyncio.sleep(0.01)

    async def more(self, acknowledged: int, timeout: float = 300) -> None:
        """Wait for so many holds and purchases more."""
        goal = self.acknowledged + acknowledged
        await self.until(lambda: self.acknowledged >= goal, timeout)


class Shopper:
    """One client, with two connections of its own, most likely to different workers, and one for a friend."""

    def __init__(self, load: Load, number: int) -> None:
        self.load = load
        self.number = number
        self.random = random.Random(f"{load.plan.seed} {number}")
        self.later: list[tuple[float, str]] = []
        """Codes that were not bought at once, each with the time (monotonic) to come back to it."""
        self._browser = Browser()
        self._connections: list[Connection | None] = [None, None, None]

    async def shop(self) -> None:
        """One journey after another until the load is gone."""
        journeys, weights = zip(*self.load.plan.journeys.items(), strict=True)
        try:
            while not self.load.gone.is_set():
                await self.random.choices(journeys, weights)[0](self)
        finally:
            self.close()

    def close(self) -> None:
        """Leave."""
        for connection in self._connections:
            if connection is not None:
                connection.abort()

    async def rest(self) -> None:
        """Pause as this load does."""
        if not self.load.gone.is_set():
            await asyncio.sleep(self.random.uniform(0, 2 * self.load.plan.pause))

    async def ask(
        self,
        call: Call,
        *,
        user_id: int | None = None,
        item_id: int | None = None,
        code: str | None = None,
        patience: float | None = None,
        connection: int | None = None,
    ) -> Operation:
        """Make one request, on this connection or one of the first two, and record it."""
        data = self._browser.request(_line(call, user_id, item_id, code).encode())
        slot = self.random.randrange(2) if connection is None else connection
        facts: dict[str, Any] = {"client": self.number, "call": call, "user_id": user_id, "item_id": item_id}
        started_at = time.monotonic()
        try:
            opened = await self.connect(slot)
        except OSError as error:
            end = time.monotonic()
            return await self._record(
                **facts,
                code=code,
                started_at=started_at,
                ended_at=end,
                sent=False,
                reason=type(error).__name__,
            )
        started_at = time.monotonic()
        wait = opened.request(data)
        try:
            async with asyncio.timeout(self.load.plan.patience if patience is None else patience):
                response = await wait
        except OSError as error:  # TimeoutError is one, too
            opened.abort()
            left = patience is not None and isinstance(error, TimeoutError)
            end, reason = time.monotonic(), "left" if left else type(error).__name__
            return await self._record(**facts, code=code, started_at=started_at, ended_at=end, reason=reason)
        end = time.monotonic()
        return await self._record(
            **facts, started_at=started_at, ended_at=end, **_meaning(call, code, response)
        )

    async def connect(self, slot: int) -> Connection:
        """One of the connections, opened anew now and then. Raises `OSError`."""
        kept = self._connections[slot]
        if kept is not None and not kept.closed:
            idle = asyncio.get_running_loop().time() - kept.used_at
            most = IDLE_NEW if kept.is_new else IDLE
            if idle < most and self.random.random() > 0.05:
                return kept
            kept.abort()
        self._connections[slot] = None
        async with asyncio.timeout(self.load.plan.patience):
            opened = self._connections[slot] = await Connection.open(self.random.choice(self.load.addresses))
        return opened

    async def send(self, data: bytes, patience: float) -> None:
        """Send what is no request of ours on a connection of its own, and leave."""
        started_at = time.monotonic()
        response: Response | None = None
        with contextlib.suppress(OSError):
            connection = await Connection.open(self.random.choice(self.load.addresses))
            try:
                async with asyncio.timeout(patience):
                    response = await connection.request(data)
            finally:
                connection.abort()
        await self._record(
            client=self.number,
            call=Call.NONSENSE,
            started_at=started_at,
            ended_at=time.monotonic(),
            status=response.status if response else 0,
            retry_after=response.headers.get("retry-after") if response else None,
            reason=repr(data[:40]),
        )

    async def _record(self, **facts: Any) -> Operation:
        operation = Operation(**facts)
        self.load.operations.append(operation)
        if operation.status == 200 and operation.call in (Call.CHECKOUT, Call.PURCHASE):
            self.load.acknowledged += 1
        await self.rest()
        if not operation.sent:
            await asyncio.sleep(0.05)  # nobody is there: knocking faster helps nobody
        return operation


def _line(call: Call, user_id: int | None, item_id: int | None, code: str | None) -> str:
    if call is Call.CHECKOUT:
        return f"POST /checkout?user_id={user_id}" + ("" if item_id is None else f"&item_id={item_id}")
    return {
        Call.PURCHASE: f"POST /purchase?code={code}",
        Call.RELEASE: f"DELETE /checkouts/{code}",
        Call.RECEIPT: f"GET /checkouts/{code}",
        Call.SALE: "GET /sale",
    }[call]


def _meaning(call: Call, code: str | None, response: Response) -> dict[str, Any]:
    """What the response says; a body that is not as it must be becomes a reason that no answer has."""
    document = response.document
    text = response.body.decode("latin-1")
    reason = "" if document is None else document.get("reason", "")
    if response.status in (200, 204) and text != BODIES.get(call, text):
        reason = f"with the body {text[:80]!r}"
    if call is Call.CHECKOUT:
        # Of a failure, too, where it says which code the hold has if there is one.
        code = text if response.status == 200 else (document or {}).get("code")
    return {
        "code": code,
        "status": response.status,
        "reason": reason,
        "retry_after": response.headers.get("retry-after"),
        "answer": document,
    }
