"""What changes sales: each statement for a whole batch.

Locks are taken in a fixed order everywhere (items by id, then allowances by user), so that batches that
meet cannot deadlock. The database's clock alone decides what is over: ``now()``, the start of a transaction.
"""

from datetime import timedelta
from functools import lru_cache

from django.db.models.functions import Now

from batching.contrib.django import VersionedUpdate
from sales import inventory
from sales.models import SaleItem
from sales.statements.parts import (
    CHECKOUT_EXPIRED,
    CHECKOUT_HELD,
    CHECKOUT_PURCHASED,
    CHECKOUT_RELEASED,
    HELD_UNTIL,
    ITEM_AVAILABLE,
    ITEM_HELD,
    ITEM_SOLD,
)

PURCHASE = f"""
    WITH wanted AS MATERIALIZED (
        SELECT * FROM unnest(%(ids)s::bigint[], %(codes)s::uuid[]) AS wanted (id, code)
    ), locked AS MATERIALIZED (
        -- Should the database's clock have been set back since the hold: not before it.
        SELECT item.id, item.code, greatest(now(), checkout.created_at) AS moment
        FROM sales_saleitem AS item
        JOIN wanted USING (id, code)
        JOIN sales_checkout AS checkout ON checkout.code = wanted.code AND checkout.state = {CHECKOUT_HELD}
        ORDER BY item.id FOR UPDATE OF item
    ), sold AS (
        UPDATE sales_saleitem AS item SET state = {ITEM_SOLD}, purchased_at = moment, version = version + 1
        FROM locked
        WHERE item.id = locked.id AND item.code = locked.code
          AND item.state = {ITEM_HELD} AND item.held_until > moment
        RETURNING item.*
    ), closed AS (
        UPDATE sales_checkout AS checkout
        SET state = {CHECKOUT_PURCHASED}, purchased_at = sold.purchased_at, batch = %(batch)s
        FROM sold WHERE checkout.code = sold.code
    )
    SELECT code, sale_id, item_id, version, {inventory.SOLD} AS state, user_id, {HELD_UNTIL} FROM sold
"""


def _give_back(*, which: str, wanted: str = "", wait: str = "", compared: str, state: str) -> str:
    """Give items back, with what hangs on them, and close their checkouts in this ``state``.

    ``which`` items that is may go by what is ``wanted``; ``compared`` is how the end of their hold is to now,
    and ``wait`` what to do about a row that somebody is just changing.
    """
    return f"""
    WITH {wanted} locked AS MATERIALIZED (
        SELECT item.id, item.code, item.sale_id, item.user_id FROM sales_saleitem AS item {which}
        ORDER BY item.id FOR UPDATE OF item {wait}
    ), freed AS (
        UPDATE sales_saleitem AS item
        SET state = {ITEM_AVAILABLE}, user_id = NULL, code = NULL, held_until = NULL, version = version + 1
        FROM locked
        WHERE item.id = locked.id AND item.code = locked.code
          AND item.state = {ITEM_HELD} AND item.held_until {compared} now()
        RETURNING item.item_id, item.version, locked.code, locked.sale_id, locked.user_id
    ), closed AS (
        UPDATE sales_checkout AS checkout SET state = {state} FROM freed WHERE checkout.code = freed.code
    ), owed AS MATERIALIZED (
        SELECT allowance.sale_id, allowance.user_id, back.items FROM sales_allowance AS allowance
        JOIN (SELECT sale_id, user_id, count(*) AS items FROM freed GROUP BY sale_id, user_id) AS back
            USING (sale_id, user_id)
        ORDER BY allowance.sale_id, allowance.user_id FOR UPDATE OF allowance
    ), returned AS (
        UPDATE sales_allowance AS allowance SET taken = allowance.taken - owed.items
        FROM owed WHERE allowance.sale_id = owed.sale_id AND allowance.user_id = owed.user_id
    )
    SELECT code, sale_id, item_id, version FROM freed
"""


RELEASE = _give_back(
    wanted="""wanted AS MATERIALIZED (
        SELECT * FROM unnest(%(ids)s::bigint[], %(codes)s::uuid[]) AS wanted (id, code)
    ),""",
    which="JOIN wanted USING (id, code)",
    compared=">",
    state=CHECKOUT_RELEASED,
)

# A row that somebody is just changing is left to the next sweep.
SWEEP = _give_back(
    which=f"WHERE item.sale_id = %(sale)s AND item.state = {ITEM_HELD} AND item.held_until <= now()",
    wait="SKIP LOCKED",
    compared="<=",
    state=CHECKOUT_EXPIRED,
)

# The same of single holds. Only once it is done a hold has expired for good: until then somebody whose
# statement began in time may be at it.
# Whoever only asks does not wait for long behind an allowance that somebody has locked.
TRY_EXPIRE = _give_back(
    wanted="""wanted AS MATERIALIZED (
        SELECT wanted.* FROM set_config('lock_timeout', '250ms', true),
                             unnest(%(ids)s::bigint[], %(codes)s::uuid[]) AS wanted (id, code)
    ),""",
    which="JOIN wanted USING (id, code)",
    wait="SKIP LOCKED",
    compared="<=",
    state=CHECKOUT_EXPIRED,
)

# In one order, so that two batches with the same keys cannot deadlock.
_NAMED = """, named AS (
            INSERT INTO sales_idempotencykey (sale_id, user_id, key, item_id, code)
            SELECT %s, granted.user_id, asked.key, asked.item_id, code FROM granted
            JOIN unnest(%s::uuid[], %s::text[], %s::integer[]) AS asked (code, key, item_id) USING (code)
            ORDER BY granted.user_id, asked.key
        )"""


@lru_cache
def hold(checkout_ttl: int, *, keyed: bool = False) -> tuple[VersionedUpdate, str]:
    """The versioned bulk save of held items, with what depends on it in the same statement.

    It takes the parameters of the save, then the sale twice, and ``keyed`` then the sale, and codes, keys
    and items of the holds that have a key. A user over the limit, or a key that was used before, makes it
    fail as a whole.
    """
    update = SaleItem.objects.filter(state=SaleItem.State.AVAILABLE).versioned_update(
        ["user_id", "code"],
        returning=["item_id", "user_id", "code", "held_until"],
        state=SaleItem.State.HELD,
        held_until=Now() + timedelta(seconds=checkout_ttl),
    )
    return (
        update,
        f"""
        WITH granted AS ({update.sql}), allowed AS (
            INSERT INTO sales_allowance (sale_id, user_id, taken, user_limit)
            SELECT sale.id, granted.user_id, count(*), sale.user_limit
            FROM granted, sales_sale AS sale WHERE sale.id = %s
            GROUP BY sale.id, granted.user_id ORDER BY granted.user_id
            ON CONFLICT (sale_id, user_id) DO UPDATE
            SET taken = sales_allowance.taken + excluded.taken, user_limit = excluded.user_limit
        ), opened AS (
            INSERT INTO sales_checkout (code, sale_id, item_id, user_id, created_at, expires_at, state)
            SELECT code, %s, item_id, user_id, statement_timestamp(), held_until, {CHECKOUT_HELD} FROM granted
        ) {_NAMED if keyed else ""}
        SELECT item_id, version, {inventory.HELD} AS state, user_id, {HELD_UNTIL} FROM granted
    """,
    )
