"""The certificate of a healthy sale, at rest and while it is sold."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg
import pytest
from django.db import connection

from sales import services
from sales.certificate import Certificate, certify
from sales.connections import connection_info
from sales.models import Sale
from sales.statements import INVARIANTS
from tests.integration.sales.certificate.shops import (
    ALLOWANCE,
    EVERY_ITEM,
    HELD_BY_CHECKOUT,
    LIMIT,
    SOLD_BY_CHECKOUT,
    Shop,
)
from tests.support.database import Sql
from tests.support.outcomes import CHECKOUTS
from tests.support.shopping import MakeSale, OpenWorker, age
from tests.support.waiting import DEADLINE

# Only the tables of sales are emptied after each test.
pytestmark = pytest.mark.django_db(transaction=True, available_apps=["sales"])


def test_a_healthy_sale_in_every_state_is_certified(shop: Shop) -> None:
    certificate = certify(shop.sale)
    assert certificate.is_valid
    assert [finding.invariant for finding in certificate.findings] == list(INVARIANTS)
    assert [(finding.broken, finding.examples) for finding in certificate.findings] == [(0, [])] * 9
    assert certificate.sale == shop.sale
    assert (certificate.sold, certificate.held, certificate.expired, certificate.available) == (3, 1, 1, 5)
    assert certificate.users == 2
    states = shop.sql(f"SELECT state, count(*) FROM {CHECKOUTS} GROUP BY state ORDER BY state")
    assert states == [("expired", 1), ("held", 2), ("purchased", 3), ("released", 1)]


def test_a_sale_that_nobody_has_touched_is_certified(sale: Sale) -> None:
    certificate = certify(sale)
    assert certificate.is_valid
    assert (certificate.sold, certificate.held, certificate.expired, certificate.available) == (0, 0, 0, 100)
    assert certificate.users == 0


def test_it_is_issued_at_the_databases_time(sale: Sale, sql: Sql) -> None:
    ((before,),) = sql("SELECT clock_timestamp()")
    certificate = certify(sale)
    ((after,),) = sql("SELECT clock_timestamp()")
    assert before <= certificate.issued_at <= after


def test_a_hold_that_expires_moves_from_held_to_expired(shop: Shop) -> None:
    age(shop.sql, shop.codes[2])
    certificate = certify(shop.sale)
    assert certificate.is_valid
    assert (certificate.sold, certificate.held, certificate.expired, certificate.available) == (3, 0, 2, 5)


def test_certifying_writes_nothing_and_leaves_the_connection_as_it_was(shop: Shop) -> None:
    query = """SELECT xmin::text, ctid::text, * FROM sales_saleitem ORDER BY id"""
    before = shop.sql(query)
    certify(shop.sale)
    with connection.cursor() as cursor:
        cursor.execute("SHOW transaction_read_only")
        assert cursor.fetchone() == ("off",)
        cursor.execute("SHOW transaction_isolation")
        assert cursor.fetchone() == ("read committed",)
    assert shop.sql(query) == before


def test_the_damage_of_another_sale_is_its_own(shop: Shop, make_sale: MakeSale) -> None:
    other = make_sale(items=10, starts_at=shop.sale.ends_at)
    shop.damage(
        "DELETE FROM sales_checkout WHERE sale_id = %(sale)s",
        "DELETE FROM sales_allowance WHERE sale_id = %(sale)s",
        "DELETE FROM sales_saleitem WHERE sale_id = %(sale)s AND item_id = 9",
    )
    assert set(shop.broken()) == {EVERY_ITEM, SOLD_BY_CHECKOUT, HELD_BY_CHECKOUT, ALLOWANCE}
    certificate = certify(other)
    assert certificate.is_valid
    assert certificate.available == 10


async def test_a_sale_is_certified_while_it_is_sold(
    make_sale: MakeSale, open_worker: OpenWorker, sql: Sql
) -> None:
    sale = await asyncio.to_thread(make_sale, items=2000)
    workers = [await open_worker() for _ in range(2)]
    ended = threading.Event()
    certificates: list[Certificate] = []

    def certify_all_the_time() -> None:
        try:
            while not ended.is_set():
                certificates.append(certify(sale))
        finally:
            connection.close()

    async def shop(user: int) -> None:
        worker = workers[user % 2]
        for settle in (services.purchase, services.release, services.purchase):
            await settle(worker, code=await services.checkout(worker, user_id=user))

    users = 0
    certifier = asyncio.create_task(asyncio.to_thread(certify_all_the_time))
    try:
        while users < 900 and len({certificate.sold for certificate in certificates}) < 3:
            await asyncio.gather(*(shop(user) for user in range(users, users + 20)))
            users += 20
    finally:
        ended.set()
        await certifier
    assert len({certificate.sold for certificate in certificates}) >= 3, "it did not run meanwhile"
    assert [finding for c in certificates for finding in c.findings if finding.broken] == []
    assert {c.sold + c.held + c.expired + c.available for c in certificates} == {2000}
    sold = [certificate.sold for certificate in certificates]
    assert sold == sorted(sold)
    assert await asyncio.to_thread(sql, "SELECT count(*) FROM sales_saleitem WHERE state = 'sold'") == [
        (2 * users,)
    ]


def test_what_is_committed_while_it_is_being_issued_does_not_count(shop: Shop) -> None:
    """All invariants are judged on the snapshot that the counts are from."""

    def certify_and_close() -> Certificate:
        try:
            return certify(shop.sale)
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as threads, closing(psycopg.connect(connection_info())) as other:
        other.execute("LOCK TABLE sales_allowance IN ACCESS EXCLUSIVE MODE")
        issuing = threads.submit(certify_and_close)
        deadline = time.monotonic() + DEADLINE
        # It has counted the items, and waits before it reads the allowances.
        while not shop.sql(
            "SELECT 1 FROM pg_locks WHERE relation = 'sales_allowance'::regclass AND NOT granted"
        ):
            assert time.monotonic() < deadline
        other.execute("UPDATE sales_allowance SET taken = 4 WHERE user_id = 7")
        other.execute("UPDATE sales_sale SET user_limit = 1")
        other.commit()
        certificate = issuing.result(DEADLINE)
    assert certificate.is_valid
    assert set(shop.broken()) == {ALLOWANCE, LIMIT}
