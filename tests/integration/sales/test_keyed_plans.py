"""How a worker's connections look rows up: each by its whole key, whatever the tables are like."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
import pytest

from sales import statements
from sales.codes import new_code
from sales.connections import connection_info
from sales.models import Sale, SaleItem
from tests.integration.sales.test_plans import MUCH, PAST_SALES, PREPARED
from tests.support.database import Sql
from tests.support.shopping import MakeSale

KEYS = {
    "sales_saleitem": ("sale_id", "id"),
    "sales_checkout": ("sale_id", "code"),
    "sales_allowance": ("sale_id", "user_id"),
    "sales_idempotencykey": ("sale_id", "user_id"),
    "sales_change": ("sale_id",),
    "sales_sale": ("id",),
}
"""What each table is looked up by; of the changes of a sale those after a mark, or all."""

BATCH = 100


@pytest.fixture
def sale(make_sale: MakeSale) -> Sale:
    """Of fewer items the planner goes through all, which is as good."""
    return make_sale(items=1_000)


@pytest.fixture
async def connection(sale: Sale) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """A connection as those of a worker are set."""
    async with await psycopg.AsyncConnection.connect(connection_info(), autocommit=True) as connection:
        await connection.execute(statements.SETTINGS)
        yield connection


def batches(sale: Sale) -> Iterator[tuple[str, str, Any]]:
    """Every statement for a batch, with its parameters."""
    items = list(range(BATCH))
    ids = [SaleItem.id_of(sale.pk, item) for item in items]
    codes = [new_code(sale.pk, item) for item in items]
    settled = {"sale": sale.pk, "batch": 1, "ids": ids, "codes": codes}
    for name in ("PURCHASE", "RELEASE", "MARK", "SWEEP_KNOWN", "TRY_EXPIRE", "HELD", "BOUGHT"):
        yield name, getattr(statements, name), settled
    yield "RECEIPT", statements.RECEIPT, {"sales": [sale.pk] * BATCH, "codes": codes}
    keyed = {"sale": sale.pk, "users": items, "keys": ["a"] * BATCH}
    yield "KEYED", statements.KEYED, keyed
    yield "OVER_LIMIT", statements.OVER_LIMIT, [items, sale.pk, sale.pk]
    yield "CHANGES", statements.CHANGES, {"sale": sale.pk, "since": 3, "known": [], "ids": ids}
    update, hold = statements.hold(sale.pk, 60, keyed=True)
    rows = ((pk, 99, 7, code) for pk, code in zip(ids, codes, strict=True))
    after = [sale.pk, sale.pk, sale.pk, 1, sale.pk, codes, ["a"] * BATCH, items]
    yield "hold", hold, [*update.parameters(rows), *after]


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes(part)


def wrong(plan: dict[str, Any]) -> list[str]:
    """How a plan looks tables up other than by their whole keys, beginning with the batch."""
    found = []
    for node in nodes(plan):
        if node["Node Type"] in ("Hash Join", "Merge Join"):
            found.append(node["Node Type"])
        table = node.get("Relation Name", "")
        if not table.startswith("sales_") or node["Node Type"] in ("ModifyTable", "LockRows"):
            continue
        condition = node.get("Index Cond", "")
        if "Scan" not in node["Node Type"] or not all(f"({column} " in condition for column in KEYS[table]):
            found.append(f"{node['Node Type']} of {table}: {condition}")
    return found


# Each sold one item, to a user of its own.
LITTLE = """;
    INSERT INTO sales_checkout (code, sale_id, item_id, user_id, created_at, expires_at, state)
    SELECT gen_random_uuid(), id, 0, id, now(), now(), 'held' FROM sales_sale;
    INSERT INTO sales_allowance (sale_id, user_id, taken, user_limit) SELECT id, id, 1, 10 FROM sales_sale
"""
SIZES = {
    "empty": "SELECT",
    "full": MUCH.format(full=100_000),
    "very full": MUCH.format(full=300_000),
    "a thousand sales": PAST_SALES.format(many=1_000) + LITTLE,
}


# Who analyzes tables while there is nothing in them gets plans for that, until they are analyzed with
# something in them, as PostgreSQL does by itself within a minute.
@pytest.mark.parametrize(
    ("size", "analyzed"), [("empty", False), *((s, a) for s in list(SIZES)[1:] for a in (False, True))]
)
async def test_a_batch_looks_rows_up_by_their_whole_keys(
    sale: Sale,
    sql: Sql,
    connection: psycopg.AsyncConnection[Any],
    size: str,
    analyzed: bool,
) -> None:
    await asyncio.to_thread(sql, SIZES[size])
    if analyzed:
        await asyncio.to_thread(sql, "ANALYZE sales_sale, sales_saleitem, sales_checkout, sales_allowance")
    found = {}
    for name, statement, parameters in batches(sale):
        await connection.execute("DEALLOCATE ALL", prepare=False)
        await connection.execute(statement, parameters, prepare=True)
        cursor = await connection.execute(PREPARED, prepare=False)
        ((prepared, count, _),) = [row for row in await cursor.fetchall() if "sales_" in row[2]]
        cursor = await connection.execute(
            f"EXPLAIN (FORMAT JSON) EXECUTE {prepared} ({', '.join(['NULL'] * count)})"
        )
        (document,) = await cursor.fetchone() or (None,)
        plan = (json.loads(document) if isinstance(document, str) else document)[0]["Plan"]
        if how := wrong(plan):
            found[name] = how
    assert found == {}
