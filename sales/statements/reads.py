"""What workers read: sales, items, and what became of what they wrote."""

from sales.statements.parts import (
    CHECKOUT_HELD,
    CONFIRMED,
    ITEM,
    ITEM_HELD,
    ITEM_SOLD,
    OVER_AT,
    SALE,
    SERVER,
)

RECEIPT = f"""SELECT code, sale_id, item_id, user_id, created_at, expires_at, purchased_at,
                     state, state = {CHECKOUT_HELD} AND expires_at <= now() AS is_over,
                     {CONFIRMED} AS confirmed
              FROM sales_checkout WHERE code = ANY(%s::uuid[])"""

KEYED = f"""SELECT user_id, key, item_id, code, {CONFIRMED} AS confirmed FROM sales_idempotencykey
           JOIN unnest(%(users)s::bigint[], %(keys)s::text[]) AS asked (user_id, key) USING (user_id, key)
           WHERE sale_id = %(sale)s"""

# What became of a batch whose answer was lost.
HELD = f"""SELECT {ITEM}, {CONFIRMED} AS confirmed FROM sales_saleitem
           WHERE id = ANY(%(ids)s::bigint[]) AND code = ANY(%(codes)s::uuid[])"""
BOUGHT = f"""SELECT code, sale_id, {ITEM}, {CONFIRMED} AS confirmed FROM sales_saleitem
             WHERE id = ANY(%(ids)s::bigint[]) AND state = {ITEM_SOLD} AND code IN (
                 SELECT code FROM sales_checkout WHERE code = ANY(%(codes)s::uuid[]) AND batch = %(batch)s)"""

# Whom a batch of holds would take over the limit: their users, then the sale, twice.
OVER_LIMIT = """SELECT wanted.user_id
                FROM sales_sale AS sale, unnest(%s::bigint[]) AS wanted (user_id)
                LEFT JOIN sales_allowance AS allowance
                    ON allowance.user_id = wanted.user_id AND allowance.sale_id = %s
                WHERE sale.id = %s
                GROUP BY wanted.user_id, allowance.taken, sale.user_limit
                HAVING count(*) + coalesce(allowance.taken, 0) > sale.user_limit"""

# --- sales

# What is asked at every start and every tick is asked of the sales that are not closed: a partial index has
# these few, so that it costs the same after ten thousand sales as after one.
UNCERTIFIED = f"SELECT id FROM sales_sale WHERE NOT closed AND {OVER_AT} <= now()"

STARTED = "SELECT id FROM sales_sale WHERE NOT closed AND starts_at <= now() ORDER BY starts_at"

# Those that are not over, holds included, and of those to come the first.
LIVE_SALES = f"""{SALE} WHERE NOT closed AND {OVER_AT} > now()
                 AND starts_at <= coalesce(
                     (SELECT min(starts_at) FROM sales_sale WHERE starts_at > now()), now())"""

CERTIFICATES = f"""SELECT sale.id, extract(epoch FROM {OVER_AT})::float8 AS over_at, document::text,
                          CASE WHEN document IS NOT NULL THEN {CONFIRMED} END AS confirmed
                   FROM sales_sale AS sale LEFT JOIN sales_salecertificate ON sale_id = sale.id
                   WHERE sale.id = ANY(%s::bigint[])"""

# Any sales with their counts. Where nothing changes any more, or has not yet, no item is read.
COUNTS = f"""
    SELECT sale.*, coalesce((document ->> 'sold')::integer, counted.sold) AS sold, counted.held
    FROM ({SALE} WHERE id = ANY(%s::bigint[])) AS sale
    LEFT JOIN sales_salecertificate ON sale_id = sale.id
    CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE state = {ITEM_SOLD}) AS sold,
               count(*) FILTER (WHERE state = {ITEM_HELD}) AS held
        FROM sales_saleitem AS item
        WHERE document IS NULL AND starts_at <= extract(epoch FROM now()) AND item.sale_id = sale.id
    ) AS counted
"""

# --- the items of a sale

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
