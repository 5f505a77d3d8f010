"""Calls that wait for their batch, and what may happen to them meanwhile."""

import asyncio

import pytest

from sales import services
from sales.models import Sale
from sales.refusals import DRAINING, OVERLOADED
from sales.runtime import Runtime
from tests.integration.sales.services.calls import gather, known
from tests.support.lanes import commits_held
from tests.support.refusals import refuses
from tests.support.waiting import eventually


async def test_a_crowd_for_one_item_costs_one_batch_more(
    worker: Runtime, sale: Sale, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever depends on the first of them is refused when that is saved, without another commit."""
    monkeypatch.setattr("sales.limits.CHECKOUT_PATIENCE", 3600)
    async with commits_held(monkeypatch):
        first = asyncio.create_task(services.checkout(worker, user_id=1, item_id=1))
        await eventually(lambda: worker.saving.checkouts.statistics().running)
        crowd = [services.checkout(worker, user_id=n, item_id=5) for n in range(1000)]
        ends = asyncio.create_task(gather(*crowd))
        await eventually(lambda: worker.saving.checkouts.pending(sale.pk) == 1000)
    await first
    assert await ends == {"ok": 1, "item_held": 999}
    after = worker.saving.checkouts.statistics()
    assert (after.batches, after.operations) == (3, 1001)


async def test_purchases_go_before_checkouts_when_it_is_tight(
    worker: Runtime, sale: Sale, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sales.limits.MAX_PURCHASES", 5)
    held = [await services.checkout(worker, user_id=1, item_id=item) for item in range(8)]
    async with commits_held(monkeypatch):
        first = asyncio.create_task(services.purchase(worker, code=held[0]))
        await eventually(lambda: worker.saving.purchases.statistics().running)
        others = [asyncio.create_task(services.purchase(worker, code=code)) for code in held[1:]]
        await eventually(lambda: worker.saving.purchases.pending(sale.pk) == 7)
        with refuses(OVERLOADED):
            await services.checkout(worker, user_id=2, item_id=50)
    await asyncio.gather(first, *others)
    await services.checkout(worker, user_id=2, item_id=50)


async def test_a_checkout_that_has_waited_too_long_holds_nothing(
    worker: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with commits_held(monkeypatch):
        first = asyncio.create_task(services.checkout(worker, user_id=1, item_id=1))
        await eventually(lambda: worker.saving.checkouts.statistics().running)
        late = asyncio.create_task(services.checkout(worker, user_id=1, item_id=2))
        await eventually(lambda: worker.saving.checkouts.statistics().waiting)
        monkeypatch.setattr("sales.limits.CHECKOUT_PATIENCE", -1)
    await first
    with refuses(OVERLOADED):
        await late
    assert worker.current().held == 1


async def test_a_draining_worker_refuses_and_finishes_what_it_accepted(worker: Runtime) -> None:
    calls = [asyncio.create_task(services.checkout(worker, user_id=n)) for n in range(5)]
    await asyncio.sleep(0)
    worker.draining = True
    assert await gather(*calls) == {"ok": 5}
    with refuses(DRAINING):
        await services.checkout(worker, user_id=9)
    assert not worker.ready


async def test_a_caller_who_leaves_does_not_take_the_batch_along(worker: Runtime) -> None:
    calls = [asyncio.create_task(services.checkout(worker, user_id=n, item_id=n)) for n in range(10)]
    await asyncio.sleep(0)
    calls[3].cancel()
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert [n for n, end in enumerate(ends) if isinstance(end, asyncio.CancelledError)] == [3]
    sold, held, _ = known(worker)
    assert (sold, held) in ((0, 9), (0, 10))
