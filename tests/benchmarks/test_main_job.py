"""Speed and memory of the main job: ``pytest -m benchmark -s``. It prints figures and judges none.

Machines differ and are shared; the figures in the README say where they come from.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sales.inventory import HELD, HoldBatch, Inventory, ItemRow, SaleFacts
from sales.models import Sale
from sales.runtime import Runtime
from tests.acceptance.conftest import lane, make_service
from tests.support.processes import resident
from tests.support.service import MakeService

__all__ = ["lane", "make_service"]

pytestmark = pytest.mark.benchmark


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str]) -> Callable[[str, str], None]:
    """Print one line of the result, through pytest's capture."""

    def write(what: str, figure: str) -> None:
        with capsys.disabled():
            print(f"\n{what:.<60} {figure}", end="")

    return write


@pytest.fixture
def big_sale(make_sale: Callable[..., Sale]) -> Sale:
    """A sale of the size of a real one."""
    return make_sale(items=10_000, user_limit=1000)


async def test_one_save_of_100_checkouts(
    big_sale: Sale, open_worker: Any, report: Callable[[str, str], None]
) -> None:
    worker: Runtime = await open_worker()
    inventory = worker.current()
    holds, purchases = [], []
    for start in range(0, 10_000, 100):
        batch = HoldBatch(inventory, worker.memory.clock.now())
        for item in range(start, start + 100):
            batch.hold(item, item)
        began = time.perf_counter()
        granted = await worker.storage.hold(inventory.sale, batch.holds.values())
        holds.append(time.perf_counter() - began)
        assert granted.saved is not None
        assert len(granted.saved.rows) == 100
        inventory.learn(granted.saved.rows)
        began = time.perf_counter()
        changed = await worker.storage.purchase(
            inventory.sale.id, [hold.code for hold in batch.holds.values()]
        )
        purchases.append(time.perf_counter() - began)
        assert len(changed.codes) == 100
    for what, seconds in (("100 checkouts saved", holds), ("100 purchases saved", purchases)):
        median, worst = statistics.median(seconds) * 1000, max(seconds) * 1000
        report(f"{what}, commit with fsync", f"median {median:.1f} ms, worst of 100 {worst:.1f} ms")


async def test_recovery_of_a_sale(
    big_sale: Sale, open_worker: Any, report: Callable[[str, str], None]
) -> None:
    worker: Runtime = await open_worker()
    inventory = worker.current()
    batch = HoldBatch(inventory, worker.memory.clock.now())
    for item in range(5_000):
        batch.hold(item, item)
    granted = await worker.storage.hold(inventory.sale, batch.holds.values())
    await worker.storage.purchase(inventory.sale.id, [hold.code for hold in batch.holds.values()])
    assert granted.saved is not None
    assert len(granted.saved.rows) == 5_000
    began = time.perf_counter()
    successor: Runtime = await open_worker()
    report("recovery of 10,000 items, 5,000 sold", f"{(time.perf_counter() - began) * 1000:.0f} ms")
    assert successor.current().sold == 5_000


def refusals(inventory: Inventory) -> Iterator[float]:
    """Seconds for one refusal, measured over many, five times."""
    now, rounds = inventory.sale.starts_at + 1, 100_000
    for _ in range(5):
        began = time.perf_counter()
        for user in range(rounds):
            inventory.refusal(user, 5, now)
        yield (time.perf_counter() - began) / rounds


async def test_a_refusal_in_memory(
    big_sale: Sale, open_worker: Any, report: Callable[[str, str], None]
) -> None:
    worker: Runtime = await open_worker()
    inventory = worker.current()
    batch = HoldBatch(inventory, worker.memory.clock.now())
    hold = batch.hold(1, 5)
    granted = await worker.storage.hold(inventory.sale, [hold])
    assert granted.saved is not None
    inventory.learn(granted.saved.rows)
    inventory.learn((await worker.storage.purchase(inventory.sale.id, [hold.code])).rows)
    report("a refusal decided in memory", f"{min(refusals(inventory)) * 1e6:.2f} µs")


def holds(sale: SaleFacts) -> Iterator[tuple[float, float]]:
    """Seconds to decide one hold and to learn it, over all items of a sale, five times."""
    for _ in range(5):
        inventory = Inventory(sale, [])
        began = time.perf_counter()
        for start in range(0, sale.items, 100):
            batch = HoldBatch(inventory, sale.starts_at)
            for item in range(start, start + 100):
                batch.hold(item, item)
        decided = time.perf_counter()
        rows = [ItemRow(item, 1, HELD, item, sale.ends_at) for item in range(sale.items)]
        learning = time.perf_counter()
        inventory.learn(rows)
        yield (decided - began) / sale.items, (time.perf_counter() - learning) / sale.items


async def test_a_hold_in_memory(big_sale: Sale, open_worker: Any, report: Callable[[str, str], None]) -> None:
    worker: Runtime = await open_worker()
    decided, learnt = (min(times) * 1e6 for times in zip(*holds(worker.current().sale), strict=True))
    report("a hold decided in memory / learnt", f"{decided:.2f} µs / {learnt:.2f} µs")


def test_start_and_memory(make_service: MakeService, report: Callable[[str, str], None]) -> None:
    service = make_service(items=10_000, embedded=True)
    for what in ("a new database", "an existing database"):
        began = time.perf_counter()
        service.start()
        report(f"from runsale to ready, {what}", f"{time.perf_counter() - began:.1f} s")
        if what == "an existing database":
            for pid in service.workers():
                report("a worker's resident memory", f"{resident(pid):.0f} MB")
        assert service.stop() == 0
