"""Deliberate faults, each of which the simulation must find.

Each is a patch of one condition or one step that something depends on.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest.mock import patch
from uuid import UUID

from batching import Undecided
from batching.batch import Batch
from sales.calls import Call
from sales.housekeeping import Housekeeping
from sales.inventory import HELD, Hold, HoldBatch, Inventory, ItemRow, RequestKey
from sales.memory import Memory
from sales.patience import Patience
from sales.records import Changed, Receipt
from sales.refusals import (
    ALL_HELD,
    CHECKOUT_EXPIRED,
    IDEMPOTENCY_KEY_REUSED,
    ITEM_HELD,
    ITEM_SOLD,
    USER_LIMIT,
    Reason,
    Refusal,
)
from sales.runtime import Runtime
from sales.saving import Saving, _Settled, _why
from sales.storage import Storage
from tests.simulation.database import Database
from tests.simulation.rows import Checkout, Item, Tables
from tests.simulation.transaction import Transaction

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


def _taken(transaction: Transaction, item: Item) -> bool:
    return item.state != "available"


def _told_by_itself(transaction: Transaction, seen: Tables, code: UUID) -> Checkout | None:
    return seen.checkouts.get(code)


_note = Transaction.note


def _note_holds(transaction: Transaction, sale_id: int, batch: int, items: Collection[Item]) -> None:
    _note(transaction, sale_id, batch, [item for item in items if item.state == "held"])


def _newer(transaction: Transaction, xid: int, since: int) -> bool:
    return xid > since


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


async def _nobody_left_out(saving: Saving, *arguments: Any) -> _Settled:
    return _Settled([], (await _settle_batch(saving, *arguments)).failed)


async def _decided_once(save: Callable[..., Awaitable[Changed]], *arguments: Any) -> Changed:
    return await save(*arguments)


def _give_up(patience: Patience) -> None:
    patience.is_over = True
    patience._give_up()


def _know_only(memory: Memory, changed: Changed) -> None:
    if changed.rows:
        memory._own.setdefault(changed.sale_id, []).append(changed.batch)


_learn_batch = Memory.learn


def _mark_what_was_learnt(memory: Memory, changed: Changed) -> None:
    _learn_batch(memory, changed)
    memory.unmarked.setdefault(changed.sale_id, []).extend(changed.codes)


@contextmanager
def _mark_all() -> Iterator[None]:
    """Workers want to have marked whatever they learn of, which alone would do no harm."""
    with (
        patch.object(Memory, "learn", _mark_what_was_learnt),
        patch.object(Transaction, "is_bought", _true),
    ):
        yield


@contextmanager
def _call_stale_held() -> Iterator[None]:
    with patch("sales.limits.MAX_STALE", 1), patch("sales.calls.OVERLOADED", ITEM_HELD):
        yield


FAULTS: dict[str, Fault] = {
    "the database overwrites what was changed": lambda: patch.multiple(
        Transaction, is_as_seen=_true, may_be_held=_true
    ),
    "the database sells what is over": lambda: patch.object(Transaction, "may_be_sold", _held),
    "the database sells by any code": lambda: patch.object(Transaction, "has_code", _true),
    "the database frees what is still held": lambda: patch.object(Transaction, "is_over", _held),
    "the database frees what is sold": lambda: patch.object(Transaction, "may_be_released", _taken),
    "the database marks what is not sold": _mark_all,
    "the database does not note what is changed": lambda: patch.object(Transaction, "note", _note_holds),
    "receipts tell what only checkouts say": lambda: patch.object(Transaction, "told", _told_by_itself),
    "the database knows no limit": lambda: patch.object(Transaction, "take", _take_any),
    "the database gives no allowance back": lambda: patch.object(Transaction, "give_back", _nothing),
    "the database lets a key be used twice": lambda: patch.object(Transaction, "use_key", _nothing),
    "keys are not looked for": lambda: patch("sales.services._granted_before", _nothing_granted),
    "the watermark passes those who are still at work": lambda: patch.object(Database, "oldest", _newest),
    "the first of those who were still at work is not read": lambda: patch.object(
        Transaction, "is_new", _newer
    ),
    "what this worker did is known and not learnt": lambda: patch.object(Memory, "learn", _know_only),
    "who deadlocks is refused": lambda: patch("sales.storage._decided_again", _decided_once),
    "nobody marks": lambda: patch.object(Storage, "mark", _nothing),
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
