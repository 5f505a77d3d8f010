"""The invariants of a sale, proven on one snapshot; each is asked with ``sale`` and ``examples``."""

from sales.statements.parts import (
    CHECKOUT_HELD,
    CHECKOUT_PURCHASED,
    ITEM_AVAILABLE,
    ITEM_HELD,
    ITEM_SOLD,
    PURCHASED_AT,
    SOLD_BY_IT,
    STATE,
)

# Before all others of the transaction. The invariants must be judged on one and the same state.
# Tables that were filled a moment ago have no statistics yet. The planner then takes them for tiny, and
# compares every item with every checkout: ten seconds for 10,000 of them. One core is enough, the others
# sell; and compiling the plans takes longer than running them.
WHOLE_TABLES = """SET LOCAL enable_nestloop TO off; SET LOCAL enable_mergejoin TO off;
                  SET LOCAL max_parallel_workers_per_gather TO 0; SET LOCAL jit TO off"""
SNAPSHOT = f"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY; {WHOLE_TABLES}"

ITEM_COUNTS = f"""
    SELECT now() AS issued_at,
           count(*) FILTER (WHERE state = {ITEM_SOLD}) AS sold,
           count(*) FILTER (WHERE state = {ITEM_HELD} AND held_until > now()) AS held,
           count(*) FILTER (WHERE state = {ITEM_HELD} AND held_until <= now()) AS expired,
           count(*) FILTER (WHERE state = {ITEM_AVAILABLE}) AS available,
           count(DISTINCT user_id) FILTER (WHERE state = {ITEM_SOLD}) AS users
    FROM sales_saleitem WHERE sale_id = %(sale)s
"""

# The checkouts of the sale, each in the state that its item tells.
_CHECKOUTS = f"""
    (SELECT checkout.code, checkout.sale_id, checkout.item_id, checkout.user_id, checkout.created_at,
            checkout.expires_at, {PURCHASED_AT}, {STATE}
     FROM sales_checkout AS checkout {SOLD_BY_IT} WHERE checkout.sale_id = %(sale)s) AS checkout
"""

# Each finds the rows that break the invariant, as readable text.
_BREAKING = {
    "every item from 0 to N-1 exists once: sold + held + available = items": f"""
        SELECT format('%%s items of %%s, numbered %%s to %%s',
                      count(item_id), sale.items, min(item_id), max(item_id))
        FROM sales_sale AS sale LEFT JOIN sales_saleitem AS item ON item.sale_id = sale.id
        WHERE sale.id = %(sale)s GROUP BY sale.items
        HAVING count(item_id) <> sale.items OR count(DISTINCT item_id) <> sale.items
            OR min(item_id) <> 0 OR max(item_id) <> sale.items - 1
            OR count(*) FILTER (WHERE state IN ({ITEM_SOLD}, {ITEM_HELD}, {ITEM_AVAILABLE})) <> sale.items
    """,
    "an item is purchased at most once": f"""
        SELECT format('item %%s was purchased %%s times', item_id, count(*))
        FROM {_CHECKOUTS} WHERE sale_id = %(sale)s AND state = {CHECKOUT_PURCHASED}
        GROUP BY item_id HAVING count(*) > 1
    """,
    "every sold item has exactly its purchased checkout, of the same user": f"""
        SELECT format('item %%s is sold to user %%s by %%s', item.item_id, item.user_id, item.code)
        FROM sales_saleitem AS item WHERE sale_id = %(sale)s AND state = {ITEM_SOLD} AND NOT EXISTS (
            SELECT FROM {_CHECKOUTS}
            WHERE checkout.code = item.code AND checkout.state = {CHECKOUT_PURCHASED}
              AND checkout.sale_id = item.sale_id AND checkout.item_id = item.item_id
              AND checkout.user_id = item.user_id
              AND checkout.purchased_at = greatest(item.purchased_at, checkout.created_at))
    """,
    "every purchased checkout is of an item sold by it": f"""
        SELECT format('checkout %%s of item %%s is purchased', checkout.code, checkout.item_id)
        FROM {_CHECKOUTS}
        WHERE sale_id = %(sale)s AND state = {CHECKOUT_PURCHASED} AND NOT EXISTS (
            SELECT FROM sales_saleitem AS item
            WHERE item.sale_id = checkout.sale_id AND item.item_id = checkout.item_id
              AND item.state = {ITEM_SOLD} AND item.code = checkout.code)
    """,
    "every held item has exactly its held checkout, of the same user and until the same time": f"""
        SELECT format('item %%s is held by user %%s by %%s', item.item_id, item.user_id, item.code)
        FROM sales_saleitem AS item WHERE sale_id = %(sale)s AND state = {ITEM_HELD} AND NOT EXISTS (
            SELECT FROM {_CHECKOUTS}
            WHERE checkout.code = item.code AND checkout.state = {CHECKOUT_HELD}
              AND checkout.sale_id = item.sale_id AND checkout.item_id = item.item_id
              AND checkout.user_id = item.user_id AND checkout.expires_at = item.held_until)
    """,
    "every held checkout is of an item held by it": f"""
        SELECT format('checkout %%s of item %%s is held', checkout.code, checkout.item_id)
        FROM {_CHECKOUTS}
        WHERE sale_id = %(sale)s AND state = {CHECKOUT_HELD} AND NOT EXISTS (
            SELECT FROM sales_saleitem AS item
            WHERE item.sale_id = checkout.sale_id AND item.item_id = checkout.item_id
              AND item.state = {ITEM_HELD} AND item.code = checkout.code)
    """,
    "each user's allowance is what they hold and have bought": f"""
        SELECT format('user %%s: allowance %%s, items %%s', user_id, coalesce(taken, 0), coalesce(items, 0))
        FROM (SELECT user_id, taken FROM sales_allowance WHERE sale_id = %(sale)s) AS allowance
        FULL JOIN (SELECT user_id, count(*) AS items FROM sales_saleitem
                   WHERE sale_id = %(sale)s AND state <> {ITEM_AVAILABLE} GROUP BY user_id) AS owned
            USING (user_id)
        WHERE coalesce(taken, 0) <> coalesce(items, 0)
    """,
    "no user has more than the limit": f"""
        SELECT format('user %%s has %%s of %%s',
                      user_id, greatest(allowance.taken, owned.items), sale.user_limit)
        FROM (SELECT user_id, taken FROM sales_allowance WHERE sale_id = %(sale)s) AS allowance
        FULL JOIN (SELECT user_id, count(*) AS items FROM sales_saleitem
                   WHERE sale_id = %(sale)s AND state <> {ITEM_AVAILABLE} GROUP BY user_id) AS owned
            USING (user_id)
        JOIN sales_sale AS sale ON sale.id = %(sale)s
        WHERE greatest(allowance.taken, owned.items) > sale.user_limit
    """,
    "no purchase after its hold expired": f"""
        SELECT format('checkout %%s expired %%s, purchased %%s', code, expires_at, purchased_at)
        FROM {_CHECKOUTS} WHERE sale_id = %(sale)s AND state = {CHECKOUT_PURCHASED}
          AND (purchased_at >= expires_at OR purchased_at < created_at)
    """,
}

# Some of the rows that break each, and how many do.
INVARIANTS = {
    invariant: f"""
        SELECT example, count(*) OVER () AS broken FROM ({breaking}) AS found (example) LIMIT %(examples)s
    """
    for invariant, breaking in _BREAKING.items()
}
