"""The SQL of sales, each statement for a whole batch.

Locks are taken in a fixed order everywhere (items by id, then allowances by user), so that batches that
meet cannot deadlock. The database's clock alone decides what is over: ``now()``, the start of a transaction.
"""

from datetime import timedelta
from functools import lru_cache

from django.db.models.functions import Now

from batching.contrib.django import VersionedUpdate
from sales import inventory
from sales.models import SaleItem

ITEM = """item_id, version, CASE state WHEN 'held' THEN 1 WHEN 'sold' THEN 2 ELSE 0 END,
           user_id, extract(epoch FROM held_until)::float8"""

# A column of each statement from whose rows something is told as done. Where there are synchronous standbys,
# a statement that found any rows writes a message, so that its own commit waits for a standby; and standbys
# get commits in their order, so when it returns they have all that it saw. That a row can be seen is not
# enough: once its session was kept from waiting, by an operator, a time limit or a restart, it is seen on
# this server alone, and a failover undoes it.
CONFIRMED = """(SELECT pg_logical_emit_message(true, 'flashsale', '')
                WHERE current_setting('synchronous_standby_names') <> '')"""

# Which server this is. It is told from any other, and from itself before a restart, by when it was started;
# and from itself before the crash of one of its processes, which does not change that, by where it recovered
# to. Rows may have gone back in the one case, and ids of transactions are given again in all of them.
SERVER = """hashtextextended(concat_ws(' ', extract(epoch FROM pg_postmaster_start_time()),
                                       pg_last_wal_replay_lsn()), 0)"""

RECEIPT = f"""SELECT code, sale_id, item_id, user_id, created_at, expires_at, purchased_at,
                     CASE WHEN state = 'held' AND expires_at <= now() THEN 'expired' ELSE state END AS state,
                     {CONFIRMED}
              FROM sales_checkout WHERE code = ANY(%s::uuid[])"""

SALE = """SELECT id, extract(epoch FROM starts_at)::float8 AS starts_at,
                  extract(epoch FROM ends_at)::float8 AS ends_at,
                  items, user_limit, checkout_ttl, paused FROM sales_sale"""

READ_ONLY = f"""SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean
                       OR NOT has_table_privilege('sales_saleitem', 'UPDATE'), {SERVER}, pg_backend_pid()"""

# Five seconds more: for a hold taken in the last moment, and its sweep.
OVER_AT = "ends_at + make_interval(secs => checkout_ttl + 5)"

# What is asked at every start and every tick is asked of the sales that are not closed: a partial index has
# these few, so that it costs the same after ten thousand sales as after one.
UNCERTIFIED = f"SELECT id FROM sales_sale WHERE NOT closed AND {OVER_AT} <= now()"

STARTED = "SELECT id FROM sales_sale WHERE NOT closed AND starts_at <= now() ORDER BY starts_at"

CERTIFICATES = f"""SELECT sale.id, extract(epoch FROM {OVER_AT})::float8, document::text,
                          CASE WHEN document IS NOT NULL THEN {CONFIRMED} END
                   FROM sales_sale AS sale LEFT JOIN sales_salecertificate ON sale_id = sale.id
                   WHERE sale.id = ANY(%s::bigint[])"""

# Any sales with their counts. Where nothing changes any more, or has not yet, no item is read.
COUNTS = f"""
    SELECT sale.*, coalesce((document ->> 'sold')::integer, counted.sold) AS sold, counted.held
    FROM ({SALE} WHERE id = ANY(%s::bigint[])) AS sale
    LEFT JOIN sales_salecertificate ON sale_id = sale.id
    CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE state = 'sold') AS sold,
               count(*) FILTER (WHERE state = 'held' AND held_until > now()) AS held
        FROM sales_saleitem AS item
        WHERE document IS NULL AND starts_at <= extract(epoch FROM now()) AND item.sale_id = sale.id
    ) AS counted
"""

LIVE = f""" WHERE NOT closed AND {OVER_AT} > now()
            AND starts_at <= coalesce(
                (SELECT min(starts_at) FROM sales_sale WHERE starts_at > now()), now())"""

# Rows that a transaction wrote which had not ended when the watermark was taken, or began later. Whatever
# else was committed was seen then. Ages of transaction ids are compared, not the ids: those wrap around.
_MARK = f"SELECT {SERVER} AS server, pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS watermark"

CHANGES = f"""
    WITH mark AS MATERIALIZED ({_MARK})
    SELECT mark.*, item.* FROM mark LEFT JOIN (
        SELECT {ITEM} FROM sales_saleitem
        WHERE sale_id = %(sale)s AND age(xmin) <= age((%(since)s::bigint & 4294967295)::text::xid)
    ) AS item ON true
"""

LOAD = f"""
    WITH mark AS MATERIALIZED ({_MARK})
    SELECT mark.*, item.* FROM mark LEFT JOIN (
        SELECT {ITEM} FROM sales_saleitem WHERE sale_id = %(sale)s AND version > 0
    ) AS item ON true
"""

