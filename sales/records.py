"""What the database tells a worker, beside the rows of items (`sales.inventory.ItemRow`)."""

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sales.inventory import Hold, ItemRow, SaleFacts


class Receipt(NamedTuple):
    """A checkout as its user may see it.

    What is ``expired`` stays so. What is ``held`` may be over: while somebody who came in time is at it.
    """

    code: UUID
    sale_id: int
    item_id: int
    user_id: int
    created_at: datetime
    expires_at: datetime
    purchased_at: datetime | None
    state: str
    is_over: bool
    """Held, and its time had passed when it was read."""


class Mark(NamedTuple):
    """Until when the items of a sale are known: all that this server had committed at this watermark."""

    server: int
    watermark: int


class KeyUse(NamedTuple):
    """What a key was used for: the item asked for (``None``: any), and the code that was granted."""

    item_id: int | None
    code: UUID


@dataclass(frozen=True, slots=True)
class Changed:
    """What a ``batch`` has changed: the ``codes`` that it acted on, and the rows of their items, of one sale.

    ``server`` is where that was done, for who knows those items from another one.
    """

    server: int
    sale_id: int
    batch: int
    codes: set[UUID]
    rows: list[ItemRow]


@dataclass(frozen=True, slots=True)
class Granted:
    """What became of a batch of holds: what was ``saved``, if anything, and the holds that were not."""

    saved: Changed | None
    stale: list[Hold]
    repeated: dict[Hold, KeyUse]


@dataclass(frozen=True, slots=True)
class Counts:
    """A sale, and how many of its items are sold and held."""

    sale: SaleFacts
    sold: int
    held: int
