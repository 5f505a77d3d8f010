"""Sales to be certified, and workers that do it."""

import asyncio
import time

import pytest

from sales import services
from sales.conf import SaleOptions
from sales.connections import connection_info
from sales.models import Sale
from sales.runtime import Runtime
from tests.integration.sales.certificate.shops import Shop, populate
from tests.support.database import Sql
from tests.support.shopping import MakeSale, OpenWorker
from tests.support.waiting import DEADLINE


@pytest.fixture
def shop(make_sale: MakeSale, sql: Sql, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """See `Shop`; each user may have four items."""
    monkeypatch.setattr("sales.limits.TICK", 3600)
    sale = make_sale(items=10, user_limit=4)
    return Shop(sale, sql, asyncio.run(populate(sale, sql)))


@pytest.fixture
def over(make_sale: MakeSale, sql: Sql) -> Sale:
    """A sale of ten items that was over yesterday: two are sold, a hold of user 9 was never swept."""
    sale = make_sale(items=10)
    asyncio.run(_sell())
    sql(
        """WITH item AS (
               UPDATE sales_saleitem SET held_until = held_until - interval '1 day',
                                         purchased_at = purchased_at - interval '1 day'),
           checkout AS (
               UPDATE sales_checkout SET created_at = created_at - interval '1 day',
                                         expires_at = expires_at - interval '1 day',
                                         purchased_at = purchased_at - interval '1 day')
           UPDATE sales_sale SET starts_at = starts_at - interval '1 day',
                                 ends_at = ends_at - interval '1 day'"""
    )
    sale.refresh_from_db()
    return sale


async def _sell() -> None:
    options = SaleOptions(items=10, user_limit=10, checkout_ttl=60, period=3600)
    async with Runtime(connection_info(), options) as worker:
        codes = [await services.checkout(worker, user_id=user, item_id=user) for user in (7, 8, 9)]
        for code in codes[:2]:
            await services.purchase(worker, code=code)


@pytest.fixture(autouse=True)
def nobodys_turn(sql: Sql) -> None:
    """The server takes a moment to notice that those of the last test are gone."""
    lock = """SELECT 1 FROM pg_locks WHERE locktype = 'advisory'
              AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""
    end = time.monotonic() + DEADLINE
    while sql(lock):
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def busy(open_worker: OpenWorker, monkeypatch: pytest.MonkeyPatch) -> OpenWorker:
    """`open_worker`, but they keep house all the time."""
    monkeypatch.setattr("sales.limits.TICK", 0.05)
    monkeypatch.setattr("sales.certifier.INTERVAL", 0.05)
    return open_worker
