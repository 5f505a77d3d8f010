"""The rows of the model database, and its tables."""

from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from sales.models import SaleItem

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
    """A row of ``sales_saleitem``."""

    sale_id: int
    item_id: int
    version: int = 0
    state: str = "available"
    user_id: int | None = None
    code: UUID | None = None
    held_until: float | None = None
    purchased_at: float | None = None

    @property
    def columns(self) -> tuple[int, int, int, int | None, float | None]:
        """`sales.statements.parts.ITEM`."""
        return self.item_id, self.version, STATES[self.state], self.user_id, self.held_until


class Checkout(NamedTuple):
    """A row of ``sales_checkout``; see `Tables.told` for what became of it."""

    code: UUID
    sale_id: int
    item_id: int
    user_id: int
    created_at: float
    expires_at: float
    purchased_at: float | None
    state: str


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
    changes: dict[tuple[int, int, int], tuple[int, ...]]
    """By sale, transaction and batch: the items that it has changed."""

    @classmethod
    def empty(cls) -> "Tables":
        """No rows."""
        return cls({}, {}, {}, {}, {})

    def told(self, code: UUID) -> Checkout | None:
        """A checkout in the state that its item tells: purchased, where the item is sold by it."""
        checkout = self.checkouts.get(code)
        if checkout is None or checkout.state != "held":
            return checkout
        item = self.items[SaleItem.id_of(checkout.sale_id, checkout.item_id)]
        if (item.state, item.code) != ("sold", code):
            return checkout
        assert item.purchased_at is not None
        return checkout._replace(state="purchased", purchased_at=max(item.purchased_at, checkout.created_at))

    def update(self, other: "Tables") -> None:
        """Take over the rows of the other."""
        self.items.update(other.items)
        self.checkouts.update(other.checkouts)
        self.allowances.update(other.allowances)
        self.keys.update(other.keys)
        self.changes.update(other.changes)

    def copy(self) -> "Tables":
        """A snapshot: rows never change."""
        return Tables(
            self.items.copy(),
            self.checkouts.copy(),
            self.allowances.copy(),
            self.keys.copy(),
            self.changes.copy(),
        )
