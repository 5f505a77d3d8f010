"""What workers read: sales, items, and what became of what they wrote."""

from sales.codes import MAX_ITEMS
from sales.statements.parts import (
    CHECKOUT_HELD,
    CONFIRMED,
    ITEM,
    ITEM_HELD,
    ITEM_SOLD,
    OVER_AT,
    PURCHASED_AT,
    SALE,
    SERVER,
    SOLD_BY_IT,
    STATE,
)

RECEIPT = f"""
    SELECT code, sale_id, item_id, user_id, created_at, expires_at, purchased_at, state,
           state = {CHECKOUT_HELD} AND expires_at <= now() AS is_over, {CONFIRMED} AS confirmed
    FROM (SELECT checkout.code, checkout.sale_id, checkout.item_id, checkout.user_id, checkout.created_at,
                 checkout.expires_at, {PURCHASED_AT}, {STATE}
          FROM unnest(%(sales)s::bigint[], %(codes)s::uuid[]) AS wanted (sale_id, code)
          CROSS JOIN LATERAL (
              SELECT * FROM sales_checkout AS checkout
              WHERE checkout.sale_id = wanted.sale_id AND checkout.code = wanted.code OFFSET 0
          ) AS checkout {SOLD_BY_IT}) AS checkout"""

KEYED = f"""
    SELECT used.user_id, used.key, used.item_id, used.code, {CONFIRMED} AS confirmed
    FROM unnest(%(users)s::bigint[], %(keys)s::text[]) AS asked (user_id, key)
    CROSS JOIN LATERAL (
        SELECT * FROM sales_idempotencykey AS used
        WHERE used.sale_id = %(sale)s AND used.user_id = asked.user_id AND used.key = asked.key OFFSET 0
    ) AS used"""

# What became of a batch whose answer was lost.
HELD = f"""SELECT {ITEM}, {CONFIRMED} AS confirmed FROM sales_saleitem
           WHERE sale_id = %(sale)s AND id = ANY(%(ids)s::bigint[]) AND code = ANY(%(codes)s::uuid[])"""
BOUGHT = f"""SELECT code, {ITEM}, {CONFIRMED} AS confirmed FROM sales_saleitem
             WHERE sale_id = %(sale)s AND id = ANY(%(ids)s::bigint[]) AND code = ANY(%(codes)s::uuid[])
               AND state = {ITEM_SOLD}
               AND item_id IN (SELECT unnest(item_ids) FROM sales_change
                               WHERE sale_id = %(sale)s AND batch = %(batch)s)"""

# Whom a batch of holds would take over the limit: their users, then the sale, twice.
OVER_LIMIT = """SELECT wanted.user_id
                FROM sales_sale AS sale, unnest(%s::bigint[]) AS wanted (user_id)
                LEFT JOIN LATERAL (
                    SELECT taken FROM sales_allowance AS allowance
                    WHERE allowance.user_id = wanted.user_id AND allowance.sale_id = %s OFFSET 0
                ) AS allowance ON true
                WHERE sale.id = %s
                GROUP BY wanted.user_id, allowance.taken, sale.user_limit
                HAVING count(*) + coalesce(allowance.taken, 0) > sale.user_limit"""

# --- sales

# What is asked at every start and every tick is asked of the sales that are not closed: a partial index has
# these few, so that it costs the same after ten thousand sales as after one.
UNCERTIFIED = f"SELECT id FROM sales_sale WHERE NOT closed AND {OVER_AT} <= now()"

STARTED = "SELECT id FROM sales_sale WHERE NOT closed AND starts_at <= now() ORDER BY starts_at"

NOT_CLOSED = "SELECT id FROM sales_sale WHERE NOT closed AND starts_at <= now() AND id = ANY(%s::bigint[])"

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

# A watermark is the oldest transaction that had not ended when it was taken: what was committed by any before
# was seen then. So whoever asks next asks for what those from there on have changed, but for the batches that
# they know as their own. That costs what was changed, however many items there are.
_MARK = f"SELECT {SERVER} AS server, pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS watermark"

CHANGES = f"""
    WITH mark AS MATERIALIZED ({_MARK})
    SELECT mark.*, item.* FROM mark LEFT JOIN (
        SELECT {ITEM} FROM (
            SELECT %(sale)s::bigint * {MAX_ITEMS} + unnest(item_ids) AS id FROM sales_change
            WHERE sale_id = %(sale)s AND xid >= %(since)s AND batch <> ALL (%(known)s::bigint[])
            UNION SELECT unnest(%(ids)s::bigint[])
        ) AS changed CROSS JOIN LATERAL (
            SELECT * FROM sales_saleitem AS item
            WHERE item.sale_id = %(sale)s AND item.id = changed.id OFFSET 0
        ) AS item
    ) AS item ON true
"""

LOAD = f"""
    WITH mark AS MATERIALIZED ({_MARK})
    SELECT mark.*, item.* FROM mark LEFT JOIN (
        SELECT {ITEM} FROM sales_saleitem
        WHERE sale_id = %(sale)s AND id >= %(sale)s::bigint * {MAX_ITEMS} + %(first)s AND version > 0
        ORDER BY sale_id, id LIMIT %(most)s
    ) AS item ON true
"""
