"""Times of day, and the sales that stand at them."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from django.db import connection

from sales.models import Sale
from sales.rotation import create_sale

SetClock = Callable[[datetime], None]

YEAR = 365 * 86_400
"""A period whose end no test run meets."""


def at(clock: str, *, day: int = 6) -> datetime:
    """A time of day far from today, so that nobody's own clock can be behind an answer."""
    return datetime.fromisoformat(f"2031-05-{day:02} {clock}+00:00")


def sale_from(start: str, end: str, *, items: int = 5) -> Sale:
    return create_sale(Sale(starts_at=at(start), ends_at=at(end), items=items, user_limit=1, checkout_ttl=1))


def spans(sales: list[Sale]) -> list[tuple[datetime, datetime]]:
    return [(sale.starts_at, sale.ends_at) for sale in sales]


def stored() -> list[Sale]:
    return list(Sale.objects.order_by("starts_at"))


def rows() -> list[tuple[Any, ...]]:
    """Every sale and every item, with its transaction: a row that was only written anew differs too."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT xmin::text, ctid::text, * FROM sales_sale ORDER BY id")
        sales = cursor.fetchall()
        cursor.execute("SELECT xmin::text, ctid::text, * FROM sales_saleitem ORDER BY id")
        return sales + cursor.fetchall()
