"""Pieces that several statements are put together from."""

from sales import inventory
from sales.codes import MAX_ITEMS
from sales.models import Checkout, SaleItem

# The states, as the tables have them.
ITEM_AVAILABLE = f"'{SaleItem.State.AVAILABLE}'"
ITEM_HELD = f"'{SaleItem.State.HELD}'"
ITEM_SOLD = f"'{SaleItem.State.SOLD}'"
CHECKOUT_HELD = f"'{Checkout.State.HELD}'"
CHECKOUT_PURCHASED = f"'{Checkout.State.PURCHASED}'"
CHECKOUT_EXPIRED = f"'{Checkout.State.EXPIRED}'"
CHECKOUT_RELEASED = f"'{Checkout.State.RELEASED}'"

HELD_UNTIL = "extract(epoch FROM held_until)::float8 AS held_until"

# The columns of `sales.inventory.ItemRow`, in its order.
ITEM = f"""item_id, version,
           CASE state WHEN {ITEM_HELD} THEN {inventory.HELD} WHEN {ITEM_SOLD} THEN {inventory.SOLD}
                      ELSE {inventory.AVAILABLE} END AS state,
           user_id, {HELD_UNTIL}"""

# Joins an item to its ``checkout`` where it is sold by it. A purchase writes the row of the item alone, so
# that a checkout is purchased where its item says so; its own row is marked later, see `writes.MARK`.
SOLD_BY_IT = f"""LEFT JOIN sales_saleitem AS bought
    ON bought.sale_id = checkout.sale_id AND bought.id = checkout.sale_id * {MAX_ITEMS} + checkout.item_id
    AND bought.code = checkout.code AND bought.state = {ITEM_SOLD} AND checkout.state = {CHECKOUT_HELD}"""

# Columns of a checkout that is joined so. Should the database's clock have been set back since the hold, it
# was not purchased before it.
STATE = f"CASE WHEN bought.id IS NULL THEN checkout.state ELSE {CHECKOUT_PURCHASED} END AS state"
PURCHASED_AT = """CASE WHEN bought.id IS NULL THEN checkout.purchased_at
                       ELSE greatest(bought.purchased_at, checkout.created_at) END AS purchased_at"""

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

# The columns of `sales.inventory.SaleFacts`, by its names.
SALE = """SELECT id, extract(epoch FROM starts_at)::float8 AS starts_at,
                  extract(epoch FROM ends_at)::float8 AS ends_at,
                  items, user_limit, checkout_ttl, paused FROM sales_sale"""

# Five seconds more: for a hold taken in the last moment, and its sweep.
OVER_AT = "ends_at + make_interval(secs => checkout_ttl + 5)"
