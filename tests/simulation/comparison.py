"""The same calls, in the same order, to PostgreSQL and to the model of it."""

from random import Random
from typing import Any
from uuid import UUID

from sales import statements
from sales.codes import new_code, place_of
from sales.inventory import Hold, ItemRow, RequestKey, SaleFacts
from sales.models import Sale as SaleModel
from sales.models import SaleItem
from sales.records import Changed, Granted, Mark, Receipt
from sales.storage import Storage
from tests.simulation.sides import Call, Model, Real, Statement

DAY = 86_400


class Comparison:
    """Random calls to both. Watermarks and codes that calls gave are used by later ones."""

    def __init__(self, seed: int, real: Real, model: Model, sales: list[SaleModel]) -> None:
        self._random = Random(seed)
        self._sides: list[Real | Model] = [real, model]
        self._model = model.database
        self._sales = [facts(sale) for sale in sales]
        self._codes: list[UUID] = [new_code(self._sales[0].id, 0), UUID(int=0)]
        self._marks: list[tuple[int, list[Mark]]] = []
        self.batch = 0
        """The number of the next batch."""

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
            return _both(lambda storage: storage.purchase(sale.id, codes))
        if number < 0.75:
            return _both(lambda storage: storage.mark(sale.id, codes))
        if number < 0.83:
            return _both(lambda storage: storage.release(sale.id, codes))
        if number < 0.87:
            return _both(lambda storage: storage.expire(sale.id, codes))
        if number < 0.9:
            return _both(lambda storage: storage.sweep_all())
        which, item_ids = self._random.choice([sale.id, sale.id, 99]), self._some_items(sale)
        if number < 0.95:
            return _both(lambda storage: storage.sweep(which, item_ids))
        return _both(lambda storage: storage.try_sweep(which, item_ids))

    def _read(self) -> tuple[Call, Call]:
        number = self._random.random()
        sale_id = self._random.choice(self._sales).id
        if number < 0.2:
            codes = self._some_codes()
            parameters = {"sale": sale_id, "batch": self._random.randint(1, 9), **_ids_and_codes(codes)}
            look = self._random.choice([statements.HELD, statements.BOUGHT])
            return _both(lambda storage: _rows(storage, look, parameters))
        if number < 0.4:
            first = self._random.choice([0, 0, 2])
            return self._marked(sale_id, [lambda storage: storage.load(sale_id, first)] * 2)
        if number < 0.7 and self._marks:
            sale_id, marks = self._random.choice(self._marks[-5:])
            sale = next(sale for sale in self._sales if sale.id == sale_id)
            known = self._random.sample(range(1, 10), self._random.randint(0, 5))
            item_ids = self._random.choice([[], [], self._some_items(sale)])
            return self._marked(
                sale_id,
                [
                    lambda storage, mark=mark: storage.changes(  # type: ignore[misc]
                        sale_id, mark, known=known, item_ids=item_ids
                    )
                    for mark in marks
                ],
            )
        if number < 0.76:
            codes = self._some_codes()
            return _both(lambda storage: storage.receipts(codes))
        if number < 0.78:
            return _both(lambda storage: storage.known_sales({sale_id, 99}))
        if number < 0.82:
            keys = [(self._random.randint(1, 3), text) for text in ("a", "b")]
            return _both(lambda storage: storage.key_uses(sale_id, keys))
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
        of_batch = {"sale": sale.id, "batch": self._random.randint(1, 9)}
        parameters = of_batch | _ids_and_codes(codes)
        number = self._random.random()
        if number < 0.5:
            holds = self._holds(sale)
            rows = [(SaleItem.id_of(sale.id, h.item_id), h.version, h.user_id, h.code) for h in holds]
            keyed = [(h.code, *h.key) for h in holds if h.key]
            update, statement = statements.hold(sale.id, sale.checkout_ttl, keyed=bool(keyed))
            keys = [sale.id, *map(list, zip(*keyed, strict=True))] if keyed else []
            ids = [sale.id, sale.id, sale.id, of_batch["batch"]]
            return statement, [*update.parameters(sorted(rows)), *ids, *keys]
        if number < 0.7:
            return statements.PURCHASE, parameters
        if number < 0.75:
            return statements.MARK, parameters
        if number < 0.88:
            return statements.RELEASE, parameters
        return statements.SWEEP, of_batch

    def _holds(self, sale: SaleFacts) -> list[Hold]:
        """Some holds, of items at their version or at another one."""
        holds: list[Hold] = []
        for item_id in self._random.sample(range(sale.items), self._random.randint(1, 3)):
            version = self._model.items[SaleItem.id_of(sale.id, item_id)].version
            version += self._random.choice([0, 0, 0, 0, 1, -1]) if version else 0
            code = new_code(sale.id, item_id)
            self._codes.append(code)
            user_id = self._random.randint(1, 3)
            key = self._random.choice([None, RequestKey("a", None), RequestKey("b", item_id)])
            if key and any(h.user_id == user_id and h.key and h.key.text == key.text for h in holds):
                key = None  # one of a batch
            holds.append(Hold(item_id, version, user_id, code, key))
        return holds

    def _some_codes(self) -> list[UUID]:
        """Of items that are held, their holds over or not, or older ones."""
        held = [item.code for item in self._model.items.values() if item.state == "held" and item.code]
        codes = self._random.choice([held, self._codes[-10:]]) or self._codes
        return self._random.sample(codes, min(self._random.randint(1, 2), len(codes)))

    def _some_items(self, sale: SaleFacts) -> list[int]:
        """Of a sale, in any order."""
        return self._random.sample(range(sale.items), self._random.randint(1, sale.items))

    def _move(self) -> None:
        """A hold is over, or the clock was set back since it began."""
        held = [item.code for item in self._model.items.values() if item.state == "held" and item.code]
        if held:
            code, seconds = self._random.choice(held), self._random.choice([-DAY, -DAY, DAY])
            for side in self._sides:
                side.move(code, seconds)


def facts(sale: SaleModel) -> SaleFacts:
    """What workers know of a sale."""
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
    places = {code: place for code in sorted(codes) if (place := place_of(code))}
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
        case Granted(saved, stale, repeated):
            codes = {hold.code for hold in stale}
            return _comparable(saved), codes, {hold.code: keyed for hold, keyed in repeated.items()}
        case Changed(_, sale_id, batch, codes, rows):
            return sale_id, batch, codes, _comparable(rows)
        case ItemRow():
            return (*result[:4], result.held_until is None)
        case Receipt():
            return (*result[:4], result.purchased_at is None, result.state, result.is_over)
        case list():
            return sorted(map(_comparable, result), key=repr)
        case dict():
            return {key: _comparable(value) for key, value in result.items()}
        case (int(), float(), list() as sales):  # a server, and the offset of its clock
            return _comparable(sales)
        case tuple():
            return tuple(map(_comparable, result))
    return result
