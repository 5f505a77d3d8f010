"""Holds whose time is over, by the clock of the database."""

import asyncio

from sales import services
from sales.refusals import CHECKOUT_EXPIRED, OVERLOADED
from sales.runtime import Runtime
from tests.integration.sales.services.calls import gather, known
from tests.support.database import Sql
from tests.support.refusals import refuses
from tests.support.shopping import age, buy


async def test_a_clock_that_was_set_back_harms_no_purchase(worker: Runtime, sql: Sql) -> None:
    """The hold was granted after what the database now calls now."""
    codes = [await services.checkout(worker, user_id=1, item_id=item) for item in range(2)]
    await asyncio.to_thread(
        sql,
        "UPDATE sales_checkout SET created_at = created_at + interval '2 seconds' WHERE code = %s",
        codes[0],
    )
    await asyncio.gather(*(services.purchase(worker, code=code) for code in codes))


async def test_an_expired_hold_cannot_be_bought_and_is_free_again(worker: Runtime, sql: Sql) -> None:
    code = await services.checkout(worker, user_id=1, item_id=3)
    await asyncio.to_thread(age, sql, code)
    assert (await services.receipt(worker, code=code)).state == "expired"  # nobody has swept it yet
    with refuses(CHECKOUT_EXPIRED):
        await services.purchase(worker, code=code)
    await worker.housekeeping.do_round()
    assert known(worker) == (0, 0, 100)
    await buy(worker, 2, 3)
    with refuses(CHECKOUT_EXPIRED):
        await services.purchase(worker, code=code)


async def test_memory_takes_an_expired_item_before_any_sweep(worker: Runtime, sql: Sql) -> None:
    code = await services.checkout(worker, user_id=1, item_id=3)
    await asyncio.to_thread(age, sql, code)
    await worker.memory.refresh(worker.current())  # knows the row, has not swept it
    second = await services.checkout(worker, user_id=2, item_id=3)
    assert (await services.receipt(worker, code=code)).state == "expired"
    assert (await services.receipt(worker, code=second)).state == "held"


async def test_expired_holds_give_the_user_their_allowance_back(worker: Runtime, sql: Sql) -> None:
    codes = [await services.checkout(worker, user_id=7) for _ in range(10)]
    await asyncio.to_thread(age, sql, *codes)
    await worker.memory.refresh(worker.current())
    ends = await gather(*(services.checkout(worker, user_id=7) for _ in range(12)))
    assert ends == {"ok": 10, "user_limit": 2}


async def test_the_database_decides_what_is_over_not_the_worker(worker: Runtime) -> None:
    code = await services.checkout(worker, user_id=1, item_id=3)
    worker.memory.clock.offset += 120  # this worker believes that the hold is over
    with refuses(OVERLOADED):  # it does not know who has the item
        await services.checkout(worker, user_id=2, item_id=3)
    await services.purchase(worker, code=code)
