"""The network between workers and PostgreSQL fails at the worst moments, at peak."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.acceptance.faults.conftest import BACK, BLIND, WITHOUT_DATABASE, Judged, until_unavailable
from tests.acceptance.history.driver import Load, Plan, Shopper
from tests.acceptance.history.operations import Call
from tests.support.database import NewUrl
from tests.support.proxy import Cut, Direction, Proxy
from tests.support.service import MakeService, Service

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def proxy(new_url: NewUrl) -> AsyncIterator[Proxy]:
    async with Proxy(new_url()) as proxy:
        yield proxy


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(make_service: MakeService, proxy: Proxy, full: bool) -> AsyncIterator[Service]:
    """A service that reaches its database through the proxy only."""
    items = 200_000 if full else 20_000
    service = make_service("--checkout-ttl", "2", "--user-limit", "4", items=items)
    service.environment["DATABASE_URL"] = proxy.url
    yield await asyncio.to_thread(service.start)
    assert await asyncio.to_thread(service.stop) == 0


@pytest.mark.parametrize(
    ("fault", "cut"),
    [
        ("connection reset between COMMIT and its answer", Cut(Direction.ANSWER)),
        ("connection closed between COMMIT and its answer", Cut(Direction.ANSWER, reset=False)),
        ("connection reset in the middle of an answer", Cut(Direction.ANSWER, passed=0.5)),
        ("connection reset before a statement arrives", Cut(Direction.REQUEST)),
        ("connection closed in the middle of a statement", Cut(Direction.REQUEST, passed=0.5, reset=False)),
        ("connection reset after a statement, before it ends", Cut(Direction.REQUEST, passed=1)),
    ],
)
async def test_a_connection_is_cut(
    service: Service, proxy: Proxy, judged: Judged, full: bool, fault: str, cut: Cut
) -> None:
    async with judged(fault, service, lag=BLIND) as run:
        run.runs = 100 if full else 8
        for _ in range(run.runs):
            proxy.cuts.append(cut)
            await run.load.until(lambda: not proxy.cuts, BACK)
            await run.load.more(3)
    assert run.failures <= WITHOUT_DATABASE


async def test_a_release_that_was_done_is_not_called_undone(service: Service, proxy: Proxy) -> None:
    """The answer to the release is lost, then those to the looks at what became of it."""
    async with Load([("127.0.0.1", service.port)], Plan(journeys={}, clients=0)) as load:
        client = Shopper(load, 0)
        try:
            async with asyncio.timeout(BACK):
                # A connection that an earlier fault broke may have to be replaced before both are met.
                while not await _loses_a_release_and_its_receipt(client, proxy):
                    proxy.cuts.clear()
        finally:
            proxy.cuts.clear()
            client.close()


async def _loses_a_release_and_its_receipt(client: Shopper, proxy: Proxy) -> bool:
    while (held := await client.ask(Call.CHECKOUT, user_id=next(client.load.users))).status != 200:
        pass
    proxy.cuts.append(Cut(Direction.ANSWER, statement=b"'released'"))
    for _ in range(2):  # it looks twice
        proxy.cuts.append(Cut(Direction.ANSWER, statement=b"AS wanted (sale_id, code)"))
    released = await client.ask(Call.RELEASE, code=held.code)
    assert released.outcome in ("204", "503 outcome_unknown")
    return not proxy.cuts


async def test_the_network_swallows_everything(
    service: Service, proxy: Proxy, judged: Judged, full: bool
) -> None:
    async with judged("black hole for longer than the deadline", service, lag=BLIND) as run:
        run.runs = 5 if full else 1
        for _ in range(run.runs):
            await run.load.more(50)
            proxy.silent = True
            await until_unavailable(run, Call.CHECKOUT, Call.PURCHASE)
            proxy.silent = False
            proxy.end_all()
            await run.wait_until_back(time.monotonic())
    assert run.failures <= WITHOUT_DATABASE


async def test_the_database_cannot_be_reached(
    service: Service, proxy: Proxy, judged: Judged, full: bool
) -> None:
    async with judged("PostgreSQL cannot be reached", service, lag=BLIND) as run:
        run.runs = 5 if full else 1
        for _ in range(run.runs):
            await run.load.more(50)
            proxy.refusing = True
            proxy.end_all()
            await until_unavailable(run, Call.CHECKOUT, Call.PURCHASE)
            proxy.refusing = False
            await run.wait_until_back(time.monotonic())
    assert run.failures <= WITHOUT_DATABASE


async def test_the_network_is_slow(service: Service, proxy: Proxy, judged: Judged, full: bool) -> None:
    async with judged("every answer of PostgreSQL 50 ms late", service) as run:
        proxy.delay = 0.05
        await run.load.more(3_000 if full else 200)
        proxy.hurry()
    assert run.failures == set()
