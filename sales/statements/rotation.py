"""Making sales."""

from sales.codes import MAX_ITEMS
from sales.statements.parts import ITEM_AVAILABLE

MOMENT = "SELECT clock_timestamp()"

# All items of a new sale: the sale, twice, and how many.
ITEMS = f"""
    INSERT INTO sales_saleitem (id, sale_id, item_id, state, version)
    SELECT %s::bigint * {MAX_ITEMS} + number, %s, number, {ITEM_AVAILABLE}, 0
    FROM generate_series(0, %s - 1) AS number
"""
