"""PostgreSQL and the model of it, with the same methods."""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, LiteralString
from uuid import UUID

import psycopg

from sales import statements
from sales.connections import connection_info
from sales.models import Sale as SaleModel
from sales.refusals import DatabaseUnavailable
from sales.storage import Storage
from tests.simulation.connection import Pool
from tests.simulation.database import DEADLOCK_TIMEOUT, Database
from tests.simulation.loop import SimulatedLoop
from tests.simulation.rows import Sale
from tests.simulation.server import Server
from tests.simulation.sql import run_statement
from tests.simulation.transaction import KeyUsed, LimitExceeded, Transaction
from tests.support.waiting import eventually

Call = Callable[[Storage], Awaitable[Any]]
Statement = tuple[str, Any]

MOVE = """
    WITH item AS (
        UPDATE sales_saleitem SET held_until = held_until + make_interval(secs => %s), version = version + 1
        WHERE code = %s AND state = 'held' RETURNING sale_id, item_id, code
    ), noted AS (
        INSERT INTO sales_change (sale_id, xid, batch, item_ids)
        SELECT sale_id, pg_current_xact_id()::text::bigint, 0, ARRAY[item_id] FROM item
    )
    UPDATE sales_checkout AS checkout SET created_at = created_at + make_interval(secs => %s),
                                          expires_at = expires_at + make_interval(secs => %s)
    FROM item WHERE checkout.sale_id = item.sale_id AND checkout.code = item.code
"""

LOCK = "SELECT FROM sales_saleitem WHERE id = %s FOR UPDATE"

TABLES: list[LiteralString] = [
    "SELECT id, version, state, user_id, code, purchased_at IS NULL FROM sales_saleitem ORDER BY id",
    """SELECT code, sale_id, item_id, user_id, state, purchased_at = created_at
       FROM sales_checkout ORDER BY code""",
    "SELECT sale_id, user_id, taken FROM sales_allowance WHERE taken > 0 ORDER BY sale_id, user_id",
    "SELECT sale_id, user_id, key, item_id, code FROM sales_idempotencykey ORDER BY sale_id, user_id, key",
    "SELECT sale_id, batch, item_ids FROM sales_change ORDER BY xid, sale_id, batch",
]


