"""A worker's own rotation: an hour's sales are made half an hour ahead."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from sales import services
from sales.certificate import certify
from sales.models import Sale
from sales.runtime import Runtime
from tests.integration.sales.rotation.times import YEAR
from tests.support.database import Sql
from tests.support.shopping import MakeSale, OpenWorker
from tests.support.threads import in_thread


async def known(worker: Runtime) -> list[tuple[float, float]]:
    """The sales that a worker knows."""
    sales = [inventory.sale for inventory in worker.memory.inventories.values()]
    return sorted((sale.starts_at, sale.ends_at) for sale in sales)


async def sales_in_database(sql: Sql) -> list[tuple[float, float]]:
    return await asyncio.to_thread(
        sql,
        """SELECT extract(epoch FROM starts_at)::float8, extract(epoch FROM ends_at)::float8
           FROM sales_sale ORDER BY starts_at""",
    )


async def end_in(sql: Sql, sale: Sale, seconds: int) -> float:
    """Move the end of a sale, and return it."""
    statement = """UPDATE sales_sale SET ends_at = clock_timestamp() + make_interval(secs => %s)
                   WHERE id = %s RETURNING extract(epoch FROM ends_at)::float8"""
    return (await asyncio.to_thread(sql, statement, seconds, sale.pk))[0][0]


async def test_a_worker_that_finds_no_sale_makes_the_current_and_the_next(
    open_worker: OpenWorker, sql: Sql
) -> None:
    worker = await open_worker()
    (first, second) = await sales_in_database(sql)
    assert await known(worker) == [first, second]
    assert worker.ready
    assert first[0] <= worker.memory.clock.now() < first[1] == second[0]
    assert [start % 3600 for start, _ in (first, second)] == [0, 0]
    assert (worker.current().sale.starts_at, worker.memory.next_starts_at()) == (first[0], second[0])
    status = await services.status(worker)
    assert (status.available, status.next_starts_at) == (20, second[0])


async def test_a_worker_makes_the_next_sale_when_the_end_is_near(
    sale: Sale, open_worker: OpenWorker, sql: Sql
) -> None:
    worker = await open_worker()
    end = await end_in(sql, sale, 1700)
    await worker.housekeeping.do_round()
    current, following = await sales_in_database(sql)
    assert current[1] == end == following[0]
    assert following[1] % 3600 == 0
    assert 0 < following[1] - end <= 3600
    assert await known(worker) == [current, following]
    assert worker.current().sale.id == sale.pk
    assert worker.memory.next_starts_at() == end
    (next_sale,) = (i for i in worker.memory.inventories.values() if i.sale.id != sale.pk)
    assert (next_sale.sale.items, next_sale.sold, next_sale.held) == (20, 0, 0)


async def test_a_worker_makes_no_sale_while_the_end_is_far(
    sale: Sale, open_worker: OpenWorker, sql: Sql
) -> None:
    worker = await open_worker()
    end = await end_in(sql, sale, 1900)
    await worker.housekeeping.do_round()
    assert await sales_in_database(sql) == await known(worker) == [(sale.starts_at.timestamp(), end)]
    assert worker.memory.next_starts_at() == end


async def test_the_end_that_counts_is_that_of_the_last_sale_that_follows(
    make_sale: MakeSale, sale: Sale, open_worker: OpenWorker, sql: Sql
) -> None:
    worker = await open_worker()
    end = await end_in(sql, sale, 60)
    following = await in_thread(make_sale, starts_at=datetime.fromtimestamp(end, UTC))
    await worker.housekeeping.do_round()
    assert [start for start, _ in await sales_in_database(sql)] == [sale.starts_at.timestamp(), end]
    assert worker.memory.next_starts_at() == end
    assert sorted(worker.memory.inventories) == [sale.pk, following.pk]


async def test_a_gap_after_the_current_sale_is_filled_when_its_end_is_near(
    make_sale: MakeSale, sale: Sale, open_worker: OpenWorker, sql: Sql
) -> None:
    worker = await open_worker()
    end = await end_in(sql, sale, 60)
    later = datetime.fromtimestamp(end + 5, UTC)
    await in_thread(make_sale, starts_at=later)
    await worker.housekeeping.do_round()
    assert [start for start, _ in await sales_in_database(sql)] == [
        sale.starts_at.timestamp(),
        end,
        later.timestamp(),
    ]
    filled = (await sales_in_database(sql))[1]
    assert filled[1] <= later.timestamp()
    assert worker.memory.next_starts_at() == end


async def test_keeping_house_again_makes_no_more(sale: Sale, open_worker: OpenWorker, sql: Sql) -> None:
    worker = await open_worker()
    await end_in(sql, sale, 1700)
    await worker.housekeeping.do_round()
    before = await sales_in_database(sql)
    for _ in range(3):
        await worker.housekeeping.do_round()
    after = await sales_in_database(sql)
    # The next sale is cut at the full hour: where that is near too, it is followed by nothing yet.
    assert after == before
    assert len(after) == 2


async def test_workers_that_keep_house_at_once_make_one_next_sale(
    sale: Sale, open_worker: OpenWorker, sql: Sql
) -> None:
    workers = [await open_worker() for _ in range(4)]
    end = await end_in(sql, sale, 1700)
    await asyncio.gather(*(worker.housekeeping.do_round() for worker in workers))
    current, following = await sales_in_database(sql)
    assert following[0] == current[1] == end
    assert [await known(worker) for worker in workers] == [[current, following]] * 4
    assert await asyncio.to_thread(sql, "SELECT count(*) FROM sales_saleitem") == [(120,)]


async def test_a_sale_that_a_worker_made_is_sold_and_certified(open_worker: OpenWorker, sql: Sql) -> None:
    worker = await open_worker()
    await services.purchase(worker, code=await services.checkout(worker, user_id=1))
    certificate = await in_thread(_certificate_of, worker.current().sale.id)
    assert certificate.is_valid
    assert (certificate.sold, certificate.available) == (1, 19)


async def test_next_starts_at_is_the_first_start_to_come(
    make_sale: MakeSale, sale: Sale, open_worker: OpenWorker
) -> None:
    """By what this worker knows: then, or at the end of the current sale, or unknown."""
    following = await in_thread(make_sale, starts_at=sale.ends_at + timedelta(seconds=30))
    worker = await open_worker()
    assert worker.memory.next_starts_at() == following.starts_at.timestamp()
    worker.memory.clock.offset += 7150  # the current sale has ended, the other has not begun
    assert worker.memory.next_starts_at() == following.starts_at.timestamp()
    worker.memory.clock.offset += 60
    assert worker.memory.next_starts_at() == following.ends_at.timestamp()
    worker.memory.clock.offset += YEAR
    assert worker.memory.next_starts_at() is None


def _certificate_of(sale_id: int) -> Any:
    return certify(Sale.objects.get(pk=sale_id))