PURCHASE = """
    WITH wanted AS MATERIALIZED (
        SELECT * FROM unnest(%(ids)s::bigint[], %(codes)s::uuid[]) AS wanted (id, code)
    ), locked AS MATERIALIZED (
        -- Should the database's clock have been set back since the hold: not before it.
        SELECT item.id, item.code, greatest(now(), checkout.created_at) AS moment
        FROM sales_saleitem AS item
        JOIN wanted USING (id, code)
        JOIN sales_checkout AS checkout ON checkout.code = wanted.code AND checkout.state = 'held'
        ORDER BY item.id FOR UPDATE OF item
    ), sold AS (
        UPDATE sales_saleitem AS item SET state = 'sold', purchased_at = moment, version = version + 1
        FROM locked
        WHERE item.id = locked.id AND item.code = locked.code
          AND item.state = 'held' AND item.held_until > moment
        RETURNING item.*
    ), closed AS (
        UPDATE sales_checkout AS checkout
        SET state = 'purchased', purchased_at = sold.purchased_at, batch = %(batch)s
        FROM sold WHERE checkout.code = sold.code
    )
    SELECT code, sale_id, item_id, version, 2, user_id, extract(epoch FROM held_until)::float8 FROM sold
"""

# Gives items back, with what hangs on them: %s is where the rows come from.
_GIVE_BACK = """
    WITH {wanted} locked AS MATERIALIZED (
        SELECT item.id, item.code, item.sale_id, item.user_id FROM sales_saleitem AS item {which}
        ORDER BY item.id FOR UPDATE OF item {wait}
    ), freed AS (
        UPDATE sales_saleitem AS item
        SET state = 'available', user_id = NULL, code = NULL, held_until = NULL, version = version + 1
        FROM locked
        WHERE item.id = locked.id AND item.code = locked.code
          AND item.state = 'held' AND item.held_until {compared} now()
        RETURNING item.item_id, item.version, locked.code, locked.sale_id, locked.user_id
    ), closed AS (
        UPDATE sales_checkout AS checkout SET state = '{state}' FROM freed WHERE checkout.code = freed.code
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

RELEASE = _GIVE_BACK.format(
    wanted="""wanted AS MATERIALIZED (
        SELECT * FROM unnest(%(ids)s::bigint[], %(codes)s::uuid[]) AS wanted (id, code)
    ),""",
    which="JOIN wanted USING (id, code)",
    wait="",
    compared=">",
    state="released",
)

# A row that somebody is just changing is left to the next sweep.
SWEEP = _GIVE_BACK.format(
    wanted="",
    which="WHERE item.sale_id = %(sale)s AND item.state = 'held' AND item.held_until <= now()",
    wait="SKIP LOCKED",
    compared="<=",
    state="expired",
)

TRY_LOCK = "SELECT pg_try_advisory_xact_lock(hashtext('flashsale sweep'), %s::integer)"

# What became of a batch whose answer was lost.
HELD = f"""SELECT {ITEM}, {CONFIRMED} FROM sales_saleitem
           WHERE id = ANY(%(ids)s::bigint[]) AND code = ANY(%(codes)s::uuid[])"""
BOUGHT = f"""SELECT code, sale_id, {ITEM}, {CONFIRMED} FROM sales_saleitem
             WHERE id = ANY(%(ids)s::bigint[]) AND state = 'sold' AND code IN (
                 SELECT code FROM sales_checkout WHERE code = ANY(%(codes)s::uuid[]) AND batch = %(batch)s)"""

# Of each connection of a worker. Its statements are planned once, most likely when the tables are empty, and
# then run while they grow by a million rows: a plan that is good for an empty table would scan them all. So
# they go by the indexes from the beginning. And compiling a plan takes longer than any of them runs.
# And whatever a role or a database prefers, an answer of 200 is a commit that lasts, and warnings are heard.
SETTINGS = """SELECT set_config('synchronous_commit', CASE WHEN chosen IN ('off', 'local') THEN 'on'
                                                      ELSE chosen END, false)
              FROM current_setting('synchronous_commit') AS chosen;
              SET client_min_messages TO warning;
              SET timezone TO 'UTC'; SET jit TO off; SET plan_cache_mode TO force_generic_plan;
              SET enable_seqscan TO off; SET enable_hashjoin TO off; SET enable_mergejoin TO off"""

SESSION = f"""SELECT pid, backend_start, {SERVER}, pg_is_in_recovery()
              FROM pg_stat_activity WHERE pid = pg_backend_pid()"""

# A session that is at work is left to finish, which takes it no longer than its end would: where it waits
# for a standby, ending it would show everybody what no standby has. Behind a lock, or somebody who does not
# read, it may stay for ever, and has committed nothing.
END_SESSION = """SELECT CASE WHEN state = 'active' AND coalesce(wait_event_type, '') NOT IN ('Lock', 'Client')
                             THEN false ELSE pg_terminate_backend(pid) END
                 FROM pg_stat_activity WHERE pid = %s AND backend_start = %s"""

AWAITING_STANDBY = """SELECT pid, backend_start FROM pg_stat_activity
                      WHERE pid = ANY(%s::integer[]) AND wait_event = 'SyncRep'"""


# In one order, so that two batches with the same keys cannot deadlock.
_NAMED = """, named AS (
            INSERT INTO sales_idempotencykey (sale_id, user_id, key, item_id, code)
            SELECT %s, granted.user_id, asked.key, asked.item_id, code FROM granted
            JOIN unnest(%s::uuid[], %s::text[], %s::integer[]) AS asked (code, key, item_id) USING (code)
            ORDER BY granted.user_id, asked.key
        )"""

KEYED = f"""SELECT user_id, key, item_id, code, {CONFIRMED} FROM sales_idempotencykey
           JOIN unnest(%(users)s::bigint[], %(keys)s::text[]) AS asked (user_id, key) USING (user_id, key)
           WHERE sale_id = %(sale)s"""


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
            SELECT code, %s, item_id, user_id, statement_timestamp(), held_until, 'held' FROM granted
        ) {_NAMED if keyed else ""}
        SELECT item_id, version, {inventory.HELD}, user_id, extract(epoch FROM held_until)::float8
        FROM granted
    """,
    )
