"""The rows of all sales, read once, and the database's clock."""

import time
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg
from psycopg.rows import class_row

from tests.support import outcomes

R = TypeVar("R")

CLOCK_SLACK = 0.1
"""Seconds that the two clocks may drift apart, one being stepped or slewed, during a run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sale:
    """One sale; all times here are seconds since the epoch by the database's clock.

    ``rows`` are its rows of items, ``numbers`` their different numbers, from ``first`` to ``last``.
    """

    id: int
    starts_at: float
    ends_at: float
    items: int
    user_limit: int
    checkout_ttl: int
    rows: int
    numbers: int
    first: int
    last: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One unit that was ever touched."""

    sale_id: int
    item_id: int
    state: str
    version: int
    user_id: int | None
    code: str | None
    held_until: float | None
    purchased_at: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkout:
    """One granted hold."""

    code: str
    sale_id: int
    item_id: int
    user_id: int
    created_at: float
    expires_at: float
    purchased_at: float | None
    state: str

    @property
    def place(self) -> tuple[int, int]:
        """Sale and item."""
        return self.sale_id, self.item_id

    def told(self) -> str:
        """One line."""
        bought = f", purchased {self.purchased_at:.6f}" if self.purchased_at is not None else ""
        return (
            f"row {self.code}: sale {self.sale_id} item {self.item_id} user {self.user_id} {self.state}, "
            f"created {self.created_at:.6f}, expires {self.expires_at:.6f}{bought}"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Allowance:
    """What a user has of a sale."""

    sale_id: int
    user_id: int
    taken: int
    user_limit: int


@dataclass(frozen=True, kw_only=True)
class Clock:
    """The database's time less the monotonic clock is surely between these two (seconds)."""

    low: float
    high: float

    def earliest(self, moment: float) -> float:
        """The earliest monotonic time that a time of the database can be."""
        return moment - self.high

    def latest(self, moment: float) -> float:
        """The latest."""
        return moment - self.low


@dataclass(frozen=True, kw_only=True)
class Rows:
    """All rows in one snapshot, which was taken at ``read_at``."""

    read_at: float
    sales: list[Sale]
    items: list[Item]
    checkouts: list[Checkout]
    allowances: list[Allowance]

    def counts(self, sale_id: int) -> tuple[int, int]:
        """Sold and held items of a sale; a hold whose time is over does not count."""
        units = [item for item in self.items if item.sale_id == sale_id]
        sold = sum(item.state == "sold" for item in units)
        return sold, sum(item.state == "held" and (item.held_until or 0) > self.read_at for item in units)


SALES = """
    SELECT sale.id, extract(epoch FROM starts_at)::float8 AS starts_at,
           extract(epoch FROM ends_at)::float8 AS ends_at, items, user_limit, checkout_ttl, unit.*
    FROM sales_sale AS sale, LATERAL (
        SELECT count(*) AS rows, count(DISTINCT item_id) AS numbers,
               coalesce(min(item_id), -1) AS first, coalesce(max(item_id), -1) AS last
        FROM sales_saleitem WHERE sale_id = sale.id
    ) AS unit ORDER BY starts_at
"""

ITEMS = """
    SELECT sale_id, item_id, state, version, user_id, code::text,
           extract(epoch FROM held_until)::float8 AS held_until,
           extract(epoch FROM purchased_at)::float8 AS purchased_at
    FROM sales_saleitem WHERE version <> 0 OR state <> 'available'
"""

CHECKOUTS = f"""
    SELECT code::text, sale_id, item_id, user_id, state,
           extract(epoch FROM created_at)::float8 AS created_at,
           extract(epoch FROM expires_at)::float8 AS expires_at,
           extract(epoch FROM purchased_at)::float8 AS purchased_at
    FROM {outcomes.CHECKOUTS} ORDER BY created_at
"""

ALLOWANCES = "SELECT sale_id, user_id, taken, user_limit FROM sales_allowance"


def read(database_url: str) -> tuple[Rows, Clock]:
    """Read everything in one snapshot, and compare the clocks."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        before = time.monotonic()
        now = _moment(connection, "clock_timestamp()")
        after = time.monotonic()
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        rows = Rows(
            read_at=_moment(connection, "now()"),
            sales=_all(connection, Sale, SALES),
            items=_all(connection, Item, ITEMS),
            checkouts=_all(connection, Checkout, CHECKOUTS),
            allowances=_all(connection, Allowance, ALLOWANCES),
        )
    return rows, Clock(low=now - after - CLOCK_SLACK, high=now - before + CLOCK_SLACK)


def has_unswept(database_url: str) -> bool:
    """Whether there is a hold that is over and was not given back yet."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        found = "SELECT EXISTS (SELECT FROM sales_saleitem WHERE state = 'held' AND held_until < now())"
        return connection.execute(found).fetchone() == (True,)


def _moment(connection: psycopg.Connection[Any], expression: str) -> float:
    row = connection.execute(f"SELECT extract(epoch FROM {expression})::float8").fetchone()
    assert row is not None
    return float(row[0])


def _all(connection: psycopg.Connection[Any], kind: type[R], statement: str) -> list[R]:
    with connection.cursor(row_factory=class_row(kind)) as cursor:
        return cursor.execute(statement).fetchall()
