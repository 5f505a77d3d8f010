"""Which statement of the model a statement of `sales.storage` is."""

from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any
from uuid import UUID

from sales import statements
from tests.simulation.rows import Checkout, Item, Key, Wish
from tests.simulation.transaction import Transaction

Rows = list[tuple[Any, ...]]
Statement = Callable[[Transaction, Any], Coroutine[Any, Any, Rows]]


class UnknownStatement(Exception):
    """The storage has learned something that the model has not."""


async def run_statement(transaction: Transaction, query: str, parameters: Any) -> Rows:
    """Do in the model what this statement would do, and return its rows."""
    return await _statement(query)(transaction, parameters)


def statement_name(query: str) -> str:
    """What to call it."""
    return _statement(query).__name__.strip("_").replace("_", " ")


def is_batch(query: str) -> bool:
    """Whether it does what clients ask for."""
    return _statements().get(query) in (_hold, _purchase, _release)


async def _clock(transaction: Transaction, parameters: None) -> Rows:
    return [(transaction.database.clock(),)]


async def _set(transaction: Transaction, parameters: None) -> Rows:
    return []


async def _uncertified(transaction: Transaction, parameters: None) -> Rows:
    return []  # certificates are no part of the model


async def _live(transaction: Transaction, parameters: None) -> Rows:
    return list(await transaction.sales())


async def _started(transaction: Transaction, parameters: None) -> Rows:
    return [(sale_id,) for sale_id in await transaction.started()]


async def _not_closed(transaction: Transaction, parameters: list[list[int]]) -> Rows:
    return [(sale_id,) for sale_id in await transaction.not_closed(parameters[0])]


async def _counts(transaction: Transaction, parameters: list[list[int]]) -> Rows:
    found = [await transaction.counts(sale_id) for sale_id in parameters[0]]
    return [counts for counts in found if counts is not None]


async def _load(transaction: Transaction, parameters: dict[str, int]) -> Rows:
    sale_id, first, most = (parameters[name] for name in ("sale", "first", "most"))
    return _marked(transaction, *await transaction.load(sale_id, first, most))


async def _changes(transaction: Transaction, parameters: dict[str, Any]) -> Rows:
    sale_id, since, known, ids = (parameters[name] for name in ("sale", "since", "known", "ids"))
    return _marked(transaction, *await transaction.changes(sale_id, since, known, ids))


async def _receipt(transaction: Transaction, parameters: dict[str, Any]) -> Rows:
    wanted = list(zip(parameters["sales"], parameters["codes"], strict=True))
    found = await transaction.receipts(wanted)
    return [(*_in_datetimes(row), transaction.has_passed(row), None) for row in found]


async def _over_limit(transaction: Transaction, parameters: tuple[list[int], int, int]) -> Rows:
    users, sale_id, _ = parameters
    return [(user,) for user in sorted(await transaction.over_limit(sale_id, users))]


async def _hold(transaction: Transaction, parameters: list[Any]) -> Rows:
    ids, versions, users, codes, _, ttl, _, _, sale_id, _, _, batch, *named = parameters
    assert isinstance(ttl, timedelta)
    keys = {}
    if named:
        _, coded, texts, items = named
        keys = {code: Key(text, item) for code, text, item in zip(coded, texts, items, strict=True)}
    wishes = [Wish(*wish, keys.get(wish[-1])) for wish in zip(ids, versions, users, codes, strict=True)]
    return [item.columns for item in await transaction.hold(sale_id, ttl.total_seconds(), wishes, batch)]


async def _keyed(transaction: Transaction, parameters: dict[str, Any]) -> Rows:
    keys = list(zip(parameters["users"], parameters["keys"], strict=True))
    return [(*row, None) for row in await transaction.keyed(parameters["sale"], keys)]


async def _purchase(transaction: Transaction, parameters: dict[str, Any]) -> Rows:
    sold = await transaction.purchase(parameters["sale"], _pairs(parameters), parameters["batch"])
    return [_with_code(item) for item in sold]


