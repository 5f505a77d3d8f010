"""More is asked than can be saved."""

import asyncio
import time
from collections.abc import Iterator
from functools import partial

import pytest

from tests.acceptance.faults.conftest import BACK, Judged
from tests.acceptance.history.driver import Load, Plan, Shopper
from tests.acceptance.history.journeys import SHOPPING
from tests.acceptance.history.operations import Call
from tests.support.database import NewUrl
from tests.support.processes import many_files, resident
from tests.support.proxy import Proxy
from tests.support.service import MakeService

CLIENTS = 13_000
"""Who ask at the same time: some thousands more than may wait (10,000) or be saved at once (1,000)."""

MEMORY = 300
"""MB that this may cost a worker at most."""

FEW = Plan(journeys=SHOPPING, clients=5, pause=0.05, patience=60)


@pytest.fixture
def files() -> Iterator[None]:
    with many_files(CLIENTS + 2_000):
        yield


@pytest.mark.usefixtures("files")
async def test_a_full_queue_refuses_at_once(
    make_service: MakeService, judged: Judged, new_url: NewUrl, full: bool
) -> None:
    async with Proxy(new_url()) as proxy:
        service = make_service(items=100_000 if full else 20_000, workers=1)
        service.environment["DATABASE_URL"] = proxy.url
        await asyncio.to_thread(service.start)
        before = resident(service.workers()[0])
        async with judged(f"overload: {CLIENTS:,} at once, PostgreSQL 1 s late", service, plan=FEW) as run:
            run.runs = 3 if full else 1
            for _ in range(run.runs):
                crowd = [Shopper(run.load, number) for number in range(CLIENTS)]
                for start in range(0, CLIENTS, 500):
                    await asyncio.gather(*(client.connect(0) for client in crowd[start : start + 500]))
                proxy.delay = 1.0
                seen = len(run.load.operations)
                asked = [
                    asyncio.create_task(client.ask(Call.CHECKOUT, user_id=next(run.load.users), connection=0))
                    for client in crowd
                ]
                # Refused while nobody is served: at once.
                await run.load.until(partial(_is_overloaded, run.load, seen), BACK)
                proxy.hurry()
                await run.wait_until_back(time.monotonic())
                await asyncio.gather(*asked)
                for client in crowd:
                    client.close()
        assert resident(service.workers()[0]) < before + MEMORY
        assert run.failures == {"503 overloaded"}
        assert await asyncio.to_thread(service.stop) == 0


def _is_overloaded(load: Load, since: int) -> bool:
    return sum(operation.reason == "overloaded" for operation in load.operations[since:]) >= 500
