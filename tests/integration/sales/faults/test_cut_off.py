"""A request or its answer is lost, and what became of it can be asked."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from sales import services
from sales.refusals import ALREADY_PURCHASED
from sales.runtime import Runtime
from tests.integration.sales.faults.cuts import ANSWER, LATE, REQUEST, Stored, connected
from tests.support.database import Sql
from tests.support.proxy import Cut, Proxy
from tests.support.refusals import refuses
from tests.support.shopping import buy, counts


async def test_a_checkout_whose_answer_was_cut_off_is_found_committed(
    worker: Runtime, proxy: Proxy, stored: Stored
) -> None:
    proxy.cuts.append(ANSWER)
    code = await services.checkout(worker, user_id=1, item_id=5)
    assert await stored() == [(code, "held")]
    assert await counts(worker) == (0, 1, 99)
    await services.purchase(worker, code=code)


async def test_a_purchase_whose_answer_was_cut_off_is_found_committed(
    worker: Runtime, proxy: Proxy, stored: Stored
) -> None:
    code = await services.checkout(worker, user_id=1, item_id=5)
    proxy.cuts.append(ANSWER)
    await services.purchase(worker, code=code)
    assert await stored() == [(code, "purchased")]
    assert await counts(worker) == (1, 0, 99)
    with refuses(ALREADY_PURCHASED):
        await services.purchase(worker, code=code)


async def test_a_whole_batch_whose_answer_was_cut_off_gets_each_its_own(
    worker: Runtime, proxy: Proxy, stored: Stored
) -> None:
    proxy.cuts.append(ANSWER)
    codes = await asyncio.gather(*(services.checkout(worker, user_id=n, item_id=n) for n in range(20)))
    assert sorted(await stored()) == sorted((code, "held") for code in codes)


async def test_a_checkout_that_never_arrived_is_sent_again(
    worker: Runtime, proxy: Proxy, stored: Stored
) -> None:
    proxy.cuts.append(REQUEST)
    code = await services.checkout(worker, user_id=1, item_id=5)
    assert await stored() == [(code, "held")]
    assert await counts(worker) == (0, 1, 99)


async def test_a_purchase_that_never_arrived_is_sent_again(
    worker: Runtime, proxy: Proxy, stored: Stored
) -> None:
    code = await services.checkout(worker, user_id=1, item_id=5)
    proxy.cuts.append(REQUEST)
    await services.purchase(worker, code=code)
    assert await stored() == [(code, "purchased")]
    with refuses(ALREADY_PURCHASED):
        await services.purchase(worker, code=code)


@pytest.mark.parametrize("cut", [REQUEST, ANSWER], ids=["request", "answer"])
async def test_a_repeated_purchase_that_was_cut_off_is_not_answered_as_the_first(
    worker: Runtime, proxy: Proxy, stored: Stored, cut: Cut
) -> None:
    """Whoever ships by the answer would ship twice."""
    code = await buy(worker, 1, 5)
    proxy.cuts.append(cut)
    with refuses(ALREADY_PURCHASED):
        await services.purchase(worker, code=code)


async def test_a_release_that_never_arrived_is_sent_again(
    worker: Runtime, proxy: Proxy, stored: Stored
) -> None:
    code = await services.checkout(worker, user_id=1, item_id=5)
    for cut in REQUEST, ANSWER:
        await connected(worker)
        proxy.cuts.append(cut)
        await services.release(worker, code=code)
        assert await stored() == [(code, "released")]
    assert await counts(worker) == (0, 0, 100)


async def test_what_arrives_late_changes_nothing_more(
    worker: Runtime, proxy: Proxy, stored: Stored, sql: Sql
) -> None:
    """The worker has given the connection up and done it again: nothing can come of the first statement."""
    proxy.cuts.append(LATE)
    code = await services.checkout(worker, user_id=1, item_id=5)
    await services.release(worker, code=code)
    await proxy.deliver()
    assert await stored() == [(code, "released")]
    assert await counts(worker) == (0, 0, 100)

    code = await services.checkout(worker, user_id=1, item_id=5)
    await connected(worker)
    proxy.cuts.append(LATE)
    await services.purchase(worker, code=code)
    await proxy.deliver()
    assert (code, "purchased") in await stored()
    assert await counts(worker) == (1, 0, 99)
    assert await asyncio.to_thread(sql, "SELECT sum(taken) FROM sales_allowance") == [(1,)]


async def test_a_read_whose_idle_connection_broke_is_asked_again(
    worker: Runtime, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    """The server was restarted, and is there again: nobody needs to hear of it."""
    held = await services.checkout(worker, user_id=1, item_id=5, key="again")
    looks: list[Callable[[], Awaitable[Any]]] = [
        lambda: services.receipt(worker, code=held),
        lambda: services.checkout(worker, user_id=1, item_id=5, key="again"),
        lambda: worker.counts(worker.current().sale.id),
        lambda: worker.certificate(worker.current().sale.id),
        lambda: worker.storage.load(worker.current().sale.id),
        lambda: worker.storage.try_sweep(worker.current().sale.id, [5]),
        lambda: worker.storage.sweep_all(),
        lambda: worker.storage.uncertified(),
        lambda: worker.housekeeping.do_round(),
    ]
    for look in looks:
        await connected(worker)
        proxy.end_all(reset=False)
        await look()
    assert worker.ready
    assert caplog.text == ""
