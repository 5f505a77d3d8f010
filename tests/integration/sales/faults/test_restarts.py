"""The server was started again, and may have become another one."""

import asyncio
from collections.abc import Callable

from sales import services
from sales.inventory import HELD, ItemRow
from sales.records import Changed
from sales.refusals import UNKNOWN_CODE
from sales.runtime import Runtime
from tests.integration.sales.faults.cuts import Stored
from tests.support.database import Sql
from tests.support.refusals import refuses
from tests.support.shopping import buy, counts


async def test_a_server_that_was_started_again_is_known_anew(
    worker: Runtime, sql: Sql, stored: Stored, crash: Callable[[], None]
) -> None:
    """It may have become another one, that lacks the last commits of the one before."""
    lost = await services.checkout(worker, user_id=1, item_id=5)
    kept = await buy(worker, 1, 6)
    inventory = worker.current()
    await asyncio.to_thread(crash)
    for statement in (
        """UPDATE sales_saleitem SET state = 'available', user_id = NULL, code = NULL, held_until = NULL,
                  version = version - 1 WHERE item_id = 5""",
        "DELETE FROM sales_checkout WHERE item_id = 5",
        "UPDATE sales_allowance SET taken = taken - 1",
    ):
        await asyncio.to_thread(sql, statement)
    await worker.housekeeping.do_round()
    assert worker.ready
    assert await counts(worker) == (1, 0, 99)
    assert worker.current() is not inventory
    code = await services.checkout(worker, user_id=2, item_id=5)
    assert sorted(await stored()) == sorted([(kept, "purchased"), (code, "held")])
    with refuses(UNKNOWN_CODE):
        await services.receipt(worker, code=lost)


async def test_a_look_finds_out_that_the_server_was_started_again(
    worker: Runtime, sql: Sql, crash: Callable[[], None]
) -> None:
    """Those who ask for the counts do not wait for the next round of housekeeping."""
    await services.checkout(worker, user_id=1, item_id=5)
    await asyncio.to_thread(crash)
    await asyncio.to_thread(
        sql,
        """UPDATE sales_saleitem SET state = 'available', user_id = NULL, code = NULL, held_until = NULL,
                  version = version - 1 WHERE item_id = 5""",
    )
    assert await counts(worker) == (0, 0, 100)


async def test_nothing_is_learnt_of_a_server_that_a_sale_was_not_loaded_from(worker: Runtime) -> None:
    sale_id = worker.current().sale.id
    server = worker.memory._marks[sale_id].server
    row = ItemRow(5, 1, HELD, 1, worker.memory.clock.now() + 60)
    worker.memory.learn(Changed(server + 1, sale_id, 1, set(), [row]))
    assert worker.current().held == 0
    worker.memory.learn(Changed(server, sale_id, 2, set(), [row]))
    assert worker.current().held == 1
