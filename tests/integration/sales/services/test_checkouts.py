"""Holds: which are granted, which are refused, and for what reason."""

import asyncio

import pytest

from sales import services
from sales.refusals import ALL_HELD, INVALID_PARAMETER, ITEM_HELD, ITEM_SOLD, PAUSED, SOLD_OUT, USER_LIMIT
from sales.runtime import Runtime
from tests.integration.sales.services.calls import gather, known
from tests.support.database import Sql
from tests.support.refusals import refuses
from tests.support.shopping import buy


async def test_a_checkout_holds_and_a_purchase_sells(worker: Runtime, sql: Sql) -> None:
    code = await services.checkout(worker, user_id=123, item_id=42)
    assert known(worker) == (0, 1, 99)
    await services.purchase(worker, code=code)
    assert known(worker) == (1, 0, 99)
    rows = await asyncio.to_thread(
        sql, "SELECT item_id, user_id, code, state FROM sales_saleitem WHERE state <> 'available'"
    )
    assert rows == [(42, 123, code, "sold")]


async def test_the_hold_is_a_row_when_the_code_is_told(worker: Runtime, sql: Sql) -> None:
    code = await services.checkout(worker, user_id=2**63 - 1)
    rows = await asyncio.to_thread(sql, "SELECT code, user_id, state FROM sales_checkout")
    assert rows == [(code, 2**63 - 1, "held")]


async def test_a_held_item_and_a_sold_item_are_told_apart(worker: Runtime) -> None:
    await services.checkout(worker, user_id=1, item_id=1)
    await buy(worker, 1, 2)
    with refuses(ITEM_HELD):
        await services.checkout(worker, user_id=2, item_id=1)
    with refuses(ITEM_SOLD):
        await services.checkout(worker, user_id=2, item_id=2)
    assert known(worker) == (1, 1, 98)


async def test_the_limit_counts_what_is_held_and_what_is_bought(worker: Runtime) -> None:
    for _ in range(5):
        await buy(worker, 7)
        await services.checkout(worker, user_id=7)
    with refuses(USER_LIMIT):
        await services.checkout(worker, user_id=7)
    assert known(worker) == (5, 5, 90)


async def test_a_batch_of_one_user_stops_at_the_limit(worker: Runtime) -> None:
    ends = await gather(*(services.checkout(worker, user_id=7) for _ in range(50)))
    assert ends == {"ok": 10, "user_limit": 40}


async def test_many_who_want_the_same_item_get_it_once(worker: Runtime) -> None:
    ends = await gather(*(services.checkout(worker, user_id=n, item_id=5) for n in range(50)))
    assert ends == {"ok": 1, "item_held": 49}


async def test_everything_is_sold_and_then_sold_out(worker: Runtime) -> None:
    ends = await gather(*(buy(worker, n) for n in range(150)))
    assert ends["ok"] == 100
    assert ends["ok"] + ends["all_held"] + ends["sold_out"] == 150
    with refuses(SOLD_OUT):
        await services.checkout(worker, user_id=999)
    assert known(worker) == (100, 0, 0)


async def test_all_held_is_not_sold_out(worker: Runtime) -> None:
    await gather(*(services.checkout(worker, user_id=n) for n in range(100)))
    with refuses(ALL_HELD) as refused:
        await services.checkout(worker, user_id=999)
    assert refused.value.reason.retry_after is not None
    assert 1 <= refused.value.reason.retry_after <= 61


@pytest.mark.parametrize(("user_id", "item_id"), [(-1, None), (2**63, None), (1, -1), (1, 100), (1, 10**20)])
async def test_out_of_range_is_refused(worker: Runtime, user_id: int, item_id: int | None) -> None:
    with refuses(INVALID_PARAMETER):
        await services.checkout(worker, user_id=user_id, item_id=item_id)
    assert known(worker) == (0, 0, 100)


async def test_a_paused_sale_grants_nothing_but_lets_holders_buy(worker: Runtime, sql: Sql) -> None:
    code = await services.checkout(worker, user_id=1)
    await asyncio.to_thread(sql, "UPDATE sales_sale SET paused = true")
    await worker.housekeeping.do_round()
    with refuses(PAUSED):
        await services.checkout(worker, user_id=2)
    assert (await services.status(worker)).sale.paused
    await services.purchase(worker, code=code)
    await asyncio.to_thread(sql, "UPDATE sales_sale SET paused = false")
    await worker.housekeeping.do_round()
    await services.checkout(worker, user_id=2)