class Real:
    """PostgreSQL, and another connection to it that can keep a transaction open."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._storage = Storage(connection_info())
        self._runner.run(self._storage.__aenter__())
        self._other = psycopg.connect(connection_info(), autocommit=False)
        self._other.execute(statements.SETTINGS)
        self._other.commit()
        self._watcher = psycopg.connect(connection_info(), autocommit=True)

    def close(self) -> None:
        """Close all connections."""
        self._other.close()
        self._watcher.close()
        self._runner.run(self._storage.__aexit__())
        self._runner.close()

    def run(self, call: Call) -> Any:
        """Run a call, and return what came of it."""
        return self._runner.run(_outcome(call(self._storage)))

    def begin(self, statement: Statement) -> bool:
        """Run a statement in a transaction and leave that open, unless the statement fails."""
        try:
            self._other.execute(*statement)
        except (psycopg.errors.CheckViolation, psycopg.errors.UniqueViolation):
            self._other.rollback()
            return False
        return True

    def run_beside(self, call: Call, end: str) -> Any:
        """Run a call while that transaction is open; end this once the call is done or waits for it."""

        async def run() -> Any:
            task = asyncio.ensure_future(_outcome(call(self._storage)))
            await eventually(lambda: task.done() or bool(self._count_waiting()))
            getattr(self._other, end)()
            return await task

        return self._runner.run(run())

    def run_crossed(self, call: Call, ids: list[int]) -> Any:
        """Run a call that locks three items, beside a transaction that has the last and waits for the first.

        The call waits for the second until that is so. It is the one that then finds out that they wait for
        each other: otherwise this would never end.
        """
        first, second, last = ids

        async def run(third: psycopg.Connection[Any]) -> Any:
            self._other.execute("SET LOCAL deadlock_timeout TO '1h'")
            self._other.execute(LOCK, [last])
            third.execute(LOCK, [second])
            task = asyncio.ensure_future(_outcome(call(self._storage)))
            await eventually(lambda: self._count_waiting() == 1)
            crossing = asyncio.ensure_future(asyncio.to_thread(self._other.execute, LOCK, [first]))
            await eventually(lambda: self._count_waiting() == 2)
            third.rollback()
            await crossing
            self._other.rollback()
            return await task

        with psycopg.connect(connection_info()) as third:
            return self._runner.run(run(third))

    def move(self, code: UUID, seconds: float) -> None:
        """Make a hold so much younger than it is."""
        self._watcher.execute(MOVE, [seconds, code, seconds, seconds])

    def pause(self, sale_id: int, paused: bool) -> None:
        """Pause a sale, or resume it."""
        self._watcher.execute("UPDATE sales_sale SET paused = %s WHERE id = %s", [paused, sale_id])

    def tables(self) -> tuple[Any, ...]:
        """All rows."""
        return tuple(self._watcher.execute(query).fetchall() for query in TABLES)

    def _count_waiting(self) -> int:
        return len(
            self._watcher.execute(
                """SELECT FROM pg_stat_activity
                   WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0"""
            ).fetchall()
        )


class Model:
    """The same with the model."""

    def __init__(self, sales: list[SaleModel]) -> None:
        self._loop = SimulatedLoop(Random(0), max_steps=10**9)
        self.database = Database(self._now)
        server = Server(self._loop, Random(0), self.database, lambda *values: None)
        self._storage = Storage("")
        self._storage._connections._pool = Pool(  # type: ignore[assignment]
            server, self._storage._connections._configure
        )
        self._other: Transaction | None = None
        self._began = sales[0].starts_at.timestamp() + 60
        for sale in sales:
            self.database.add_sale(
                Sale(
                    sale.pk,
                    sale.starts_at.timestamp(),
                    sale.ends_at.timestamp(),
                    sale.items,
                    sale.user_limit,
                    sale.checkout_ttl,
                    sale.paused,
                )
            )

    def _now(self) -> float:
        return self._began + self._loop.now

    def close(self) -> None:
        """End what is left."""
        self._loop.close()

    def run(self, call: Call) -> Any:
        """As `Real.run`."""
        return self._loop.run(_outcome(call(self._storage)))

    def begin(self, statement: Statement) -> bool:
        """As `Real.begin`."""
        self._other = Transaction(self.database)
        try:
            self._loop.run(_in_task(run_statement(self._other, *statement)))
        except (LimitExceeded, KeyUsed):
            self._other.rollback()
            return False
        return True

    def run_beside(self, call: Call, end: str) -> Any:
        """As `Real.run_beside`."""

        async def run() -> Any:
            task = asyncio.ensure_future(_outcome(call(self._storage)))
            await asyncio.sleep(0.1)
            getattr(self._other, end)()
            return await task

        return self._loop.run(run())

    def run_crossed(self, call: Call, ids: list[int]) -> Any:
        """As `Real.run_crossed`."""
        first, second, last = ids

        async def run() -> Any:
            other, third = Transaction(self.database), Transaction(self.database)
            await other.lock_item(last)
            await third.lock_item(second)
            task = asyncio.ensure_future(_outcome(call(self._storage)))
            await asyncio.sleep(2 * DEADLOCK_TIMEOUT)
            crossing = asyncio.ensure_future(other.lock_item(first))
            await asyncio.sleep(2 * DEADLOCK_TIMEOUT)
            third.rollback()
            await crossing
            other.rollback()
            return await task

        return self._loop.run(run())

    def move(self, code: UUID, seconds: float) -> None:
        """As `Real.move`."""
        transaction = Transaction(self.database)
        transaction.xid = self.database.next_xid()
        for item in list(self.database.items.values()):
            if item.code == code and item.state == "held":
                assert item.held_until is not None
                item = transaction._write(item._replace(held_until=item.held_until + seconds))
                transaction.note(item.sale_id, 0, [item])
                row = self.database.checkouts[code]
                transaction.written.checkouts[code] = row._replace(
                    created_at=row.created_at + seconds, expires_at=row.expires_at + seconds
                )
        transaction.commit()

    def pause(self, sale_id: int, paused: bool) -> None:
        """As `Real.pause`."""
        self.database.sales[sale_id] = self.database.sales[sale_id]._replace(paused=paused)

    def tables(self) -> tuple[Any, ...]:
        """As `Real.tables`."""
        database = self.database
        return (
            [
                (id_, item.version, item.state, item.user_id, item.code, item.purchased_at is None)
                for id_, item in sorted(database.items.items())
            ],
            [
                (*row[:4], row.state, row.purchased_at and row.purchased_at == row.created_at)
                for _, row in sorted(database.checkouts.items())
            ],
            [(*key, taken) for key, taken in sorted(database.allowances.items()) if taken],
            [(*id_, *used) for id_, used in sorted(database.keys.items())],
            [
                (sale_id, batch, list(item_ids))
                for (sale_id, xid, batch), item_ids in sorted(
                    database.committed.changes.items(), key=lambda change: (change[0][1], change[0])
                )
            ],
        )


async def _in_task(work: Awaitable[Any]) -> Any:
    return await work


async def _outcome(work: Awaitable[Any]) -> Any:
    try:
        return await work
    except DatabaseUnavailable as error:
        return type(error)
