"""The model of the database gives the answers of PostgreSQL: the same calls, in the same order, to both."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from random import Random, SystemRandom
from types import SimpleNamespace
from typing import Any, LiteralString
from uuid import UUID

import psycopg
import pytest

from sales import statements
from sales.codes import new_code, place_of
from sales.connections import connection_info
from sales.exceptions import DatabaseUnavailable
from sales.inventory import Hold, ItemRow, Key, SaleFacts
from sales.models import Sale as SaleModel
from sales.models import SaleItem
from sales.storage import Changed, Granted, Mark, Receipt, Storage
from tests.conftest import DEADLINE, eventually
from tests.simulation.database import Database, KeyUsed, LimitExceeded, Sale, Transaction
from tests.simulation.loop import SimulatedLoop
from tests.simulation.network import Pool, Server
from tests.simulation.sql import run_statement

Call = Callable[[Storage], Awaitable[Any]]
Statement = tuple[str, Any]

DAY = 86_400
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
            self._other.execute(*statement)  # type: ignore[arg-type]
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
        self._other = self.database.begin()
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
        transaction = self.database.begin()
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


class Comparison:
    """Random calls to both. Watermarks and codes that calls gave are used by later ones."""

    def __init__(self, seed: int, real: Real, model: Model, sales: list[SaleModel]) -> None:
        self._random = Random(seed)
        self._sides: tuple[Real, Model] = (real, model)
        self._model = model.database
        self._sales = [_facts(sale) for sale in sales]
        self._codes: list[UUID] = [new_code(self._sales[0].id, 0), UUID(int=0)]
        self._marks: list[tuple[int, list[Mark]]] = []
        self.batch = 0
        """The number of the next batch of purchases."""

    def step(self) -> None:
        """Do something to both, and compare what comes of it and all rows."""
        number = self._random.random()
        if number < 0.15:
            self._move()
        elif number < 0.19:
            sale_id, paused = self._random.choice(self._sales).id, self._random.random() < 0.5
            for side in self._sides:
                side.pause(sale_id, paused)
        elif number < 0.5:
            self._compare(self._write())
        elif number < 0.6:
            self._compare(self._read())
        else:
            self._step_beside()
        real, model = (side.tables() for side in self._sides)
        assert real == model

    def _step_beside(self) -> None:
        """A call while another transaction is open."""
        statement = self._statement()
        real, model = (side.begin(statement) for side in self._sides)
        assert real == model
        if real:
            for _ in range(self._random.randint(0, 2)):
                self._compare(self._read())
            end = self._random.choice(["commit", "commit", "rollback"])
            self._compare(self._write(), end)

    def _compare(self, calls: tuple[Call, Call], end: str | None = None) -> None:
        self.batch = self._random.randint(1, 9)
        real, model = (
            side.run(call) if end is None else side.run_beside(call, end)
            for side, call in zip(self._sides, calls, strict=True)
        )
        assert _comparable(real) == _comparable(model)

    def _write(self) -> tuple[Call, Call]:
        number = self._random.random()
        sale = self._random.choice(self._sales)
        if number < 0.5:
            holds = self._holds(sale)
            return _both(lambda storage: storage.hold(sale, holds))
        codes = self._some_codes()
        if number < 0.7:
            return _both(lambda storage: storage.purchase(codes))
        if number < 0.8:
            return _both(lambda storage: storage.release(codes))
        if number < 0.9:
            which = self._random.choice([sale.id, 99])
            return _both(lambda storage: storage.sweep(which))
        return _both(lambda storage: storage.try_sweep(sale.id))

    def _read(self) -> tuple[Call, Call]:
        number = self._random.random()
        sale_id = self._random.choice(self._sales).id
        if number < 0.2:
            codes = self._some_codes()
            parameters = _ids_and_codes(codes) | {"batch": self._some_batch(codes)}
            look = self._random.choice([statements.HELD, statements.BOUGHT])
            return _both(lambda storage: _rows(storage, look, parameters))
        if number < 0.4:
            return self._marked(sale_id, [lambda storage: storage.load(sale_id)] * 2)
        if number < 0.7 and self._marks:
            sale_id, (real, model) = self._random.choice(self._marks[-5:])
            return self._marked(
                sale_id,
                [
                    lambda storage: storage.changes(sale_id, real),
                    lambda storage: storage.changes(sale_id, model),
                ],
            )
        if number < 0.75:
            codes = self._some_codes()
            return _both(lambda storage: storage.receipts(codes))
        if number < 0.8:
            keys = [(self._random.randint(1, 3), text) for text in ("a", "b")]
            return _both(lambda storage: storage.keyed(sale_id, keys))
        if number < 0.9:
            return _both(lambda storage: storage.sales())
        which = self._random.choice([sale_id, 99])
        return _both(lambda storage: storage.counts({which}))

    def _marked(self, sale_id: int, calls: list[Call]) -> tuple[Call, Call]:
        """Calls that give a watermark, which is kept, and rows, which are returned."""
        marks: list[Mark] = []

        def kept(call: Call) -> Call:
            async def run(storage: Storage) -> list[ItemRow]:
                mark, rows = await call(storage)
                marks.append(mark)
                return list(rows)

            return run

        self._marks.append((sale_id, marks))
        return kept(calls[0]), kept(calls[1])

    def _statement(self) -> Statement:
        """A write, for a transaction that stays open."""
        sale = self._random.choice(self._sales)
        codes = self._some_codes()
        parameters = _ids_and_codes(codes)
        number = self._random.random()
        if number < 0.5:
            holds = self._holds(sale)
            rows = [(SaleItem.id_of(sale.id, h.item_id), h.version, h.user_id, h.code) for h in holds]
            keyed = [(h.code, *h.key) for h in holds if h.key]
            update, statement = statements.hold(sale.checkout_ttl, keyed=bool(keyed))
            keys = [sale.id, *map(list, zip(*keyed, strict=True))] if keyed else []
            return statement, [*update.parameters(sorted(rows)), sale.id, sale.id, *keys]
        if number < 0.7:
            return statements.PURCHASE, parameters | {"batch": self._random.randint(1, 9)}
        if number < 0.85:
            return statements.RELEASE, parameters
        return statements.SWEEP, {"sale": sale.id}

    def _holds(self, sale: SaleFacts) -> list[Hold]:
        """Some holds, of items at their version or at another one."""
        holds: list[Hold] = []
        for item_id in self._random.sample(range(sale.items), self._random.randint(1, 3)):
            version = self._model.items[SaleItem.id_of(sale.id, item_id)].version
            version += self._random.choice([0, 0, 0, 0, 1, -1]) if version else 0
            code = new_code(sale.id, item_id)
            self._codes.append(code)
            user_id = self._random.randint(1, 3)
            key = self._random.choice([None, Key("a", None), Key("b", item_id)])
            if key and any(h.user_id == user_id and h.key and h.key.text == key.text for h in holds):
                key = None  # one of a batch
            holds.append(Hold(item_id, version, user_id, code, key))
        return holds

    def _some_codes(self) -> list[UUID]:
        """Of items that are held, their holds over or not, or older ones."""
        held = [item.code for item in self._model.items.values() if item.state == "held" and item.code]
        codes = self._random.choice([held, self._codes[-10:]]) or self._codes
        return self._random.sample(codes, min(self._random.randint(1, 2), len(codes)))

    def _some_batch(self, codes: list[UUID]) -> int:
        """One that bought one of these, or any."""
        checkouts = self._model.checkouts
        batches = [checkouts[code].batch for code in codes if code in checkouts]
        return self._random.choice([batch for batch in batches if batch] or [1])

    def _move(self) -> None:
        """A hold is over, or the clock was set back since it began."""
        held = [item.code for item in self._model.items.values() if item.state == "held" and item.code]
        if held:
            code, seconds = self._random.choice(held), self._random.choice([-DAY, -DAY, DAY])
            for side in self._sides:
                side.move(code, seconds)


def _facts(sale: SaleModel) -> SaleFacts:
    return SaleFacts(
        id=sale.pk,
        starts_at=sale.starts_at.timestamp(),
        ends_at=sale.ends_at.timestamp(),
        items=sale.items,
        user_limit=sale.user_limit,
        checkout_ttl=sale.checkout_ttl,
        paused=sale.paused,
    )


def _ids_and_codes(codes: list[UUID]) -> dict[str, Any]:
    places = {code: place for code in codes if (place := place_of(code))}
    return {"ids": [SaleItem.id_of(*place) for place in places.values()], "codes": list(places)}


async def _rows(storage: Storage, statement: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
    """The rows of a statement, without times and what confirms them."""
    async with storage._connections.lend() as connection:
        rows = await (await connection.execute(statement, parameters)).fetchall()
        return [row[:-2] for row in rows]


def _both(call: Call) -> tuple[Call, Call]:
    return call, call


def _comparable(result: Any) -> Any:
    """A result without times and without an order that nobody has promised."""
    match result:
        case Granted(_, rows, stale, repeated):
            codes = {hold.code for hold in stale}
            return _comparable(rows), codes, {hold.code: keyed for hold, keyed in repeated.items()}
        case Changed(_, codes, rows):
            return codes, _comparable(rows)
        case ItemRow():
            return (*result[:4], result.held_until is None)
        case Receipt():
            return (*result[:4], result.purchased_at is None, result.state)
        case list():
            return sorted(map(_comparable, result), key=repr)
        case dict():
            return {key: _comparable(value) for key, value in result.items()}
        case (int(), float(), list() as sales):  # a server, and the offset of its clock
            return _comparable(sales)
        case tuple():
            return tuple(map(_comparable, result))
    return result


@pytest.mark.parametrize("seed", [*range(6), "fresh"])
def test_the_model_does_what_postgresql_does(
    make_sale: Callable[..., SaleModel], monkeypatch: pytest.MonkeyPatch, seed: int | str
) -> None:
    monkeypatch.setattr("sales.connections.STATEMENT_TIMEOUT", DEADLINE * 3)
    number = seed if isinstance(seed, int) else SystemRandom().randrange(10**6)
    sale = make_sale(items=7, user_limit=2, checkout_ttl=DAY // 2, lasts=DAY)
    sales = [sale, make_sale(items=5, user_limit=2, checkout_ttl=DAY // 2, starts_at=sale.ends_at)]
    with contextlib.closing(Real()) as real, contextlib.closing(Model(sales)) as model:
        comparison = Comparison(number, real, model, sales)
        monkeypatch.setattr(
            "sales.storage.random", SimpleNamespace(getrandbits=lambda bits: comparison.batch)
        )
        for step in range(60):
            try:
                comparison.step()
            except AssertionError as difference:
                raise AssertionError(f"seed {number}, step {step}: {difference}") from difference
