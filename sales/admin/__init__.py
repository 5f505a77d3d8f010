"""The admin: everything can be looked at, sales can be paused and resumed, nothing else changes.

Rows belong to the service, which writes them a batch at a time (`sales.storage`). Items and checkouts
come by the million, so their lists keep to the primary keys, which sort by sale and then by item.
`Allowance` has a composite primary key, which Django's admin does not know.
"""

from sales.admin.careful import CarefulActions
from sales.admin.rows import CheckoutAdmin, SaleItemAdmin
from sales.admin.sales import SaleAdmin

__all__ = ["CarefulActions", "CheckoutAdmin", "SaleAdmin", "SaleItemAdmin"]
