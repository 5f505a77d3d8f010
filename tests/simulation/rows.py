"""The rows of the model database, and its tables."""

from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

STATES = {"available": 0, "held": 1, "sold": 2}
"""What `sales.statements.parts.ITEM` makes of a state."""


class Sale(NamedTuple):
    """A row of ``sales_sale``, as `sales.statements.parts.SALE` reads it."""

    id: int
    starts_at: float
    ends_at: float
    items: int
    user_limit: int
    checkout_ttl: int
    paused: bool


class Counts(NamedTuple):
    """A `Sale` and its counts."""

    id: int
    starts_at: float
    ends_at: float
    items: int
    user_limit: int
    checkout_ttl: int
    paused: bool
    sold: int
    held: int


class Item(NamedTuple):
    """A row of ``sales_saleitem``, with the transaction that wrote it."""

    sale_id: int
    item_id: int
    version: int = 0
    state: str = "available"
    user_id: int | None = None
    code: UUID | None = None
    held_until: float | None = None
    purchased_at: float | None = None
    xmin: int = 0

    @property
    def columns(self) -> tuple[int, int, int, int | None, float | None]:
        """`sales.statements.parts.ITEM`."""
        return self.item_id, self.version, STATES[self.state], self.user_id, self.held_until


class Checkout(NamedTuple):
    """A row of ``sales_checkout``."""

    code: UUID
    sale_id: int
    item_id: int
    user_id: int
    created_at: float
    expires_at: float
    purchased_at: float | None
    state: str
    batch: int | None = None
    """The batch that bought it."""


class Key(NamedTuple):
    """An ``Idempotency-Key``, and the item that was asked for with it."""

    text: str
    item_id: int | None


class Wish(NamedTuple):
    """One row of a batch of holds."""

    id: int
    version: int
    user_id: int
    code: UUID
    key: Key | None = None


@dataclass
class Tables:
    """Rows by primary key."""

    items: dict[int, Item]
    checkouts: dict[UUID, Checkout]
    allowances: dict[tuple[int, int], int]
    keys: dict[tuple[int, int, str], tuple[int | None, UUID]]
    """By sale, user and text: the item that was asked for, and the code that was granted."""

    @classmethod
    def empty(cls) -> "Tables":
        """No rows."""
        return cls({}, {}, {}, {})

    def update(self, other: "Tables") -> None:
        """Take over the rows of the other."""
        self.items.update(other.items)
        self.checkouts.update(other.checkouts)
        self.allowances.update(other.allowances)
        self.keys.update(other.keys)

    def copy(self) -> "Tables":
        """A snapshot: rows never change."""
        return Tables(self.items.copy(), self.checkouts.copy(), self.allowances.copy(), self.keys.copy())