async def _mark(transaction: Transaction, parameters: dict[str, Any]) -> Rows:
    await transaction.mark(parameters["sale"], _pairs(parameters))
    return []


async def _release(transaction: Transaction, parameters: dict[str, Any]) -> Rows:
    freed = await transaction.release(parameters["sale"], _pairs(parameters), parameters["batch"])
    return [_freed(item) for item in freed]


async def _sweep(transaction: Transaction, parameters: dict[str, int]) -> Rows:
    return [_freed(item) for item in await transaction.sweep(parameters["sale"], parameters["batch"])]


async def _sweep_known(transaction: Transaction, parameters: dict[str, Any]) -> Rows:
    freed = await transaction.sweep_known(parameters["sale"], parameters["ids"], parameters["batch"])
    return [_freed(item) for item in freed]


async def _try_expire(transaction: Transaction, parameters: dict[str, Any]) -> Rows:
    freed = await transaction.try_expire(parameters["sale"], _pairs(parameters), parameters["batch"])
    return [_freed(item) for item in freed]


async def _try_lock(transaction: Transaction, parameters: list[int]) -> Rows:
    return [(await transaction.try_lock(parameters[0]),)]


async def _what_is_held(transaction: Transaction, parameters: dict[str, Any]) -> Rows:
    found = await transaction.by_code(parameters["sale"], parameters["ids"], parameters["codes"])
    return [(*item.columns, None) for item in found]


async def _what_is_bought(transaction: Transaction, parameters: dict[str, Any]) -> Rows:
    return [(*_with_code(item), None) for item in await transaction.bought(**parameters)]


@lru_cache
def _statements() -> dict[str, Statement]:
    return {
        statements.CLOCK: _clock,
        statements.SETTINGS: _set,
        statements.UNCERTIFIED: _uncertified,
        statements.LIVE_SALES: _live,
        statements.STARTED: _started,
        statements.NOT_CLOSED: _not_closed,
        statements.COUNTS: _counts,
        statements.LOAD: _load,
        statements.CHANGES: _changes,
        statements.RECEIPT: _receipt,
        statements.KEYED: _keyed,
        statements.OVER_LIMIT: _over_limit,
        # The sale, and how long a hold lasts, are parameters, no part of the text.
        statements.hold(1, 1)[1]: _hold,
        statements.hold(1, 1, keyed=True)[1]: _hold,
        statements.PURCHASE: _purchase,
        statements.MARK: _mark,
        statements.RELEASE: _release,
        statements.SWEEP: _sweep,
        statements.SWEEP_KNOWN: _sweep_known,
        statements.TRY_EXPIRE: _try_expire,
        statements.HELD: _what_is_held,
        statements.BOUGHT: _what_is_bought,
        statements.TRY_LOCK_SWEEP: _try_lock,
    }


def _statement(query: str) -> Statement:
    try:
        return _statements()[query]
    except KeyError:
        raise UnknownStatement(query) from None


def _pairs(parameters: dict[str, Any]) -> list[tuple[int | None, UUID]]:
    return list(zip(parameters["ids"], parameters["codes"], strict=True))


def _marked(transaction: Transaction, watermark: int, items: list[Item]) -> Rows:
    mark = transaction.database.server, watermark
    return [(*mark, *item.columns) for item in items] or [(*mark, None, None, None, None, None)]


def _with_code(item: Item) -> tuple[Any, ...]:
    return item.code, *item.columns


def _freed(before: Item) -> tuple[Any, ...]:
    return before.code, before.item_id, before.version + 1


def _in_datetimes(row: Checkout) -> tuple[Any, ...]:
    created, expires, purchased = (
        None if moment is None else datetime.fromtimestamp(moment, UTC)
        for moment in (row.created_at, row.expires_at, row.purchased_at)
    )
    return row.code, row.sale_id, row.item_id, row.user_id, created, expires, purchased, row.state
