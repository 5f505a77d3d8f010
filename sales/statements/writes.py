"""What changes sales: each statement for a whole batch.

Rows are locked in a fixed order everywhere: items by id, then allowances by user. An update locks its rows as
it comes to them, in the order of the arrays that it joins (sorted, by whoever sends them): the settings of a
worker's connections leave no other plan, see `sessions.SETTINGS`. Should two deadlock all the same, the one
that is refused is decided again.

The database's clock alone decides what is over: ``now()``, the start of a transaction.
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


def _noted(changed: str, *, sale: str = "%(sale)s", batch: str = "%(batch)s") -> str:
    """Say which items were changed, once for the whole batch: see `sales.models.Change`."""
    return f"""noted AS (
        INSERT INTO sales_change (sale_id, xid, batch, item_ids)
        SELECT {sale}::bigint, pg_current_xact_id()::text::bigint, {batch}::bigint, array_agg(item_id)
        FROM {changed} HAVING count(*) > 0
    )"""


# All of a batch lie between these ends. The planner takes such a condition for one that leaves a single row,
# so that it begins with the batch and looks each row of a table up by its key.
_WANTED = f"""wanted AS MATERIALIZED (
        SELECT * FROM unnest(%(ids)s::bigint[], %(codes)s::uuid[]) AS wanted (id, code)
        WHERE wanted.id BETWEEN 0 AND {2**63 - 1}
    )"""

# Named twice, so that the planner expects two rows of the sale at least. Where it expects one, and it does in
# a table that had next to none when it looked, going through all of the sale seems as good as the key.
_SALE = "ANY (ARRAY[%(sale)s, %(sale)s]::bigint[])"

PURCHASE = f"""
    WITH {_WANTED}, sold AS (
        UPDATE sales_saleitem AS item SET state = {ITEM_SOLD}, purchased_at = now(), version = version + 1
        FROM wanted
        WHERE item.sale_id = %(sale)s AND item.id = wanted.id AND item.code = wanted.code
          AND item.state = {ITEM_HELD} AND item.held_until > now()
        RETURNING item.*
    ), {_noted("sold")}
    SELECT code, item_id, version, {inventory.SOLD} AS state, user_id, {HELD_UNTIL} FROM sold
"""


def _mark(*, which: str, wanted: str = "") -> str:
    """Say in checkouts that they are purchased, where their items say so and their times allow it.

    One that somebody has locked is left out: nothing depends on it.
    """
    return f"""
    WITH {wanted} bought AS MATERIALIZED (
        SELECT checkout.code, greatest(item.purchased_at, checkout.created_at) AS purchased_at
        FROM {which} JOIN sales_checkout AS checkout
            ON checkout.sale_id = {_SALE} AND checkout.code = item.code AND checkout.state = {CHECKOUT_HELD}
        WHERE item.sale_id = %(sale)s AND item.state = {ITEM_SOLD}
          AND checkout.expires_at > greatest(item.purchased_at, checkout.created_at)
        FOR UPDATE OF checkout SKIP LOCKED
    )
    UPDATE sales_checkout AS checkout
    SET state = {CHECKOUT_PURCHASED}, purchased_at = bought.purchased_at
    FROM bought WHERE checkout.sale_id = {_SALE} AND checkout.code = bought.code
