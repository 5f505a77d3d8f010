"""Deliberate faults, each of which the simulation must find.

Each is a patch of one condition or one step that something depends on.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from typing import Any, TypeVar
from unittest.mock import patch

from batching import Undecided
from batching.batch import Batch
from sales.calls import Call
from sales.connections import Connection, Connections, Lost
from sales.housekeeping import Housekeeping
from sales.inventory import HELD, Hold, HoldBatch, Inventory, ItemRow, RequestKey, SaleFacts
from sales.memory import Memory
from sales.patience import Patience
from sales.records import Changed, Receipt
from sales.refusals import (
    ALL_HELD,
    CHECKOUT_EXPIRED,
    DATABASE_UNAVAILABLE,
    IDEMPOTENCY_KEY_REUSED,
    ITEM_HELD,
    ITEM_SOLD,
    USER_LIMIT,
    DatabaseUnavailable,
    Reason,
    Refusal,
)
from sales.runtime import Runtime
from sales.saving import Saving, Settlement, SettlementBatch, _why
from sales.storage import Storage
from tests.simulation.database import Database
from tests.simulation.rows import Item
from tests.simulation.server import Server
from tests.simulation.session import Session
from tests.simulation.transaction import Transaction
from tests.simulation.weather import BAD, ONE_LOSS, SLOW_END, Weather

R = TypeVar("R")
Fault = Callable[[], AbstractContextManager[object]]


def _true(*arguments: object) -> bool:
    return True


def _false(*arguments: object) -> bool:
    return False


async def _nothing(*arguments: object) -> None:
    pass


async def _nothing_granted(runtime: Runtime, user_id: int, key: RequestKey) -> None:
    return None


async def _take_any(transaction: Transaction, sale_id: int, user_id: int, count: int) -> None:
    await transaction._lock(("allowance", sale_id, user_id))
    transaction.written.allowances[sale_id, user_id] = transaction._allowance(sale_id, user_id) + count


def _held(transaction: Transaction, item: Item) -> bool:
    return item.state == "held"


def _newest(database: Database) -> int:
    return database._xid + 1


_learn = Inventory.learn


def _learn_all_but_one(inventory: Inventory, rows: Iterable[ItemRow]) -> None:
    _learn(inventory, list(rows)[:-1])


def _learn_older(inventory: Inventory, rows: Iterable[ItemRow]) -> None:
    rows = list(rows)
    for row in rows:
        inventory._versions[row.item_id] = -1
    _learn(inventory, rows)


_refusal = Inventory.refusal


def _sold_for_held(inventory: Inventory, user_id: int, item_id: int | None, now: float) -> Reason | None:
    refusal = _refusal(inventory, user_id, item_id, now)
    held = item_id is not None and item_id < inventory.sale.items and inventory._states[item_id] == HELD
    return ITEM_SOLD if held else refusal


def _come_late(inventory: Inventory, now: float) -> Reason:
    return ALL_HELD.after(inventory.sale.checkout_ttl + 1)


def _expired(receipt: Receipt | None) -> Refusal:
    refusal = _why(receipt)
    is_over = refusal.reason.name == CHECKOUT_EXPIRED.name
    return Refusal(CHECKOUT_EXPIRED.having(state="expired")) if is_over else refusal


_hold = HoldBatch.hold


def _refuse_for_hopes(reason: Reason) -> AbstractContextManager[object]:
    """Holds of the batch that are not saved yet refuse others for this reason."""

    def hold(batch: HoldBatch, user_id: int, item_id: int | None, key: RequestKey | None = None) -> Hold:
        try:
            return _hold(batch, user_id, item_id, key)
        except Undecided:
            if _hope(batch, user_id, item_id, key) is reason:
                raise Refusal(reason) from None
            raise

    return patch.object(HoldBatch, "hold", hold)


def _hope(batch: HoldBatch, user_id: int, item_id: int | None, key: RequestKey | None) -> Reason:
    if key is not None and (user_id, key.text) in batch._keyed:
        return IDEMPOTENCY_KEY_REUSED
    if item_id in batch.holds:
        return ITEM_HELD
    if item_id is None and len(batch.holds) == batch.inventory.available:
        return ALL_HELD
    return USER_LIMIT


_run = Batch.run
_settle = Batch.settle


def _run_and_settle(batch: Batch, resource: Any) -> None:
    _run(batch, resource)
    _settle(batch, {})


def _settle_all_but_one(batch: Batch, failures: Mapping[Any, BaseException]) -> None:
    if len(batch.results) > 1:
        batch.results.pop()
    _settle(batch, failures)


def _fail_all(batch: Batch, failures: Mapping[Any, BaseException]) -> None:
    if failures:
        failure = next(iter(failures.values()))
        failures = {result: failure for result, _ in batch.results}
    _settle(batch, failures)


_settled = Call.settled


def _settled_twice(call: Any, future: Any) -> None:
    _settled(call, future)
    _settled(call, future)


_settle_batch = Saving._settle


async def _nobody_left_out(
    saving: Saving, call: str, batch: SettlementBatch, saved: Awaitable[Changed]
) -> list[Settlement]:
    await _settle_batch(saving, call, batch, saved)
    return []


async def _ask_only(
    storage: Storage, statement: str, parameters: dict[str, Any], *, done: str | None = None
) -> tuple[int, list[tuple[Any, ...]]]:
    try:
        async with storage._connections.lend() as connection:
            rows = await (await connection.execute(statement, parameters)).fetchall()
            return storage._connections.server(connection), rows
    except Lost as lost:
        async with storage._connections.second_try(lost) as connection:
            rows = await (await connection.execute(done, parameters)).fetchall() if done else []
            server = storage._connections.server(connection)
    if not rows:
        raise DatabaseUnavailable
    return server, rows


async def _nothing_held(transaction: Transaction, ids: object, codes: object) -> list[Item]:
    return []


_end_session = Server.end_session


def _told_only(server: Server, pid: int, began_at: datetime) -> bool:
    _end_session(server, pid, began_at)
    return False


def _give_up(patience: Patience) -> None:
    patience.is_over = True
    patience._give_up()


async def _once(
    connections: Connections, look: Callable[[Connection], Awaitable[R]], *, bulk: bool = False
) -> R:
    async with connections.lend(bulk=bulk) as connection:
        return await look(connection)


def _hear_nothing(session: object, notice: object) -> None:
    pass


def _learn_from_any(memory: Memory, changed: Changed) -> None:
    for sale_id, row in changed.rows:
        if (inventory := memory.inventories.get(sale_id)) is not None:
            inventory.learn([row])


_load = Memory._load


async def _load_besides(memory: Memory, sale: SaleFacts) -> None:
    known = memory.inventories.get(sale.id)
    await _load(memory, sale)
    if known is not None:
        mark, rows = await memory._storage.load(sale.id)
        known.learn(rows)
        memory.inventories[sale.id], memory._marks[sale.id] = known, mark


@contextmanager
def _call_stale_held() -> Iterator[None]:
    with patch("sales.limits.MAX_STALE", 1), patch("sales.calls.OVERLOADED", ITEM_HELD):
        yield


FAULTS: dict[str, Fault] = {
    "the database overwrites what was changed": lambda: patch.multiple(
        Transaction, is_as_seen=_true, may_be_held=_true
    ),
    "the database sells what is not held any more": lambda: patch.object(Transaction, "is_still_held", _true),
    "the database sells by any code": lambda: patch.multiple(Transaction, has_code=_true, has_checkout=_true),
    "the database frees what is still held": lambda: patch.object(Transaction, "is_over", _held),
    "the database knows no limit": lambda: patch.object(Transaction, "take", _take_any),
    "the database gives no allowance back": lambda: patch.object(Transaction, "give_back", _nothing),
    "the database lets a key be used twice": lambda: patch.object(Transaction, "use_key", _nothing),
    "keys are not looked for": lambda: patch("sales.services._granted_before", _nothing_granted),
    "the watermark passes those who are still at work": lambda: patch.object(Database, "oldest", _newest),
    "memory forgets a row": lambda: patch.object(Inventory, "learn", _learn_all_but_one),
    "memory believes older rows": lambda: patch.object(Inventory, "learn", _learn_older),
    "memory ends holds too early": lambda: patch("sales.inventory.EXPIRY_MARGIN", -2.0),
    "memory takes held for sold": lambda: patch.object(Inventory, "refusal", _sold_for_held),
    "answers come before the commit": lambda: patch.object(Batch, "run", _run_and_settle),
    "the last of a batch is forgotten": lambda: patch.object(Batch, "settle", _settle_all_but_one),
    "one failure fails the batch": lambda: patch.object(Batch, "settle", _fail_all),
    "answers are given twice": lambda: patch.object(Call, "settled", _settled_twice),
    "one code is sold to all who ask": lambda: patch.object(Saving, "_settle", _nobody_left_out),
    "nobody looks what others do": lambda: patch.object(Memory, "refresh", _nothing),
    "nobody sweeps": lambda: patch.object(Housekeeping, "_sweep", _nothing),
    "nobody sweeps what is wanted": lambda: patch.object(Inventory, "needs_sweep", _false),
    "the stall of a worker is the silence of the database": lambda: patch.object(Patience, "_pass", _give_up),
    "stale memory is an answer": lambda: patch("sales.limits.MAX_STALE", 1),
    "what failed too often is called held": _call_stale_held,
    "who comes for the next free item is sent away for too long": lambda: patch.object(
        Inventory, "all_held", _come_late
    ),
    "what was given back is told to be expired": lambda: patch("sales.saving._why", _expired),
    "what a batch hopes for is held": lambda: _refuse_for_hopes(ITEM_HELD),
    "what a batch hopes for leaves nothing free": lambda: _refuse_for_hopes(ALL_HELD),
    "what a batch hopes for counts towards the limit": lambda: _refuse_for_hopes(USER_LIMIT),
    "what a batch hopes for uses a key": lambda: _refuse_for_hopes(IDEMPOTENCY_KEY_REUSED),
}
"""What is wrong, and how to make it so."""

FAULTS_AFTER_LOSSES: dict[str, tuple[list[Weather], Fault]] = {
    "what was lost counts as not done": (BAD, lambda: patch("sales.connections._is_lost", _false)),
    "what was lost is not looked for": (BAD, lambda: patch.object(Transaction, "by_code", _nothing_held)),
    "what was lost is looked for before it has ended": (
        [SLOW_END],
        lambda: patch.object(Server, "end_session", _told_only),
    ),
    "what was lost is not done again": ([ONE_LOSS], lambda: patch.object(Storage, "_settled", _ask_only)),
    "what was only read is not read again": ([ONE_LOSS], lambda: patch.object(Connections, "read", _once)),
    "what others bought counts as bought": (BAD, lambda: patch.object(Transaction, "is_of_batch", _true)),
    "what is lost twice counts as not done": (
        BAD,
        lambda: patch("sales.connections.OutcomeUnknown", DatabaseUnavailable),
    ),
    "what is cut off counts as not done": (
        BAD,
        lambda: patch("sales.refusals.OUTCOME_UNKNOWN", DATABASE_UNAVAILABLE),
    ),
}
"""The same for what is done where a connection was lost, and the weathers in which it is met."""

FAULTS_AFTER_FAILOVERS: dict[str, Fault] = {
    "what one server has is told": lambda: patch.object(Session, "confirms", _false),
    "nobody hears that a commit did not wait": lambda: patch("sales.connections._take_notice", _hear_nothing),
    "what another server has is learnt": lambda: patch.object(Memory, "learn", _learn_from_any),
    "what another server had is remembered": lambda: patch.object(Memory, "_load", _load_besides),
}
"""The same where there is a standby, and may be a failover."""
