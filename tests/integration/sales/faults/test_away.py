"""Nobody can reach the database for a while, or from some moment of a call on."""

import asyncio
from dataclasses import replace
from uuid import UUID

import pytest

from sales import services
from sales.conf import SaleOptions
from sales.models import Sale
from sales.refusals import DATABASE_UNAVAILABLE, ITEM_HELD, OUTCOME_UNKNOWN
from sales.runtime import Runtime
from tests.integration.sales.faults.cuts import ANSWER, REQUEST, Stored, connected
from tests.support.proxy import Proxy
from tests.support.refusals import refuses
from tests.support.shopping import buy, counts
from tests.support.waiting import eventually, until_it_works


async def test_a_lost_look_at_receipts_takes_no_purchase_back(
    worker: Runtime, proxy: Proxy, stored: Stored
) -> None:
    """The batch is committed; why one code of it was refused can no longer be asked."""
    old = await buy(worker, 1, 5)
    new = await services.checkout(worker, user_id=1, item_id=6)
    look = b"AS wanted (sale_id, code)"
    await connected(worker)
    proxy.cuts.append(replace(REQUEST, statement=look, lockout=True))
    calls = (services.purchase(worker, code=code) for code in (old, new))
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert [getattr(end, "reason", None) for end in ends] == [DATABASE_UNAVAILABLE, None]
    assert sorted(await stored()) == sorted([(old, "purchased"), (new, "purchased")])


@pytest.mark.parametrize("committed", [True, False], ids=["committed", "not committed"])
async def test_an_outcome_that_cannot_be_asked_is_called_unknown(
    worker: Runtime, proxy: Proxy, stored: Stored, committed: bool
) -> None:
    bought = await services.checkout(worker, user_id=1, item_id=5)
    given_back = await services.checkout(worker, user_id=1, item_id=6)
    calls = {
        "held": lambda: services.checkout(worker, user_id=1, item_id=7),
        "purchased": lambda: services.purchase(worker, code=bought),
        "released": lambda: services.release(worker, code=given_back),
    }
    for state, call in calls.items():
        await until_it_works(lambda: worker.storage.receipts([bought]))
        await connected(worker)
        proxy.cuts.append(replace(ANSWER if committed else REQUEST, lockout=True))
        with refuses(OUTCOME_UNKNOWN) as unknown:
            await call()
        proxy.refusing = False
        code = UUID(unknown.value.reason.members["code"])
        assert (unknown.value.reason.status, unknown.value.reason.name) == (503, "outcome_unknown")
        assert ((code, state) in await stored()) == committed
        if committed:
            receipt = await until_it_works(lambda code=code: services.receipt(worker, code=code))
            assert receipt.state == state
    assert await counts(worker) == ((1, 1, 98) if committed else (0, 2, 98))


async def test_a_database_that_is_away_refuses_and_comes_back_without_a_restart(
    worker: Runtime, proxy: Proxy, stored: Stored
) -> None:
    held = await services.checkout(worker, user_id=1, item_id=5)
    proxy.refusing = True
    proxy.end_all()
    with refuses(OUTCOME_UNKNOWN):  # it had a connection, which might have carried it
        await services.checkout(worker, user_id=2, item_id=6)
    for call in (
        lambda: services.checkout(worker, user_id=2, item_id=6),
        lambda: services.purchase(worker, code=held),
        lambda: services.release(worker, code=held),
        lambda: services.receipt(worker, code=held),
    ):
        with refuses(DATABASE_UNAVAILABLE):
            await call()
    await worker.housekeeping.do_round()
    assert not worker.ready
    with refuses(ITEM_HELD):  # memory still refuses what it knows
        await services.checkout(worker, user_id=2, item_id=5)
    assert await counts(worker) == (0, 1, 99)
    assert await stored() == [(held, "held")]

    proxy.refusing = False
    await until_it_works(lambda: services.purchase(worker, code=held))
    await until_it_works(lambda: services.checkout(worker, user_id=2, item_id=6))
    await worker.housekeeping.do_round()
    assert worker.ready


async def test_a_worker_that_starts_without_a_database_serves_once_it_is_there(
    sale: Sale, proxy: Proxy, options: SaleOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sales.limits.TICK", 0.05)
    monkeypatch.setattr("sales.limits.CONNECT_TIMEOUT", 0.5)
    proxy.refusing = True
    async with Runtime(proxy.url, options) as worker:
        assert not worker.ready
        with refuses(DATABASE_UNAVAILABLE):
            await services.checkout(worker, user_id=1)
        proxy.refusing = False
        await eventually(lambda: worker.ready)
        await services.checkout(worker, user_id=1)
