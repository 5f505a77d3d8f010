"""The database without a service: the same statements sell the same items, a hundred at a time.

What is left over between this and the service is the cost of HTTP, of batches and of Python. Run as
``python -m flashsale_project.benchmark.database_alone ITEMS PERIOD`` with the DATABASE_URL of an empty
database; prints a `Sold` as JSON.
"""

import asyncio
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from uuid import UUID

import django

BATCH = 100
"""Items for each statement."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sold:
    """What became of a sale: items sold, the seconds it took, and whether its certificate holds."""

    items: int
    seconds: float
    is_valid: bool


def main(items: int, period: int) -> None:
    """Make the tables and a sale, sell it, and certify it."""
    django.setup()
    from django.core.management import call_command
    from django.db import connection

    from sales.certificate import certify
    from sales.conf import SaleOptions
    from sales.rotation import rotate

    call_command("migrate", verbosity=0, interactive=False)
    current, _ = rotate(SaleOptions(items=items, user_limit=10, checkout_ttl=60, period=period))
    connection.close()
    seconds = asyncio.run(_sell())
    certificate = certify(current)
    sold = Sold(items=certificate.sold, seconds=seconds, is_valid=certificate.is_valid)
    sys.stdout.write(json.dumps(asdict(sold)))


async def _sell() -> float:
    """Sell the current sale; the seconds from the first statement to the last commit.

    As in a worker, the next items are held while the last ones are bought.
    """
    from sales.connections import connection_info
    from sales.inventory import HoldBatch, Inventory
    from sales.storage import Storage

    async with Storage(connection_info()) as storage:
        _, offset, sales = await storage.sales()
        sale = min(sales, key=lambda sale: sale.starts_at)
        inventory = Inventory(sale, [])

        async def hold(wanted: Sequence[int]) -> list[UUID]:
            batch = HoldBatch(inventory, time.monotonic() + offset)
            for item in wanted:
                batch.hold(random.randrange(2**40), item)
            granted = await storage.hold(sale, batch.holds.values())
            if granted.stale:
                raise RuntimeError(f"{len(granted.stale)} items were refused though nobody else buys.")
            return [hold.code for hold in batch.holds.values()]

        async def buy(codes: list[UUID]) -> None:
            if codes and (await storage.purchase(codes)).codes != set(codes):
                raise RuntimeError("A hold could not be bought.")

        order = random.sample(range(sale.items), sale.items)
        began = time.perf_counter()
        codes: list[UUID] = []
        for start in range(0, sale.items, BATCH):
            codes, _ = await asyncio.gather(hold(order[start : start + BATCH]), buy(codes))
        await buy(codes)
        return time.perf_counter() - began


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
