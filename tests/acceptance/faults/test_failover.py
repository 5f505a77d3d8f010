"""A primary with a synchronous standby is lost, at peak and while nothing can be acknowledged."""

import asyncio
import time
from collections.abc import Iterator

import pytest

from tests.acceptance.faults.conftest import WITHOUT_DATABASE, Judged, Run, until_unavailable
from tests.acceptance.faults.replication import Pair
from tests.acceptance.history.operations import Call
from tests.support.proxy import Proxy
from tests.support.service import MakeService, Service


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """A primary; each test makes its standby."""
    pair = Pair()
    yield pair
    pair.close()


@pytest.fixture(scope="module")
def service(make_service: MakeService, pair: Pair, full: bool) -> Iterator[Service]:
    """A service that knows both servers."""
    service = make_service("--checkout-ttl", "2", "--user-limit", "4", items=200_000 if full else 20_000)
    service.environment["DATABASE_URL"] = pair.url
    yield service.start()
    assert service.stop() == 0


@pytest.mark.parametrize(
    ("fault", "is_cut_off"),
    [
        ("PostgreSQL: primary lost, standby promoted", False),
        ("PostgreSQL: standby cut off, primary lost, standby promoted", True),
    ],
)
async def test_the_standby_takes_over(
    service: Service, pair: Pair, judged: Judged, full: bool, fault: str, is_cut_off: bool
) -> None:
    async with judged(fault, service) as run:
        run.runs = 5 if full else 1
        for _ in range(run.runs):
            async with Proxy(pair.primary.url) as replication:
                await asyncio.to_thread(pair.replicate, replication.port)
                await run.load.more(100)
                if is_cut_off:
                    await _cut_off(replication, run)
                lost_at = time.monotonic()
                await asyncio.to_thread(pair.fail_over)
                await run.wait_until_back(lost_at)
                await run.load.more(50)
    assert run.failures <= WITHOUT_DATABASE
    assert service.manage("verifysale").returncode == 0


async def test_the_primary_comes_back_without_its_standby(
    service: Service, pair: Pair, judged: Judged, full: bool
) -> None:
    """What it recovers was committed by nobody's word but its own; the standby gets it in the end."""
    fault = "PostgreSQL: standby cut off, primary killed and started again"
    async with Proxy(pair.primary.url) as replication:
        await asyncio.to_thread(pair.replicate, replication.port)
        async with judged(fault, service) as run:
            run.runs = 5 if full else 1
            for _ in range(run.runs):
                await run.load.more(100)
                await _cut_off(replication, run)
                pair.primary.kill()
                await asyncio.to_thread(pair.primary.start)
                await until_unavailable(run, Call.CHECKOUT, Call.PURCHASE)
                replication.refusing = False
                await asyncio.to_thread(pair.primary.until_followed)
                await run.wait_until_back(time.monotonic())
                await run.load.more(50)
        await asyncio.to_thread(pair.primary.wait_for_nobody)
    assert run.failures <= WITHOUT_DATABASE
    assert service.manage("verifysale").returncode == 0


async def _cut_off(replication: Proxy, run: Run) -> None:
    """Let no standby get anything any more; returns when nothing can be acknowledged."""
    replication.refusing = True
    replication.end_all()
    await until_unavailable(run, Call.CHECKOUT, Call.PURCHASE)
