"""What became of checkouts, and that it stays so.

That its time has passed does not tell that a hold has expired: a purchase, or a release, whose statement
began before may still be committing. So a hold that is over is ended first, and only what its row says is
told.
"""

import asyncio
from collections.abc import Collection
from uuid import UUID

from sales import limits
from sales.memory import Memory
from sales.records import Receipt
from sales.refusals import DatabaseFailure
from sales.storage import Storage

Receipts = dict[UUID, Receipt]


async def receipts(storage: Storage, memory: Memory, codes: Collection[UUID]) -> Receipts:
    """The checkouts of these codes, as far as they exist. Raises `DatabaseUnavailable`.

    A hold that is over is told as held while somebody is just at it, or where the database takes no writes.
    """
    found = await storage.receipts(codes)
    try:
        if not await _end(storage, memory, found):
            return found
    except DatabaseFailure:
        return found
    return await storage.receipts(codes)


async def settled_receipts(storage: Storage, memory: Memory, codes: Collection[UUID]) -> Receipts:
    """`receipts`, once nobody is at any of them who came in time.

    That is waited for during `limits.SETTLE_TRIES` times `limits.SETTLE_PAUSE` seconds at most; what is held
    and over after that is told as held. Raises `DatabaseFailure`.
    """
    found = await storage.receipts(codes)
    for _ in range(limits.SETTLE_TRIES):
        if not await _end(storage, memory, found):
            break
        found = await storage.receipts(codes)
        if any(receipt.is_over for receipt in found.values()):
            await asyncio.sleep(limits.SETTLE_PAUSE)
    return found


async def _end(storage: Storage, memory: Memory, found: Receipts) -> bool:
    """End those of these holds that are over and that nobody is at; whether any are over."""
    over: dict[int, list[UUID]] = {}
    for receipt in found.values():
        if receipt.is_over:
            over.setdefault(receipt.sale_id, []).append(receipt.code)
    for sale_id, codes in over.items():
        memory.learn(await storage.expire(sale_id, codes))
    return bool(over)
