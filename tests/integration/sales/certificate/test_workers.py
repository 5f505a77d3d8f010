"""Workers write what is due beside the selling, and are never kept from it."""

import asyncio
import logging

import pytest

from sales import services
from sales.conf import SaleOptions
from sales.connections import connection_info
from sales.models import Sale
from sales.runtime import Runtime
from tests.integration.sales.certificate.written import elsewhere, until, until_written, written
from tests.support.database import Sql
from tests.support.shopping import MakeSale, OpenWorker
from tests.support.waiting import eventually

# Only the tables of sales are emptied after each test.
pytestmark = [
    pytest.mark.django_db(transaction=True, available_apps=["sales"]),
    pytest.mark.usefixtures("nobodys_turn"),
]


@pytest.mark.parametrize(("seconds", "due"), [(0, False), (55, False), (63, False), (67, True), (9999, True)])
async def test_a_sale_is_over_when_no_hold_can_be_left(
    worker: Runtime, sale: Sale, sql: Sql, seconds: int, due: bool
) -> None:
    """That is a minute for the holds and five seconds more; two are left to this machine."""
    await asyncio.to_thread(
        sql,
        """UPDATE sales_sale SET starts_at = starts_at - interval '1 day',
                                 ends_at = now() - make_interval(secs => %s)""",
        seconds,
    )
    assert await worker.storage.uncertified() == ([sale.pk] if due else [])


async def test_a_worker_certifies_what_was_over_while_none_ran(
    over: Sale, make_sale: MakeSale, busy: OpenWorker, sql: Sql
) -> None:
    older = await asyncio.to_thread(make_sale, started=10 * 86_400, lasts=3600)
    running = await asyncio.to_thread(make_sale)
    worker = await busy()
    await until_written(sql, over, older)
    assert worker.current().sale.id == running.pk
    assert await worker.storage.uncertified() == []


async def test_many_workers_write_each_certificate_once(
    over: Sale, make_sale: MakeSale, busy: OpenWorker, sql: Sql
) -> None:
    older = [await asyncio.to_thread(make_sale, started=n * 86_400, lasts=60, items=5) for n in range(3, 8)]
    await asyncio.gather(*(busy() for _ in range(6)))
    await until_written(sql, over, *older)


async def test_a_worker_certifies_a_sale_that_ends_under_it(
    make_sale: MakeSale, busy: OpenWorker, sql: Sql
) -> None:
    sale = await asyncio.to_thread(make_sale)
    worker = await busy()
    code = await services.checkout(worker, user_id=7)
    await services.purchase(worker, code=code)
    assert await asyncio.to_thread(written, sql) == []
    await asyncio.to_thread(
        sql,
        """UPDATE sales_sale SET starts_at = starts_at - interval '1 hour', checkout_ttl = 1,
                                 ends_at = now() - interval '10 seconds'""",
    )
    await until_written(sql, sale)
    assert sale.pk not in worker.memory.inventories
    document = await services.certificate(worker, sale_id=sale.pk)
    assert (document["holds"], document["sold"], document["available"]) == (True, 1, 99)


async def test_a_certificate_that_cannot_be_written_is_in_nobodys_way(
    over: Sale,
    sale: Sale,
    options: SaleOptions,
    busy: OpenWorker,
    sql: Sql,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its table takes no rows: the worker sells, keeps house and stops, and the next one writes it."""
    stuck = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'sales_salecertificate'::regclass"
    with elsewhere("LOCK TABLE sales_salecertificate IN SHARE MODE"):
        async with Runtime(connection_info(), options) as worker:
            await until(lambda: bool(sql(stuck)))
            await services.purchase(worker, code=await services.checkout(worker, user_id=7))
            await worker.housekeeping.do_round()
            assert worker.ready
    await busy()
    await until_written(sql, over)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_failure_is_logged_and_tried_again(
    over: Sale,
    sale: Sale,
    busy: OpenWorker,
    sql: Sql,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await asyncio.to_thread(sql, "ALTER TABLE sales_salecertificate ADD CONSTRAINT no_room CHECK (false)")
    try:
        worker = await busy()
        await eventually(lambda: "no certificate was written" in caplog.text)
        assert "no_room" in caplog.text
        assert worker.ready
        await services.checkout(worker, user_id=7)
    finally:
        await asyncio.to_thread(sql, "ALTER TABLE sales_salecertificate DROP CONSTRAINT no_room")
    await until_written(sql, over)
