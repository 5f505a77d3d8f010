"""What users of a sale can do: the use cases behind the HTTP API. What operators do is in `sales.operations`.

Each raises a `Refusal` for what cannot be. Cancelling a call ends only the wait: what was accepted for a
batch is saved all the same. The express lane does not wait in a task: it calls `sales.calls` itself.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sales.calls import Waiter, start_checkout, start_purchase, start_release
from sales.inventory import Inventory, RequestKey, SaleFacts
from sales.limits import MAX_USER_ID
from sales.metrics import count_answer
from sales.records import Receipt
from sales.refusals import (
    IDEMPOTENCY_KEY_REUSED,
    INVALID_PARAMETER,
    NO_CERTIFICATE,
    NO_SALE,
    UNKNOWN_CODE,
    Refusal,
)
from sales.runtime import Runtime


@dataclass(frozen=True, kw_only=True, slots=True)
class SaleStatus:
    """A sale and its counts (items); times are seconds since the epoch.

    An item is held until its hold is swept: when its time is over, somebody may still be about to buy it.
    """

    sale: SaleFacts
    sold: int
    held: int
    next_starts_at: float | None

    @property
    def available(self) -> int:
        """Items that are neither sold nor held."""
        return self.sale.items - self.sold - self.held


async def checkout(
    runtime: Runtime, *, user_id: int, item_id: int | None = None, key: str | None = None
) -> UUID:
    """Hold this item of the current sale, or any free one, for the user; return the code to buy it with.

    Returns once the hold is committed. It ends by itself after the sale's ``checkout_ttl`` seconds.
    With a ``key``, repeating a call that was granted gives the same code, at any worker, as long as the
    sale lasts, whatever became of the hold.
    """
    if not 0 <= user_id <= MAX_USER_ID:
        raise Refusal(INVALID_PARAMETER.saying(f"user_id must be a whole number from 0 to {MAX_USER_ID}."))
    if item_id is not None and item_id < 0:
        raise Refusal(INVALID_PARAMETER.saying("item_id must not be negative."))
    if key is None:
        waiter = Waiter()
        return await waiter.wait(start_checkout(runtime, user_id, item_id, waiter.answer))
    return await _checkout_once(runtime, user_id, item_id, RequestKey(key, item_id))


async def _checkout_once(runtime: Runtime, user_id: int, item_id: int | None, key: RequestKey) -> UUID:
    """`checkout` with a key: what was granted before is granted again, and nothing else is."""
    if (granted := await _granted_before(runtime, user_id, key)) is not None:
        return granted
    waiter = Waiter()
    try:
        return await waiter.wait(start_checkout(runtime, user_id, item_id, waiter.answer, key=key))
    except Refusal as refusal:
        # The same request may have been granted meanwhile, at another worker, and be what refused this one.
        if refusal.reason.status != 409:
            raise
        if (granted := await _granted_before(runtime, user_id, key)) is None:
            raise
        return granted


async def _granted_before(runtime: Runtime, user_id: int, key: RequestKey) -> UUID | None:
    """The code that this request was granted when it came before."""
    use = await runtime.key_use(runtime.current().sale.id, user_id, key.text)
    if use is None:
        return None
    if use.item_id != key.item_id:
        raise Refusal(IDEMPOTENCY_KEY_REUSED)
    count_answer("checkout", "repeated")
    return use.code


async def purchase(runtime: Runtime, *, code: UUID) -> None:
    """Buy the item that this code holds. Returns once that is committed.

    The database decides, so the code may come from any worker, and from a sale that has ended.
    """
    waiter = Waiter()
    await waiter.wait(start_purchase(runtime, code, waiter.answer))


async def release(runtime: Runtime, *, code: UUID) -> None:
    """Give back the item that this code holds. Doing it again is no error."""
    waiter = Waiter()
    await waiter.wait(start_release(runtime, code, waiter.answer))


async def receipt(runtime: Runtime, *, code: UUID) -> Receipt:
    """What became of a checkout, from the database."""
    found = await runtime.receipt(code)
    if found is None:
        raise Refusal(UNKNOWN_CODE)
    return found


async def status(runtime: Runtime, *, sale_id: int | None = None) -> SaleStatus:
    """The current sale, or any other, with what was committed before the question.

    Where the database does not answer, the counts are those that this worker knows.
    """
    memory = runtime.memory
    inventory: Inventory | None
    if sale_id is None:
        inventory = runtime.current()
    elif (inventory := memory.inventories.get(sale_id)) is None:
        return await _status_from_database(runtime, sale_id)
    inventory = await runtime.look(inventory)
    return SaleStatus(
        sale=inventory.sale,
        sold=inventory.sold,
        held=inventory.held + inventory.unswept,
        next_starts_at=memory.next_starts_at(),
    )


async def _status_from_database(runtime: Runtime, sale_id: int) -> SaleStatus:
    """That of a sale which this worker does not remember."""
    found = await runtime.counts(sale_id)
    if found is None:
        raise Refusal(NO_SALE.saying(f"There is no sale {sale_id}."))
    return SaleStatus(
        sale=found.sale, sold=found.sold, held=found.held, next_starts_at=runtime.memory.next_starts_at()
    )


async def certificate(runtime: Runtime, *, sale_id: int) -> dict[str, Any]:
    """The certificate of a sale as it was written when the sale was over, for the public.

    The rows that break an invariant, if any do, are not for the public: they name users and codes.
    """
    found = await runtime.certificate(sale_id)
    if found is None:
        raise Refusal(NO_SALE.saying(f"There is no sale {sale_id}."))
    over_at, document = found
    if document is None:
        raise Refusal(
            NO_CERTIFICATE.saying(
                f"The certificate of sale {sale_id} is written when nothing of it can change any more: "
                f"within seconds after {datetime.fromtimestamp(over_at, UTC):%Y-%m-%d %H:%M:%S} UTC."
            )
        )
    public: dict[str, Any] = json.loads(document)
    for invariant in public["invariants"]:
        del invariant["examples"]
    return public
