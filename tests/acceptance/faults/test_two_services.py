"""Two whole services, as on two machines, sell one sale from one database."""

import asyncio
import signal
import time

from tests.acceptance.faults.conftest import Judged
from tests.acceptance.history.operations import Call
from tests.support.database import NewUrl
from tests.support.processes import send
from tests.support.service import MakeService


async def test_they_are_exact_together(
    make_service: MakeService, judged: Judged, new_url: NewUrl, full: bool
) -> None:
    url = new_url()
    options, items = ("--checkout-ttl", "1", "--user-limit", "4"), 100_000 if full else 10_000
    services = [make_service(*options, items=items) for _ in range(2)]
    for service in services:
        service.environment["DATABASE_URL"] = url
    await asyncio.gather(*(asyncio.to_thread(service.start) for service in services))
    async with judged("two services on one database", *services) as run:
        await run.load.more(10_000 if full else 800)
    assert run.failures == set()

    async with judged("two services, one of them killed and started again", *services) as run:
        run.runs = 5 if full else 1
        for _ in range(run.runs):
            await run.load.more(100)
            send(signal.SIGKILL, services[1].family())
            await asyncio.to_thread(services[1].wait)
            await run.load.more(20)  # the other serves on
            started_at = time.monotonic()
            await asyncio.to_thread(services[1].start)
            await run.wait_until_back(started_at)
    assert all(o.status < 500 for o in run.load.operations if o.call is not Call.NONSENSE)
    for service in services:
        assert await asyncio.to_thread(service.stop) == 0
