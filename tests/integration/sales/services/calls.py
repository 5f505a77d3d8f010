"""Calls at the same time, and what a worker knows after them."""

import asyncio
from collections import Counter
from collections.abc import Awaitable
from typing import Any

from sales.refusals import Refusal
from sales.runtime import Runtime


async def gather(*calls: Awaitable[Any]) -> Counter[str]:
    """Run calls at the same time and count how they ended."""
    ends = await asyncio.gather(*calls, return_exceptions=True)
    for end in ends:
        if isinstance(end, BaseException) and not isinstance(end, Refusal):
            raise end
    return Counter(end.reason.name if isinstance(end, Refusal) else "ok" for end in ends)


def known(worker: Runtime) -> tuple[int, int, int]:
    """Sold, held, available, as this worker knows, without asking the database."""
    inventory = worker.current()
    inventory.expire(worker.memory.clock.now())
    return inventory.sold, inventory.held, inventory.available
