"""Where a worker or a sale begins or ends."""

import asyncio

from sales import services
from sales.models import Sale
from sales.refusals import CHECKOUT_EXPIRED, ITEM_HELD, ITEM_SOLD, NO_SALE
from sales.runtime import Runtime
from tests.integration.sales.services.calls import gather, known
from tests.support.database import Sql
from tests.support.refusals import refuses
from tests.support.shopping import MakeSale, OpenWorker, age, buy
from tests.support.threads import in_thread


async def test_a_new_worker_recovers_what_was_sold_and_held(worker: Runtime, open_worker: OpenWorker) -> None:
    await buy(worker, 1, 1)
    await services.checkout(worker, user_id=1, item_id=2)
    successor = await open_worker()
    assert known(successor) == (1, 1, 98)
    for item, reason in ((1, ITEM_SOLD), (2, ITEM_HELD)):
        with refuses(reason):
            await services.checkout(successor, user_id=2, item_id=item)
    ends = await gather(*(services.checkout(successor, user_id=1) for _ in range(10)))
    assert ends == {"ok": 8, "user_limit": 2}


async def test_a_start_sweeps_what_a_service_that_is_gone_left(
    worker: Runtime, open_worker: OpenWorker, sql: Sql
) -> None:
    code = await services.checkout(worker, user_id=1, item_id=2)
    await asyncio.to_thread(age, sql, code)
    await open_worker()
    rows = await asyncio.to_thread(sql, "SELECT state FROM sales_checkout")
    assert rows == [("expired",)]


async def test_a_hold_of_the_ended_sale_is_bought_in_the_next(
    make_sale: MakeSale, sale: Sale, open_worker: OpenWorker, sql: Sql
) -> None:
    worker = await open_worker()
    kept = await services.checkout(worker, user_id=1, item_id=1)
    lost = await services.checkout(worker, user_id=1, item_id=2)
    await asyncio.to_thread(sql, "UPDATE sales_sale SET ends_at = now() WHERE id = %s", sale.pk)
    following = await in_thread(make_sale, started=0, lasts=3600)
    await worker.housekeeping.do_round()
    assert worker.current().sale.id == following.pk
    await services.purchase(worker, code=kept)
    await asyncio.to_thread(age, sql, lost)
    with refuses(CHECKOUT_EXPIRED):
        await services.purchase(worker, code=lost)
    fresh = await services.checkout(worker, user_id=1, item_id=1)  # the same number, another sale
    assert (await services.receipt(worker, code=fresh)).sale_id == following.pk
    assert (await services.status(worker, sale_id=sale.pk)).sold == 1


async def test_a_checkout_that_meets_the_boundary_goes_to_the_next_sale(
    make_sale: MakeSale, sale: Sale, open_worker: OpenWorker, sql: Sql
) -> None:
    """Decided in the old sale, it waits for its batch; when that is taken the sale has ended."""
    worker = await open_worker()
    following = await in_thread(make_sale, starts_at=sale.ends_at)
    await worker.housekeeping.do_round()
    assert worker.current().sale.id == sale.pk
    call = asyncio.create_task(services.checkout(worker, user_id=1, item_id=1))
    await asyncio.sleep(0)
    worker.memory.clock.offset += 7200
    code = await call
    assert (await services.receipt(worker, code=code)).sale_id == following.pk


async def test_a_sale_that_is_not_in_memory_is_told_from_the_database(
    worker: Runtime, sale: Sale, make_sale: MakeSale
) -> None:
    old = await in_thread(make_sale, started=90000, lasts=3600)
    status = await services.status(worker, sale_id=old.pk)
    assert (status.sale.id, status.sold, status.held, status.available) == (old.pk, 0, 0, 100)
    with refuses(NO_SALE):
        await services.status(worker, sale_id=999_999)


async def test_without_a_sale_now_there_is_no_sale(worker: Runtime) -> None:
    worker.memory.clock.offset -= 7200
    with refuses(NO_SALE):
        await services.checkout(worker, user_id=1)
    with refuses(NO_SALE):
        await services.status(worker)
    assert not worker.ready
