"""The migration to keys by sale keeps every row, in both directions, and never runs beside a service."""

import asyncio
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from flashsale_project.management.migration import migrate
from sales import services
from sales.certificate import certify, issue
from sales.codes import new_code
from sales.conf import SaleOptions
from sales.connections import connection_info
from sales.models import Sale, SaleCertificate, SaleItem
from sales.rotation import create_sale
from sales.runtime import Runtime
from tests.support.database import Sql

pytestmark = pytest.mark.django_db(transaction=True, available_apps=["sales"])

OPTIONS = SaleOptions(items=10, user_limit=10, checkout_ttl=60, period=3600)

STATES = {0: "purchased", 1: "purchased", 2: "held", 3: "held", 4: "expired", 5: "released"}
"""What became of the last hold of each item; of the others there was none."""


@pytest.fixture(autouse=True)
def migrated_again(transactional_db: None) -> Iterator[None]:
    """Whatever a test leaves, the tables are there for the next."""
    yield
    call_command("migrate", verbosity=0)
    connection.close()


def everything(sql: Sql) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table that there is before and after."""
    columns = {
        "sale": "*",
        "saleitem": "id, sale_id, item_id, state, version, user_id, code, held_until, purchased_at",
        "checkout": "code, sale_id, item_id, user_id, created_at, expires_at, purchased_at, state",
        "allowance": "sale_id, user_id, taken, user_limit",
        "idempotencykey": "sale_id, user_id, key, item_id, code",
        "salecertificate": "sale_id, holds, document::text",
    }
    return {
        table: sql(f"SELECT {named} FROM sales_{table} ORDER BY 1, 2") for table, named in columns.items()
    }


def keys(sql: Sql) -> list[str]:
    """The primary keys of items and of checkouts."""
    found = sql(
        """SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'p'
           AND conrelid IN ('sales_saleitem'::regclass, 'sales_checkout'::regclass) ORDER BY 1"""
    )
    return [text for (text,) in found]


def populate(sql: Sql) -> tuple[Sale, dict[int, UUID]]:
    """In the tables as they were: a sale that is over and certified, and one with items in every state."""
    now = datetime.now(UTC)
    over = create_sale(new(now - timedelta(days=1)))
    certificate = issue(over)
    assert certificate is not None
    assert certificate.holds
    sale = create_sale(new(now - timedelta(minutes=5)))
    codes = {item: new_code(sale.pk, item) for item in STATES}
    call_command("migrate", "sales", "0006", verbosity=0)
    for item, state in STATES.items():
        bought = state == "purchased"
        sql(
            """INSERT INTO sales_checkout
                   (code, sale_id, item_id, user_id, created_at, expires_at, state, purchased_at, batch)
               VALUES (%s, %s, %s, 7, now(), now() + interval '1 hour', %s,
                       CASE WHEN %s THEN now() + interval '1 second' END, 1)""",
            *(codes[item], sale.pk, item, state, bought),
        )
        if bought or state == "held":
            sql(
                """UPDATE sales_saleitem AS item SET state = %s, version = version + 1, user_id = 7,
                       code = checkout.code, held_until = expires_at, purchased_at = checkout.purchased_at
                   FROM sales_checkout AS checkout WHERE checkout.code = %s AND item.id = %s""",
                *("sold" if bought else "held", codes[item], SaleItem.id_of(sale.pk, item)),
            )
    sql("INSERT INTO sales_allowance (sale_id, user_id, taken, user_limit) VALUES (%s, 7, 4, 10)", sale.pk)
    sql(
        "INSERT INTO sales_idempotencykey (sale_id, user_id, key, code) VALUES (%s, 7, 'k', %s)",
        *(sale.pk, codes[2]),
    )
    return sale, codes


def new(starts_at: datetime) -> Sale:
    return Sale(
        starts_at=starts_at, ends_at=starts_at + timedelta(hours=1), items=10, user_limit=10, checkout_ttl=60
    )


async def buy(*bought: UUID, told: dict[int, UUID]) -> dict[int, str]:
    """Buy what is held; what everybody is told of their holds then."""
    async with Runtime(connection_info(), OPTIONS) as worker:
        for code in bought:
            await services.purchase(worker, code=code)
        assert await services.checkout(worker, user_id=7, key="k") == told[2]
        receipts = {item: await services.receipt(worker, code=code) for item, code in told.items()}
        return {item: receipt.state for item, receipt in receipts.items()}


def test_rows_stay_as_they_are_and_what_was_held_is_sold(sql: Sql) -> None:
    sale, codes = populate(sql)
    assert keys(sql) == ["PRIMARY KEY (code)", "PRIMARY KEY (id)"]
    before = everything(sql)
    call_command("migrate", "sales", verbosity=0)
    assert keys(sql) == ["PRIMARY KEY (sale_id, code)", "PRIMARY KEY (sale_id, id)"]
    assert everything(sql) == before
    assert certify(sale).is_valid
    assert SaleCertificate.objects.get().holds
    connection.close()
    assert asyncio.run(buy(codes[2], told=codes)) == STATES | {2: "purchased"}
    assert certify(sale).is_valid


def test_backwards_purchases_are_marked_that_only_their_items_tell(sql: Sql) -> None:
    sale, codes = populate(sql)
    before = everything(sql)
    call_command("migrate", "sales", verbosity=0)
    sql(
        "UPDATE sales_checkout SET state = 'held', purchased_at = NULL WHERE code = ANY(%s)",
        [codes[0], codes[1]],
    )
    assert certify(sale).is_valid
    call_command("migrate", "sales", "0006", verbosity=0)
    assert keys(sql) == ["PRIMARY KEY (code)", "PRIMARY KEY (id)"]
    assert everything(sql) == before
    call_command("migrate", "sales", verbosity=0)
    assert everything(sql) == before
    assert certify(sale).is_valid


def test_it_is_refused_beside_a_worker_and_changes_nothing(sql: Sql) -> None:
    populate(sql)
    before = everything(sql), keys(sql)
    info = psycopg.conninfo.make_conninfo(connection_info(), application_name="flashsale worker")
    with closing(psycopg.connect(info, autocommit=True)):
        for run in (lambda: call_command("migrate", "sales", stdout=StringIO()), migrate):
            with pytest.raises(CommandError, match="cannot run beside a service: stop every service"):
                run()
            connection.close()
            assert (everything(sql), keys(sql)) == before
    migrate()
    assert keys(sql) == ["PRIMARY KEY (sale_id, code)", "PRIMARY KEY (sale_id, id)"]
