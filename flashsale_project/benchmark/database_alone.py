"""The database without a service: the same statements sell the same items, a hundred at a time.

What is left over between this and the service is the cost of HTTP, of batches and of Python. Run as
``python -m flashsale_project.benchmark.database_alone WHAT COUNT FIRST SECONDS PERIOD`` with a DATABASE_URL;
prints a `Sold` as JSON. WHAT is

- ``all``: make the tables of an empty database and a sale of so many items, sell it, and certify it;
- ``sell``: sell so many items of the current sale, from this one on, for as many seconds at most;
- ``past``: make the tables and so many sales that are over, for as many seconds at most.
"""

import asyncio
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import django

if TYPE_CHECKING:  # models can be imported once Django is set up
    from sales.models import Sale

BATCH = 100
"""Items for each statement."""

LARGE_BATCH = 1000
"""The same where it is not measured."""

PAST_ITEMS = 100
"""Items of a past sale."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sold:
    """What became of a sale: items sold, the seconds it took, and whether its certificate holds.

    Of past sales: how many there are.
    """

    items: int
    seconds: float
    is_valid: bool


def main(what: str, count: int, first: int, seconds: float, period: int) -> None:
    """Do it, and print what came of it."""
    django.setup()
    sold = {"all": _sell_all, "sell": _sell_some, "past": _make_past}[what](count, first, seconds, period)
    sys.stdout.write(json.dumps(asdict(sold)))


def _sell_all(count: int, first: int, seconds: float, period: int) -> Sold:
    from sales.certificate import certify

    _make_tables()
    sale = _rotated(count, period)
    _, spent = asyncio.run(_sell(range(count), BATCH, seconds))
    certificate = certify(sale)
    return Sold(items=certificate.sold, seconds=spent, is_valid=certificate.is_valid)


def _sell_some(count: int, first: int, seconds: float, period: int) -> Sold:
    sold, spent = asyncio.run(_sell(range(first, count), LARGE_BATCH, seconds))
    return Sold(items=first + sold, seconds=spent, is_valid=True)


def _make_past(count: int, first: int, seconds: float, period: int) -> Sold:
    """Sell one sale after another, and move each into the past."""
    from django.db import connection

    from sales.models import Sale

    _make_tables()
    began = time.perf_counter()
    made = 0
    while made < count and time.perf_counter() - began < seconds:
        sale = _rotated(PAST_ITEMS, period)
        asyncio.run(_sell(range(PAST_ITEMS), PAST_ITEMS, seconds))
        made += 1
        ago = timedelta(seconds=2 * period * made)
        Sale.objects.filter(pk=sale.pk).update(
            starts_at=sale.starts_at - ago, ends_at=sale.ends_at - ago, closed=True
        )
    connection.close()
    return Sold(items=made, seconds=time.perf_counter() - began, is_valid=True)


def _make_tables() -> None:
    from django.core.management import call_command

    call_command("migrate", verbosity=0, interactive=False)


def _rotated(items: int, period: int) -> "Sale":
    """The current sale, which has so many items where it is made now."""
    from django.db import connection

    from sales.conf import SaleOptions
    from sales.models import Sale
    from sales.rotation import rotate

    rotate(SaleOptions(items=items, user_limit=10, checkout_ttl=60, period=period))
    sale = Sale.objects.filter(closed=False).earliest("starts_at")
    connection.close()
    return sale


async def _sell(items: Sequence[int], size: int, seconds: float) -> tuple[int, float]:
    """Sell these items of the current sale until so many seconds are over.

    How many were sold, and the seconds from the first statement to the last commit. As in a worker, the next
    items are held while the last ones are bought.
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
            if codes and (await storage.purchase(sale.id, codes)).codes != set(codes):
                raise RuntimeError("A hold could not be bought.")

        order = random.sample(items, len(items))
        began = time.perf_counter()
        sold = 0
        codes: list[UUID] = []
        for start in range(0, len(order), size):
            if time.perf_counter() - began > seconds:
                break
            codes, _ = await asyncio.gather(hold(order[start : start + size]), buy(codes))
            sold += len(codes)
        await buy(codes)
        return sold, time.perf_counter() - began


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]))
