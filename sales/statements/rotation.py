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

# New items fill their pages by half, so that what becomes of them stays on their page and touches no index.
# PostgreSQL tidies a page up whenever less of it is free than was left so, which from then on is always:
# a tenth of its work in a sale. So the room is left while items are made, and then said to be for use.
# Both are seen by nobody but this transaction, and wait for nobody but a vacuum.
LEAVE_ROOM = """SET LOCAL lock_timeout TO '1s'; ALTER TABLE sales_saleitem SET (fillfactor = 50);
                SET LOCAL lock_timeout TO DEFAULT"""
USE_ROOM = "SET CONSTRAINTS ALL IMMEDIATE; ALTER TABLE sales_saleitem SET (fillfactor = 100)"