"""


MARK = _mark(
    wanted=f"{_WANTED},",
    which="wanted JOIN sales_saleitem AS item ON item.id = wanted.id AND item.code = wanted.code",
)
MARK_ALL = _mark(which="sales_saleitem AS item")


def _give_back(*, wanted: str, name: str = "wanted", compared: str, state: str) -> str:
    """Give items back, with what hangs on them, and close their checkouts in this ``state``.

    Which items that may be is what is ``wanted``, under this ``name``; ``compared`` is how the end of their
    hold must be to now.
    """
    return f"""
    WITH {wanted}, freed AS (
        UPDATE sales_saleitem AS item
        SET state = {ITEM_AVAILABLE}, user_id = NULL, code = NULL, held_until = NULL, version = version + 1
        FROM {name}
        WHERE item.sale_id = %(sale)s AND item.id = {name}.id AND item.code = {name}.code
          AND item.state = {ITEM_HELD} AND item.held_until {compared} now()
        RETURNING item.item_id, item.version, {name}.code
    ), closed AS (
        UPDATE sales_checkout AS checkout SET state = {state} FROM freed
        WHERE checkout.sale_id = {_SALE} AND checkout.code = freed.code
        RETURNING checkout.user_id
    ), owed AS MATERIALIZED (
        SELECT user_id, count(*) AS items FROM closed GROUP BY user_id ORDER BY user_id
    ), returned AS (
        UPDATE sales_allowance AS allowance SET taken = allowance.taken - owed.items
        FROM owed WHERE allowance.sale_id = {_SALE} AND allowance.user_id = owed.user_id
    ), {_noted("freed")}
    SELECT code, item_id, version FROM freed
"""


def _expire(of: str = "") -> str:
    """Give back what is over and that nobody is just changing: that is left to the next sweep."""
    over = f"""over AS MATERIALIZED (
        SELECT item.id, item.code FROM sales_saleitem AS item {of}
        WHERE item.sale_id = %(sale)s AND item.state = {ITEM_HELD} AND item.held_until <= now()
        ORDER BY item.id FOR UPDATE OF item SKIP LOCKED
    )"""
    return _give_back(wanted=over, name="over", compared="<=", state=CHECKOUT_EXPIRED)


RELEASE = _give_back(wanted=_WANTED, compared=">", state=CHECKOUT_RELEASED)

# All of a sale, whose items it reads; and those that a worker knows of.
SWEEP = _expire()
SWEEP_KNOWN = _expire(f"""JOIN (
            SELECT id FROM unnest(%(ids)s::bigint[]) AS known (id) WHERE id BETWEEN 0 AND {2**63 - 1}
        ) AS known USING (id)""")

# The same of single holds. Only once it is done a hold has expired for good: until then somebody whose
# statement began in time may be at it.
# Whoever only asks does not wait for long behind an allowance that somebody has locked.
TRY_EXPIRE = _expire(
    f"""JOIN (
            SELECT id, code FROM set_config('lock_timeout', '250ms', true) AS said (patience),
                                 unnest(%(ids)s::bigint[], %(codes)s::uuid[]) AS asked (id, code)
            WHERE id BETWEEN 0 AND {2**63 - 1}
        ) AS known USING (id, code)"""
)

# In one order, so that two batches with the same keys cannot deadlock.
_NAMED = """, named AS (
            INSERT INTO sales_idempotencykey (sale_id, user_id, key, item_id, code)
            SELECT %s, granted.user_id, asked.key, asked.item_id, code FROM granted
            JOIN unnest(%s::uuid[], %s::text[], %s::integer[]) AS asked (code, key, item_id) USING (code)
            ORDER BY granted.user_id, asked.key
        )"""


@lru_cache
def hold(sale_id: int, checkout_ttl: int, *, keyed: bool = False) -> tuple[VersionedUpdate, str]:
    """The versioned bulk save of held items, with what depends on it in the same statement.

    It takes the parameters of the save, then the sale three times and the batch, and ``keyed`` then the sale,
    and codes, keys and items of the holds that have a key. A user over the limit, or a key that was used
    before, makes it fail as a whole.
    """
    update = SaleItem.objects.filter(sale_id=sale_id, state=SaleItem.State.AVAILABLE).versioned_update(
        ["user_id", "code"],
        returning=["item_id", "user_id", "code", "held_until"],
        lock=False,
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
        ), {_noted("granted", sale="%s", batch="%s")} {_NAMED if keyed else ""}
        SELECT item_id, version, {inventory.HELD} AS state, user_id, {HELD_UNTIL} FROM granted
    """,
    )
