"""A healthy sale with items in every state, and the means to damage it."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from django.db import connection, models

from sales import services
from sales.certificate import certify
from sales.codes import MAX_ITEMS
from sales.conf import SaleOptions
from sales.connections import connection_info
from sales.models import Allowance, Checkout, Sale, SaleItem
from sales.runtime import Runtime
from sales.statements import INVARIANTS
from tests.support.database import Sql
from tests.support.shopping import age

(
    EVERY_ITEM,
    PURCHASED_ONCE,
    SOLD_BY_CHECKOUT,
    PURCHASE_OF_ITEM,
    HELD_BY_CHECKOUT,
    HOLD_OF_ITEM,
    ALLOWANCE,
    LIMIT,
    IN_TIME,
) = INVARIANTS

CODE = UUID("01234567-89ab-8def-8123-456789abcdef")
"""One that is in no row but where a test has put it."""

CHECKOUT = """INSERT INTO sales_checkout
                  (code, sale_id, item_id, user_id, created_at, expires_at, state, purchased_at) """


class Shop:
    """A healthy sale with items in every state, and the means to damage it.

    | items | 0       | 1       | 2       | 3    | 4           | 5 … 9     |
    |-------|---------|---------|---------|------|-------------|-----------|
    | state | sold    | sold    | held    | sold | expired     | available |
    | user  | 7       | 7       | 7       | 8    | 8           |           |

    Item 5 was released and item 6 has expired and was swept, both of user 9. The checkouts of items 0 and 1
    are marked as purchased; that of item 3 is not yet.
    """

    def __init__(self, sale: Sale, sql: Sql, codes: dict[int, UUID]) -> None:
        self.sale = sale
        self.sql = sql
        self.codes = codes

    def damage(self, *statements: str) -> None:
        """Run statements that name the sale, a free code, and the code of item n as c0, c1, …"""
        values = {"sale": self.sale.pk, "code": CODE, "max": MAX_ITEMS}
        values |= {f"c{item}": code for item, code in self.codes.items()}
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement, values)
                assert cursor.rowcount > 0, "nothing was damaged"

    def broken(self) -> dict[str, list[str]]:
        """The examples of every broken invariant."""
        certificate = certify(self.sale)
        found = {finding.invariant: finding.examples for finding in certificate.findings if finding.broken}
        assert certificate.is_valid == (not found)
        return found


async def populate(sale: Sale, sql: Sql) -> dict[int, UUID]:
    """Bring items into every state, by the services themselves; only time is made to pass by SQL."""
    options = SaleOptions(items=10, user_limit=10, checkout_ttl=60, period=3600)
    async with Runtime(connection_info(), options) as worker:
        users = {0: 7, 1: 7, 2: 7, 3: 8, 4: 8, 5: 9, 6: 9}
        granted = [services.checkout(worker, user_id=user, item_id=item) for item, user in users.items()]
        codes = dict(zip(users, await asyncio.gather(*granted), strict=True))
        await asyncio.gather(
            *(services.purchase(worker, code=codes[item]) for item in (0, 1, 3)),
            services.release(worker, code=codes[5]),
        )
        await worker.storage.mark(sale.pk, [codes[0], codes[1]])
        await asyncio.to_thread(age, sql, codes[6])
        assert (await worker.storage.sweep(sale.pk, [6])).codes == {codes[6]}
        await asyncio.to_thread(age, sql, codes[4])
    return codes


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Drop constraints, and put them back onto empty tables."""
    everything: list[type[models.Model]] = [Sale, SaleItem, Checkout, Allowance]
    dropped = [(model, c) for model in everything for c in model._meta.constraints if c.name in names]
    assert {constraint.name for _, constraint in dropped} == set(names)
    with connection.schema_editor() as editor:
        for model, constraint in dropped:
            editor.remove_constraint(model, constraint)
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("TRUNCATE sales_saleitem, sales_checkout, sales_allowance")
        with connection.schema_editor() as editor:
            for model, constraint in dropped:
                editor.add_constraint(model, constraint)
