"""PostgreSQL and the model of it, with the same methods."""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, LiteralString
from uuid import UUID

import psycopg

from sales.connections import connection_info
from sales.models import Sale as SaleModel
from sales.refusals import DatabaseUnavailable
from sales.storage import Storage
from tests.simulation.connection import Pool
from tests.simulation.database import Database
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
        WHERE code = %s AND state = 'held' RETURNING code)
    UPDATE sales_checkout AS checkout SET created_at = created_at + make_interval(secs => %s),
                                          expires_at = expires_at + make_interval(secs => %s)
    FROM item WHERE checkout.code = item.code
"""


TABLES: list[LiteralString] = [
    "SELECT id, version, state, user_id, code, purchased_at IS NULL FROM sales_saleitem ORDER BY id",
    """SELECT code, sale_id, item_id, user_id, state, batch, purchased_at = created_at
       FROM sales_checkout ORDER BY code""",
    "SELECT sale_id, user_id, taken FROM sales_allowance WHERE taken > 0 ORDER BY sale_id, user_id",
    "SELECT sale_id, user_id, key, item_id, code FROM sales_idempotencykey ORDER BY sale_id, user_id, key",
]


class Real:
    """PostgreSQL, and another connection to it that can keep a transaction open."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._storage = Storage(connection_info())
        self._runner.run(self._storage.__aenter__())
        self._other = psycopg.connect(connection_info(), autocommit=False)
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
            await eventually(lambda: task.done() or self._somebody_waits())
            getattr(self._other, end)()
            return await task

        return self._runner.run(run())

    def move(self, code: UUID, seconds: float) -> None:
        """Make a hold so much younger than it is."""
        self._watcher.execute(MOVE, [seconds, code, seconds, seconds])

    def pause(self, sale_id: int, paused: bool) -> None:
        """Pause a sale, or resume it."""
        self._watcher.execute("UPDATE sales_sale SET paused = %s WHERE id = %s", [paused, sale_id])

    def tables(self) -> tuple[Any, ...]:
        """All rows."""
        return tuple(self._watcher.execute(query).fetchall() for query in TABLES)

    def _somebody_waits(self) -> bool:
        return bool(
            self._watcher.execute(
                """SELECT FROM pg_stat_activity WHERE datname = current_database()
                   AND application_name = 'flashsale worker' AND cardinality(pg_blocking_pids(pid)) > 0"""
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

    def move(self, code: UUID, seconds: float) -> None:
        """As `Real.move`."""
        transaction = Transaction(self.database)
        transaction.xid = self.database.next_xid()
        for item in list(self.database.items.values()):
            if item.code == code and item.state == "held":
                assert item.held_until is not None
                transaction._write(item._replace(held_until=item.held_until + seconds))
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
                (*row[:4], row.state, row.batch, row.purchased_at and row.purchased_at == row.created_at)
                for _, row in sorted(database.checkouts.items())
            ],
            [(*key, taken) for key, taken in sorted(database.allowances.items()) if taken],
            [(*id_, *used) for id_, used in sorted(database.keys.items())],
        )


async def _in_task(work: Awaitable[Any]) -> Any:
    return await work


async def _outcome(work: Awaitable[Any]) -> Any:
    try:
        return await work
    except DatabaseUnavailable as error:
        return type(error)
