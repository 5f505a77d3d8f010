"""Making sales: aligned to the wall clock, one after another, created ahead of their time.

That is housekeeping of workers, and what a service does before it starts any (``runsale``, ``rotatesale``).
"""

import contextlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from django.db import DatabaseError, connection, transaction

from sales import statements
from sales.conf import SaleOptions
from sales.models import Sale

logger = logging.getLogger(__name__)


def rotate(options: SaleOptions) -> list[Sale]:
    """Make sure that the current and the next sale exist; return those made now.

    Sales are aligned to multiples of ``options.period`` since the epoch (the UTC hour by default), as
    far as the sales that exist leave room: whatever was made with another period goes on to its end.
    Safe to repeat and to race. Time is the database's. Raises Django's database errors.
    """
    created = []
    with transaction.atomic(), connection.cursor() as cursor:
        # One at a time: whoever comes second finds what the first has made.
        cursor.execute(statements.LOCK_ROTATION)
        cursor.execute(statements.MOMENT)
        moment: datetime = cursor.fetchone()[0]
        for _ in ("current", "next"):
            sale = Sale.objects.at(moment).first()
            if sale is None:
                sale = create_sale(_next_to_be(moment, options))
                created.append(sale)
            moment = sale.ends_at
    return created


def log_created(sales: Iterable[Sale]) -> None:
    """Log the sales that a service has made."""
    for sale in sales:
        fields = {"sale_id": sale.pk, "items": sale.items, "starts_at": sale.starts_at.isoformat()}
        logger.info("sale.created", extra={"fields": fields})


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """A sale that goes on as it was made, and how options would have made it instead."""

    sale: Sale
    wanted: Sale


def kept(options: SaleOptions) -> list[Kept]:
    """The current sale and those that follow it without a gap, where these options would make others of them.

    Time is the database's. Raises Django's database errors.
    """
    with connection.cursor() as cursor:
        cursor.execute(statements.MOMENT)
        moment: datetime = cursor.fetchone()[0]
    found = []
    names = ("items", "user_limit", "checkout_ttl", "starts_at", "ends_at")
    while (sale := Sale.objects.at(moment).first()) is not None:
        wanted = _next_to_be(sale.starts_at, options)
        if any(getattr(sale, name) != getattr(wanted, name) for name in names):
            found.append(Kept(sale=sale, wanted=wanted))
        moment = sale.ends_at
    return found


def create_sale(sale: Sale) -> Sale:
    """Insert a sale with all its items. Raises Django's `IntegrityError` where it would overlap another."""
    with transaction.atomic(), connection.cursor() as cursor:
        sale.save(force_insert=True)
        has_room = False
        # Without a right to that, or beside a vacuum, it only costs time.
        with contextlib.suppress(DatabaseError), transaction.atomic():
            cursor.execute(statements.LEAVE_ROOM)
            has_room = True
        cursor.execute(statements.ITEMS, [sale.pk, sale.pk, sale.items])
        if has_room:
            cursor.execute(statements.USE_ROOM)
    return sale


def _next_to_be(moment: datetime, options: SaleOptions) -> Sale:
    """A sale that holds this moment, cut where its neighbours leave less room than a period."""
    number = int(moment.timestamp()) // options.period
    starts_at = datetime.fromtimestamp(number * options.period, UTC)
    ends_at = starts_at + timedelta(seconds=options.period)
    before = Sale.objects.filter(ends_at__gt=starts_at, ends_at__lte=moment).order_by("ends_at").last()
    after = Sale.objects.filter(starts_at__gt=moment, starts_at__lt=ends_at).order_by("starts_at").first()
    return Sale(
        starts_at=before.ends_at if before else starts_at,
        ends_at=after.starts_at if after else ends_at,
        items=options.items,
        user_limit=options.user_limit,
        checkout_ttl=options.checkout_ttl,
    )
