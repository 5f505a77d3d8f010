"""What operators do with sales, as plain functions that wait: the admin and the commands call these."""

import asyncio
import logging
from typing import TYPE_CHECKING

from django.contrib.admin.models import CHANGE, LogEntry
from django.db import transaction
from django.db.models import QuerySet

from sales.connections import connection_info
from sales.models import Sale
from sales.records import Changed
from sales.storage import Storage

if TYPE_CHECKING:
    from django.contrib.auth.models import User

logger = logging.getLogger(__name__)


def pause(sales: QuerySet[Sale], *, user: "User") -> list[Sale]:
    """Stop granting holds of these sales; workers know within a second. Return those that were not paused.

    Who did it is written down with it, in the history that the admin shows, and in the log. Raises Django's
    database errors, and then nothing was changed.
    """
    return _set_paused(sales, user, True)


def resume(sales: QuerySet[Sale], *, user: "User") -> list[Sale]:
    """Grant holds again, as `pause` stopped it; return the sales that were paused."""
    return _set_paused(sales, user, False)


def expire() -> int:
    """Give back the holds of all sales whose time is over, once; return how many.

    A row that somebody is just changing is left out. Raises `DatabaseUnavailable`; what was given
    back before that stays so.
    """
    return sum(len(changed.rows) for changed in asyncio.run(_sweep_all(connection_info())))


def _set_paused(sales: QuerySet[Sale], user: "User", paused: bool) -> list[Sale]:
    done = "paused" if paused else "resumed"
    with transaction.atomic():
        # Locked, so that two who do it at once do not both report it.
        changed = list(
            Sale.objects.select_for_update(no_key=True)
            .filter(pk__in=sales.order_by().values("pk"), paused=not paused)
            .order_by("pk")
        )
        Sale.objects.filter(pk__in=[sale.pk for sale in changed]).update(paused=paused)
        LogEntry.objects.log_actions(user.pk, changed, CHANGE, f"{done.capitalize()}.")
    for sale in changed:
        logger.info(f"sale.{done}", extra={"fields": {"sale_id": sale.pk, "user": user.get_username()}})
    return changed


async def _sweep_all(conninfo: str) -> list[Changed]:
    async with Storage(conninfo) as storage:
        return await storage.sweep_all()
