"""What people do at a worker and are told by it, and time that passes for what they hold."""

from collections.abc import Awaitable, Callable
from uuid import UUID

from sales import services
from sales.models import Sale
from sales.runtime import Runtime
from tests.support.database import Sql

MakeSale = Callable[..., Sale]
"""The fixture ``make_sale``."""

OpenWorker = Callable[[], Awaitable[Runtime]]
"""The fixture ``open_worker``."""


async def buy(worker: Runtime, user_id: int, item_id: int | None = None) -> UUID:
    """Hold an item and buy it; its code."""
    code = await services.checkout(worker, user_id=user_id, item_id=item_id)
    await services.purchase(worker, code=code)
    return code


async def counts(worker: Runtime) -> tuple[int, int, int]:
    """Sold, held, available, as whoever asks this worker is told."""
    status = await services.status(worker)
    return status.sold, status.held, status.available


def age(sql: Sql, *codes: UUID) -> None:
    """Make holds, and purchases, as old as if they had been granted an hour earlier."""
    sql(
        """WITH item AS (
               UPDATE sales_saleitem SET held_until = held_until - interval '1 hour',
                                         purchased_at = purchased_at - interval '1 hour',
                                         version = version + 1
               WHERE code = ANY(%s) RETURNING sale_id, item_id
           ), noted AS (
               INSERT INTO sales_change (sale_id, xid, batch, item_ids)
               SELECT sale_id, pg_current_xact_id()::text::bigint, 0, array_agg(item_id)
               FROM item GROUP BY sale_id
           )
           UPDATE sales_checkout SET created_at = created_at - interval '1 hour',
                                     expires_at = expires_at - interval '1 hour',
                                     purchased_at = purchased_at - interval '1 hour'
           WHERE code = ANY(%s)""",
        list(codes),
        list(codes),
    )
