"""More is asked than can be saved."""

import asyncio
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.acceptance.faults.conftest import BACK, Judged
from tests.acceptance.history.driver import Load, Plan, Shopper
from tests.acceptance.history.journeys import SHOPPING
from tests.acceptance.history.operations import Call
from tests.support.database import NewUrl
from tests.support.processes import many_files, resident
from tests.support.proxy import Proxy
from tests.support.service import PROJECT, MakeService

FEWER = """
import sales.limits
sales.limits.MAX_PENDING = 1_000
"""
"""In the short form so many may wait in a worker: thirteen thousand clients are work for a minute."""

MEMORY = 300
"""MB that this may cost a worker at most."""

FEW = Plan(journeys=SHOPPING, clients=5, pause=0.05, patience=60)


@pytest.fixture
def clients(full: bool) -> Iterator[int]:
    """Who ask at the same time: more than may wait and be saved at once (1,000) together."""
    count = 13_000 if full else 2_500
    with many_files(count + 2_000):
        yield count


async def test_a_full_queue_refuses_at_once(
    make_service: MakeService, judged: Judged, new_url: NewUrl, full: bool, clients: int, tmp_path: Path
) -> None:
    async with Proxy(new_url()) as proxy:
        service = make_service(items=100_000 if full else 20_000, workers=1)
        service.environment["DATABASE_URL"] = proxy.url
        if not full:
            (tmp_path / "sitecustomize.py").write_text(FEWER)
            service.environment["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{PROJECT}"
        await asyncio.to_thread(service.start)
        before = resident(service.workers()[0])
        async with judged(f"overload: {clients:,} at once, PostgreSQL 1 s late", service, plan=FEW) as run:
            run.runs = 3 if full else 1
            for _ in range(run.runs):
                crowd = [Shopper(run.load, number) for number in range(clients)]
                for start in range(0, clients, 500):
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
