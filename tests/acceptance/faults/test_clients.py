"""Clients that are very many, idle, slow, and gone halfway."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from tests.acceptance.faults.conftest import BACK, Judged
from tests.acceptance.history.connection import Connection
from tests.acceptance.history.driver import Plan
from tests.acceptance.history.journeys import EVERYTHING
from tests.support.processes import many_files, resident
from tests.support.service import MakeService, Service

IDLE, BUSY, SLOW = 10_000, 1_000, 200
"""How many there are; in the short form a quarter of them."""

PATIENCE = 30
"""Seconds within which whoever does not finish a request must be put out."""

MEMORY = 300
"""MB that all of them may cost a worker at most."""

CHECKOUT = b"POST /checkout?user_id=%d HTTP/1.1\r\nHost: localhost\r\n\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def files() -> Iterator[None]:
    with many_files(IDLE + 2 * BUSY + SLOW + 2_000):
        yield


@pytest.fixture(scope="module")
def service(files: None, make_service: MakeService, full: bool) -> Service:
    service = make_service("--checkout-ttl", "2", "--user-limit", "4", items=100_000 if full else 5_000)
    return service.start()


async def test_thousands_idle_and_hundreds_busy(service: Service, judged: Judged, full: bool) -> None:
    idles, busy, slows, most = (number if full else number // 4 for number in (IDLE, BUSY, SLOW, MEMORY))
    workers = service.workers()
    before = [resident(pid) for pid in workers]
    plan = Plan(journeys=EVERYTHING, clients=busy, pause=0.5, patience=60)
    async with connected(service, idles) as idle, connected(service, slows) as slow:
        dripping = asyncio.create_task(drip(slow))
        fault = f"{idles:,} idle, {busy:,} busy and {slows} slow clients"
        async with judged(fault, service, plan=plan) as run:
            await run.load.more(20_000 if full else 500)
            after = [resident(pid) for pid in workers]
            # Who was idle is served like anybody else, or was put out for having been idle.
            for connection in idle[::100]:
                if not connection.closed:
                    with contextlib.suppress(ConnectionResetError):  # put out just now
                        assert (await connection.request(HEALTH)).status == 200
        dripping.cancel()
    # On a slow machine some may wait too long behind so many.
    assert run.failures <= {"503 overloaded"}
    assert service.workers() == workers
    for pid, old, new in zip(workers, before, after, strict=True):
        assert new - old < most, f"worker {pid} grew from {old:.0f} to {new:.0f} MB"


async def test_a_half_closed_client_is_answered(service: Service) -> None:
    """It has said all it has to say, and listens."""
    async with asyncio.timeout(BACK):
        for user in range(10_000, 10_010):
            reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
            writer.write(CHECKOUT % user)
            writer.write_eof()
            answer = await reader.read()
            writer.close()
            assert answer.startswith(b"HTTP/1.1 200 ")


async def test_slow_and_silent_clients_are_put_out(service: Service, full: bool) -> None:
    if not full:
        pytest.skip("waits for half a minute")
    async with connected(service, SLOW) as slow, connected(service, SLOW) as silent:
        dripping = asyncio.create_task(drip(slow))
        try:
            async with asyncio.timeout(PATIENCE):
                while not all(connection.closed for connection in (*slow, *silent)):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
        finally:
            dripping.cancel()


@asynccontextmanager
async def connected(service: Service, count: int) -> AsyncIterator[list[Connection]]:
    """So many connections that say nothing."""
    connections: list[Connection] = []
    try:
        while len(connections) < count:
            address = ("127.0.0.1", service.port)
            more = min(200, count - len(connections))
            connections += await asyncio.gather(*(Connection.open(address) for _ in range(more)))
        yield connections
    finally:
        for connection in connections:
            connection.abort()


async def drip(connections: list[Connection]) -> None:
    """Send a request, a byte a second."""
    for number in range(len(CHECKOUT)):
        for connection in connections:
            if not connection.closed:
                connection.send(CHECKOUT[number : number + 1])
        await asyncio.sleep(1)
