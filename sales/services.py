"""The use cases of a sale. Views, commands and whatever else serves users call these.

Each raises a `Refusal` for what cannot be, and then nothing was changed. Cancelling a call ends only the
wait: what was accepted for a batch is saved all the same.
"""

from collections.abc import Awaitable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar
from uuid import UUID

from batching import BatchError, KeyedProcessor, ProcessorStopped, QueueFull
from sales.exceptions import (
    DatabaseUnavailable,
    Draining,
    InvalidParameter,
    ItemHeld,
    NoSale,
    Overloaded,
    Refusal,
    UnknownCode,
)
from sales.inventory import HoldBatch, Inventory, SaleFacts, Stale
from sales.metrics import count_answer
from sales.runtime import Runtime, Settlement, SettlementBatch
from sales.storage import Receipt

T = TypeVar("T")

MAX_USER_ID = 2**63 - 1

MAX_STALE = 20
"""How often one checkout is decided again because other workers were faster, before it is refused."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SaleStatus:
    """A sale and its counts (items); times are seconds since the epoch."""

    sale: SaleFacts
    sold: int
    held: int
    next_starts_at: float | None

    @property
    def available(self) -> int:
        """Items that are neither sold nor held."""
        return self.sale.items - self.sold - self.held


async def checkout(runtime: Runtime, *, user_id: int, item_id: int | None = None) -> UUID:
    """Hold this item of the current sale, or any free one, for the user; return the code to buy it with.

    Returns once the hold is committed. It ends by itself after the sale's ``checkout_ttl`` seconds.
    """
    if not 0 <= user_id <= MAX_USER_ID:
        raise InvalidParameter(f"user_id must be a whole number from 0 to {MAX_USER_ID}.")
    if item_id is not None and item_id < 0:
        raise InvalidParameter("item_id must not be negative.")
    return await _answered("checkout", "granted", _checkout(runtime, user_id, item_id))


async def purchase(runtime: Runtime, *, code: UUID) -> None:
    """Buy the item that this code holds. Returns once that is committed.

    The database decides, so the code may come from any worker, and from a sale that has ended.
    """
    await _answered("purchase", "done", _settle(runtime, runtime.purchases, code))


async def release(runtime: Runtime, *, code: UUID) -> None:
    """Give back the item that this code holds. Doing it again is no error."""
    await _answered("release", "done", _settle(runtime, runtime.releases, code))


async def receipt(runtime: Runtime, *, code: UUID) -> Receipt:
    """What became of a checkout, from the database."""
    receipts = await runtime.storage.receipts([code])
    if code not in receipts:
        raise UnknownCode
    return receipts[code]


async def status(runtime: Runtime, *, sale_id: int | None = None) -> SaleStatus:
    """The current sale, or any other, with what was committed before the question.

    Where the database does not answer, the counts are those that this worker knows.
    """
    inventory: Inventory | None
    if sale_id is None:
        inventory = runtime.current()
    elif (inventory := runtime.inventories.get(sale_id)) is None:
        found = await runtime.storage.sale(sale_id)
        if found is None:
            raise NoSale(f"There is no sale {sale_id}.")
        sale, sold, held = found
        return SaleStatus(sale=sale, sold=sold, held=held, next_starts_at=runtime.next_starts_at())
    await runtime.look(inventory)
    inventory.expire(runtime.clock.now())
    return SaleStatus(
        sale=inventory.sale,
        sold=inventory.sold,
        held=inventory.held,
        next_starts_at=runtime.next_starts_at(),
    )


async def _checkout(runtime: Runtime, user_id: int, item_id: int | None) -> UUID:
    for _ in range(MAX_STALE):
        _refuse_if_draining(runtime)
        inventory = runtime.current()
        inventory.check(user_id, item_id, runtime.clock.now())
        try:
            hold = await runtime.checkouts.run(
                inventory.sale.id, partial(HoldBatch.hold, user_id=user_id, item_id=item_id)
            )
        except Stale:
            continue
        return hold.code
    raise ItemHeld if item_id is not None else Overloaded


async def _settle(runtime: Runtime, processor: KeyedProcessor[int, SettlementBatch], code: UUID) -> None:
    _refuse_if_draining(runtime)

    def join(batch: SettlementBatch) -> Settlement:
        batch.append(settlement := Settlement(code))
        return settlement

    await processor.run(runtime.key_of(code), join)


async def _answered(call: str, outcome: str, answer: Awaitable[T]) -> T:
    """Count the answer, and turn what happened to the batch into the refusal it means for a user."""
    try:
        result = await answer
    except Refusal as refusal:
        count_answer(call, refusal.reason)
        raise
    except BatchError as error:
        meaning = _meaning(error)
        count_answer(call, meaning.reason)
        raise meaning from error
    count_answer(call, outcome)
    return result


def _meaning(error: BatchError) -> Refusal:
    if isinstance(error, ProcessorStopped):
        return Draining()
    if isinstance(error, QueueFull):
        return Overloaded()
    return DatabaseUnavailable()


def _refuse_if_draining(runtime: Runtime) -> None:
    if runtime.draining:
        raise Draining
