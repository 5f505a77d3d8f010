"""What a worker asks costs the same however large the tables are, and however small when it was planned."""

import asyncio
import json
from typing import Any
from uuid import UUID

import pytest

from sales import services, statements
from sales.models import Sale
from sales.runtime import Runtime
from tests.support.database import Sql
from tests.support.shopping import MakeSale, OpenWorker

MANY = 10_000
"""Sales that are over: more than a year of hours."""

DEEPER = 8
"""Blocks more that a statement may read because the indexes have become deeper."""

FULL = 100_000
"""Rows that a table is filled with."""

TABLES = ("saleitem", "checkout", "allowance", "idempotencykey")


# A year of hours, each certified, closed and with a few items; then rows of one more sale, in every state.
PAST_SALES = """
    INSERT INTO sales_sale (id, starts_at, ends_at, items, user_limit, checkout_ttl, paused, closed)
    SELECT 1000 + n, moment, moment + interval '1 hour', 3, 10, 60, false, true
    FROM generate_series(1, {many}) AS n,
         LATERAL (SELECT date_trunc('hour', now()) - n * interval '1 hour' - interval '1 day') AS at (moment);
    INSERT INTO sales_saleitem (id, sale_id, item_id, state, version)
    SELECT (1000 + n) * 16777216::bigint + item, 1000 + n, item, 'available', 0
    FROM generate_series(1, {many}) AS n, generate_series(0, 2) AS item;
    INSERT INTO sales_salecertificate (sale_id, issued_at, version, holds, document)
    SELECT 1000 + n, now(), '1', true, '{{"sold": 2}}' FROM generate_series(1, {many}) AS n
"""
MUCH = """
    INSERT INTO sales_sale (id, starts_at, ends_at, items, user_limit, checkout_ttl, paused, closed)
    VALUES (999, now() - interval '11 hours', now() - interval '10 hours', {full}, 10, 60, false, true);
    INSERT INTO sales_saleitem (id, sale_id, item_id, state, version, user_id, code, held_until)
    SELECT 999 * 16777216::bigint + n, 999, n, 'held', 1, n, gen_random_uuid(), now() + interval '1 day'
    FROM generate_series(0, {full} - 1) AS n;
    INSERT INTO sales_checkout (code, sale_id, item_id, user_id, created_at, expires_at, state)
    SELECT code, sale_id, item_id, user_id, now(), held_until, 'held'
    FROM sales_saleitem WHERE sale_id = 999;
    INSERT INTO sales_allowance (sale_id, user_id, taken, user_limit)
    SELECT 999, n, 1, 10 FROM generate_series(0, {full} - 1) AS n;
    INSERT INTO sales_idempotencykey (sale_id, user_id, key, code)
    SELECT 999, n, 'a', gen_random_uuid() FROM generate_series(0, {full} - 1) AS n
"""

PREPARED = "SELECT name, cardinality(parameter_types), statement FROM pg_prepared_statements"


@pytest.fixture
def sale(make_sale: MakeSale) -> Sale:
    """A sale, and the one after it."""
    sale = make_sale(items=2_000, user_limit=100)
    make_sale(items=500, starts_at=sale.ends_at)
    return sale


async def everything(worker: Runtime, user_id: int) -> None:
    """All that clients can have a worker ask of its tables."""
    codes: list[UUID] = []
    for key in (None, f"key {user_id}"):
        codes.append(await services.checkout(worker, user_id=user_id, key=key))
    await services.purchase(worker, code=codes[0])
    await services.receipt(worker, code=codes[0])
    await services.release(worker, code=codes[1])
    await services.status(worker)


async def plans(worker: Runtime) -> dict[str, str]:
    """The plans of what the connections of a worker have prepared, by statement."""
    found = {}
    pool = worker.storage._connections._pool
    connections = [await pool.getconn() for _ in range(pool.max_size)]
    try:
        for connection in connections:
            for name, parameters, statement in await (await connection.execute(PREPARED)).fetchall():
                if "sales_" in statement:
                    values = f"({', '.join(['NULL'] * parameters)})" if parameters else ""
                    cursor = await connection.execute(f"EXPLAIN EXECUTE {name} {values}")
                    found[statement] = "\n".join(line for (line,) in await cursor.fetchall())
    finally:
        for connection in connections:
            await pool.putconn(connection)
    return found


@pytest.mark.parametrize("rows", [0, FULL], ids=["empty", "full"])
async def test_no_statement_scans_a_table_even_if_it_was_planned_when_it_was_empty(
    sale: Sale, open_worker: OpenWorker, sql: Sql, rows: int
) -> None:
    worker = await open_worker()
    for user_id in range(20):  # prepared after the second time, on each connection
        await everything(worker, user_id)
        await worker.housekeeping.do_round()
    if rows:
        await asyncio.to_thread(sql, MUCH.format(full=rows))
        await everything(worker, 99)
    found = await plans(worker)
    for table in TABLES:
        assert any(f"on sales_{table}" in plan for plan in found.values()), f"nothing asks for {table}"
    scans = {plan for plan in found.values() for table in TABLES if f"Seq Scan on sales_{table}" in plan}
    assert not scans, "\n\n".join(scans)


async def blocks(worker: Runtime, statement: str, parameters: Any = None) -> int:
    """How many blocks of tables and indexes a statement reads, on a connection of a worker."""
    async with worker.storage._connections.lend() as connection:
        explained = f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {statement}"
        (document,) = (await (await connection.execute(explained, parameters)).fetchone()) or (None,)
        plan = (json.loads(document) if isinstance(document, str) else document)[0]["Plan"]
        return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


async def test_a_start_a_tick_and_a_sweep_cost_the_same_after_ten_thousand_sales(
    sale: Sale, open_worker: OpenWorker, sql: Sql
) -> None:
    asked = {
        "the sales of a worker": (statements.LIVE_SALES, None),
        "those to be swept at the start": (statements.STARTED, None),
        "those without a certificate": (statements.UNCERTIFIED, None),
        "the items of a sale": (statements.LOAD, {"sale": sale.pk, "first": 0, "most": 9_999}),
        "its changes": (statements.CHANGES, {"sale": sale.pk, "since": 3, "known": [], "ids": []}),
        "its sweep": (statements.SWEEP, {"sale": sale.pk, "batch": 1}),
        "a sale that is over": (statements.COUNTS, [[1001]]),
    }
    worker = await open_worker()
    await everything(worker, 1)
    before = {name: await blocks(worker, *question) for name, question in asked.items()}
    await asyncio.to_thread(sql, PAST_SALES.format(many=MANY))
    after = {name: await blocks(worker, *question) for name, question in asked.items()}
    grown = {name: (count, after[name]) for name, count in before.items() if after[name] > count + DEEPER}
    assert not grown
    late = await open_worker()
    assert set(late.memory.inventories) == set(worker.memory.inventories)
