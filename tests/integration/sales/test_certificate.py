"""The certificate of a sale: it holds for a healthy one, and every kind of damage breaks its invariant."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.db import connection, models

from sales import services
from sales.certificate import Certificate, certify
from sales.codes import MAX_ITEMS, new_code
from sales.conf import SaleOptions
from sales.connections import connection_info
from sales.models import Allowance, Checkout, Sale, SaleItem
from sales.runtime import Runtime
from sales.statements import INVARIANTS
from tests.conftest import DEADLINE

# Only the tables of sales are emptied after each test.
pytestmark = pytest.mark.django_db(transaction=True, available_apps=["sales"])

Sql = Callable[..., list[tuple[Any, ...]]]
MakeSale = Callable[..., Sale]
OpenWorker = Callable[[], Awaitable[Runtime]]

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

    Item 5 was released and item 6 has expired and was swept, both of user 9.
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
        await asyncio.to_thread(age, sql, codes[6])
        assert await worker.storage.sweep(sale.pk)
        await asyncio.to_thread(age, sql, codes[4])
    return codes


def age(sql: Sql, code: UUID) -> None:
    """Make a hold as old as if it had been granted an hour earlier."""
    sql(
        """WITH item AS (
               UPDATE sales_saleitem SET held_until = held_until - interval '1 hour' WHERE code = %s)
           UPDATE sales_checkout SET created_at = created_at - interval '1 hour',
                                     expires_at = expires_at - interval '1 hour' WHERE code = %s""",
        code,
        code,
    )


@pytest.fixture
def shop(make_sale: MakeSale, sql: Sql, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """See `Shop`; each user may have four items."""
    monkeypatch.setattr("sales.limits.TICK", 3600)
    sale = make_sale(items=10, user_limit=4)
    return Shop(sale, sql, asyncio.run(populate(sale, sql)))


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


# --- healthy


def test_a_healthy_sale_in_every_state_is_certified(shop: Shop) -> None:
    certificate = certify(shop.sale)
    assert certificate.is_valid
    assert [finding.invariant for finding in certificate.findings] == list(INVARIANTS)
    assert [(finding.broken, finding.examples) for finding in certificate.findings] == [(0, [])] * 9
    assert certificate.sale == shop.sale
    assert (certificate.sold, certificate.held, certificate.expired, certificate.available) == (3, 1, 1, 5)
    assert certificate.users == 2
    states = shop.sql("SELECT state, count(*) FROM sales_checkout GROUP BY state ORDER BY state")
    assert states == [("expired", 1), ("held", 2), ("purchased", 3), ("released", 1)]


def test_a_sale_that_nobody_has_touched_is_certified(sale: Sale) -> None:
    certificate = certify(sale)
    assert certificate.is_valid
    assert (certificate.sold, certificate.held, certificate.expired, certificate.available) == (0, 0, 0, 100)
    assert certificate.users == 0


def test_it_is_issued_at_the_databases_time(sale: Sale, sql: Sql) -> None:
    ((before,),) = sql("SELECT clock_timestamp()")
    certificate = certify(sale)
    ((after,),) = sql("SELECT clock_timestamp()")
    assert before <= certificate.issued_at <= after


def test_a_hold_that_expires_moves_from_held_to_expired(shop: Shop) -> None:
    age(shop.sql, shop.codes[2])
    certificate = certify(shop.sale)
    assert certificate.is_valid
    assert (certificate.sold, certificate.held, certificate.expired, certificate.available) == (3, 0, 2, 5)


def test_certifying_writes_nothing_and_leaves_the_connection_as_it_was(shop: Shop) -> None:
    query = """SELECT xmin::text, ctid::text, * FROM sales_saleitem ORDER BY id"""
    before = shop.sql(query)
    certify(shop.sale)
    with connection.cursor() as cursor:
        cursor.execute("SHOW transaction_read_only")
        assert cursor.fetchone() == ("off",)
        cursor.execute("SHOW transaction_isolation")
        assert cursor.fetchone() == ("read committed",)
    assert shop.sql(query) == before


def test_the_damage_of_another_sale_is_its_own(shop: Shop, make_sale: MakeSale) -> None:
    other = make_sale(items=10, starts_at=shop.sale.ends_at)
    shop.damage(
        "DELETE FROM sales_checkout WHERE sale_id = %(sale)s",
        "DELETE FROM sales_allowance WHERE sale_id = %(sale)s",
        "DELETE FROM sales_saleitem WHERE sale_id = %(sale)s AND item_id = 9",
    )
    assert set(shop.broken()) == {EVERY_ITEM, SOLD_BY_CHECKOUT, HELD_BY_CHECKOUT, ALLOWANCE}
    certificate = certify(other)
    assert certificate.is_valid
    assert certificate.available == 10


async def test_a_sale_is_certified_while_it_is_sold(
    make_sale: MakeSale, open_worker: OpenWorker, sql: Sql
) -> None:
    sale = await asyncio.to_thread(make_sale, items=2000)
    workers = [await open_worker() for _ in range(2)]
    ended = threading.Event()
    certificates: list[Certificate] = []

    def certify_all_the_time() -> None:
        try:
            while not ended.is_set():
                certificates.append(certify(sale))
        finally:
            connection.close()

    async def shop(user: int) -> None:
        worker = workers[user % 2]
        for settle in (services.purchase, services.release, services.purchase):
            await settle(worker, code=await services.checkout(worker, user_id=user))

    users = 0
    certifier = asyncio.create_task(asyncio.to_thread(certify_all_the_time))
    try:
        while users < 900 and len({certificate.sold for certificate in certificates}) < 3:
            await asyncio.gather(*(shop(user) for user in range(users, users + 20)))
            users += 20
    finally:
        ended.set()
        await certifier
    assert len({certificate.sold for certificate in certificates}) >= 3, "it did not run meanwhile"
    assert [finding for c in certificates for finding in c.findings if finding.broken] == []
    assert {c.sold + c.held + c.expired + c.available for c in certificates} == {2000}
    sold = [certificate.sold for certificate in certificates]
    assert sold == sorted(sold)
    assert await asyncio.to_thread(sql, "SELECT count(*) FROM sales_saleitem WHERE state = 'sold'") == [
        (2 * users,)
    ]


def test_what_is_committed_while_it_is_being_issued_does_not_count(shop: Shop) -> None:
    """All invariants are judged on the snapshot that the counts are from."""

    def certify_and_close() -> Certificate:
        try:
            return certify(shop.sale)
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as threads, closing(psycopg.connect(connection_info())) as other:
        other.execute("LOCK TABLE sales_allowance IN ACCESS EXCLUSIVE MODE")
        issuing = threads.submit(certify_and_close)
        deadline = time.monotonic() + DEADLINE
        # It has counted the items, and waits before it reads the allowances.
        while not shop.sql(
            "SELECT 1 FROM pg_locks WHERE relation = 'sales_allowance'::regclass AND NOT granted"
        ):
            assert time.monotonic() < deadline
        other.execute("UPDATE sales_allowance SET taken = 4 WHERE user_id = 7")
        other.execute("UPDATE sales_sale SET user_limit = 1")
        other.commit()
        certificate = issuing.result(DEADLINE)
    assert certificate.is_valid
    assert set(shop.broken()) == {ALLOWANCE, LIMIT}


# --- items that are missing, or too many


@pytest.mark.parametrize(
    ("statement", "example"),
    [
        pytest.param(
            "DELETE FROM sales_saleitem WHERE item_id = 9", "9 items of 10, numbered 0 to 8", id="no-last"
        ),
        pytest.param(
            "DELETE FROM sales_saleitem WHERE item_id = 7", "9 items of 10, numbered 0 to 9", id="a-hole"
        ),
        pytest.param(
            "DELETE FROM sales_saleitem WHERE item_id >= 7", "7 items of 10, numbered 0 to 6", id="no-end"
        ),
        pytest.param(
            """INSERT INTO sales_saleitem (id, sale_id, item_id, state, version)
               SELECT %(sale)s::bigint * %(max)s + 10, %(sale)s, 10, 'available', 0""",
            "11 items of 10, numbered 0 to 10",
            id="one-too-many",
        ),
        pytest.param(
            "UPDATE sales_saleitem SET id = id + 10, item_id = item_id + 10 WHERE item_id = 7",
            "10 items of 10, numbered 0 to 17",
            id="another-number",
        ),
        pytest.param(
            "UPDATE sales_sale SET items = 11", "10 items of 11, numbered 0 to 9", id="another-total"
        ),
    ],
)
def test_a_missing_item_and_one_too_many_are_found(shop: Shop, statement: str, example: str) -> None:
    shop.damage(statement)
    assert shop.broken() == {EVERY_ITEM: [example]}


def test_a_sale_without_a_first_item_is_found(sale: Sale, sql: Sql) -> None:
    sql("DELETE FROM sales_saleitem WHERE item_id = 0")
    assert Shop(sale, sql, {}).broken() == {EVERY_ITEM: ["99 items of 100, numbered 1 to 99"]}


def test_a_sale_without_any_item_is_found(sale: Sale, sql: Sql) -> None:
    sql("DELETE FROM sales_saleitem")
    (example,) = Shop(sale, sql, {}).broken()[EVERY_ITEM]
    assert example.startswith("0 items of 100")


def test_an_item_that_exists_twice_in_the_place_of_another_is_found(shop: Shop) -> None:
    with without("item_once_per_sale", "item_has_its_own_id"):
        shop.damage("UPDATE sales_saleitem SET item_id = 8 WHERE item_id = 7")
        assert set(shop.broken()) == {EVERY_ITEM}


def test_an_item_that_is_neither_sold_nor_held_nor_available_is_found(shop: Shop) -> None:
    with without("item_columns_fit_state"):
        shop.damage("UPDATE sales_saleitem SET state = 'lost' WHERE item_id = 7")
        assert EVERY_ITEM in shop.broken()


# --- what was sold


def test_an_item_that_was_sold_twice_is_found(shop: Shop) -> None:
    with without("item_purchased_once"):
        shop.damage(
            CHECKOUT
            + """SELECT %(code)s, sale_id, item_id, 99, created_at, expires_at, state, purchased_at
                 FROM sales_checkout WHERE code = %(c0)s"""
        )
        assert shop.broken() == {
            PURCHASED_ONCE: ["item 0 was purchased 2 times"],
            PURCHASE_OF_ITEM: [f"checkout {CODE} of item 0 is purchased"],
        }


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param("DELETE FROM sales_checkout WHERE code = %(c0)s", id="no-checkout"),
        pytest.param(
            "UPDATE sales_checkout SET state = 'released', purchased_at = NULL WHERE code = %(c0)s",
            id="checkout-was-released",
        ),
        pytest.param(
            "UPDATE sales_checkout SET state = 'expired', purchased_at = NULL WHERE code = %(c0)s",
            id="checkout-has-expired",
        ),
        pytest.param("UPDATE sales_checkout SET user_id = 99 WHERE code = %(c0)s", id="another-user"),
        pytest.param(
            """UPDATE sales_checkout SET purchased_at = purchased_at + interval '1 microsecond'
               WHERE code = %(c0)s""",
            id="another-time",
        ),
    ],
)
def test_a_sold_item_without_its_purchase_is_found(shop: Shop, statement: str) -> None:
    shop.damage(statement)
    assert shop.broken() == {SOLD_BY_CHECKOUT: [f"item 0 is sold to user 7 by {shop.codes[0]}"]}


def test_a_sold_item_whose_checkout_is_still_held_is_found(shop: Shop) -> None:
    shop.damage("UPDATE sales_checkout SET state = 'held', purchased_at = NULL WHERE code = %(c0)s")
    assert shop.broken() == {
        SOLD_BY_CHECKOUT: [f"item 0 is sold to user 7 by {shop.codes[0]}"],
        HOLD_OF_ITEM: [f"checkout {shop.codes[0]} of item 0 is held"],
    }


def test_a_sold_item_whose_checkout_is_not_purchased_is_found_whatever_its_times_say(shop: Shop) -> None:
    with without("checkout_purchased_before_expiry"):
        shop.damage("UPDATE sales_checkout SET state = 'released' WHERE code = %(c0)s")
        assert shop.broken() == {SOLD_BY_CHECKOUT: [f"item 0 is sold to user 7 by {shop.codes[0]}"]}


def test_a_sold_item_with_another_code_is_found_from_both_sides(shop: Shop) -> None:
    shop.damage("UPDATE sales_saleitem SET code = %(code)s WHERE item_id = 0")
    assert shop.broken() == {
        SOLD_BY_CHECKOUT: [f"item 0 is sold to user 7 by {CODE}"],
        PURCHASE_OF_ITEM: [f"checkout {shop.codes[0]} of item 0 is purchased"],
    }


def test_a_purchase_of_another_item_is_found_from_both_sides(shop: Shop) -> None:
    shop.damage("UPDATE sales_checkout SET item_id = 9 WHERE code = %(c0)s")
    assert shop.broken() == {
        SOLD_BY_CHECKOUT: [f"item 0 is sold to user 7 by {shop.codes[0]}"],
        PURCHASE_OF_ITEM: [f"checkout {shop.codes[0]} of item 9 is purchased"],
    }


def test_a_purchase_that_went_to_another_sale_is_found_in_both(shop: Shop, make_sale: MakeSale) -> None:
    other = make_sale(items=10, starts_at=shop.sale.ends_at)
    shop.sql("UPDATE sales_checkout SET sale_id = %s WHERE code = %s", other.pk, shop.codes[0])
    assert shop.broken() == {SOLD_BY_CHECKOUT: [f"item 0 is sold to user 7 by {shop.codes[0]}"]}
    assert Shop(other, shop.sql, {}).broken() == {
        PURCHASE_OF_ITEM: [f"checkout {shop.codes[0]} of item 0 is purchased"]
    }


def test_a_buyer_who_is_not_the_holder_is_found(shop: Shop) -> None:
    shop.damage("UPDATE sales_saleitem SET user_id = 8 WHERE item_id = 0")
    broken = shop.broken()
    broken[ALLOWANCE].sort()
    assert broken == {
        SOLD_BY_CHECKOUT: [f"item 0 is sold to user 8 by {shop.codes[0]}"],
        ALLOWANCE: ["user 7: allowance 3, items 2", "user 8: allowance 2, items 3"],
    }


def test_a_purchased_checkout_of_an_available_item_is_found(shop: Shop) -> None:
    shop.damage(
        """UPDATE sales_saleitem SET state = 'available', user_id = NULL, code = NULL, held_until = NULL,
                                     purchased_at = NULL WHERE item_id = 0"""
    )
    example = f"checkout {shop.codes[0]} of item 0 is purchased"
    assert shop.broken() == {PURCHASE_OF_ITEM: [example], ALLOWANCE: ["user 7: allowance 3, items 2"]}
    shop.damage("UPDATE sales_allowance SET taken = 2 WHERE user_id = 7")
    assert shop.broken() == {PURCHASE_OF_ITEM: [example]}


# --- what is held


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param("DELETE FROM sales_checkout WHERE code = %(c2)s", id="no-checkout"),
        pytest.param(
            "UPDATE sales_checkout SET state = 'released' WHERE code = %(c2)s", id="checkout-was-released"
        ),
        pytest.param(
            "UPDATE sales_checkout SET state = 'expired' WHERE code = %(c2)s", id="checkout-has-expired"
        ),
        pytest.param("UPDATE sales_checkout SET user_id = 99 WHERE code = %(c2)s", id="another-user"),
        pytest.param(
            """UPDATE sales_checkout SET expires_at = expires_at + interval '1 microsecond'
               WHERE code = %(c2)s""",
            id="another-time",
        ),
        pytest.param(
            """UPDATE sales_saleitem SET held_until = held_until + interval '1 microsecond'
               WHERE item_id = 2""",
            id="another-time-of-the-item",
        ),
    ],
)
def test_a_held_item_without_its_hold_is_found(shop: Shop, statement: str) -> None:
    shop.damage(statement)
    assert shop.broken() == {HELD_BY_CHECKOUT: [f"item 2 is held by user 7 by {shop.codes[2]}"]}


def test_an_expired_hold_that_nobody_has_swept_needs_its_checkout_too(shop: Shop) -> None:
    shop.damage("DELETE FROM sales_checkout WHERE code = %(c4)s")
    assert shop.broken() == {HELD_BY_CHECKOUT: [f"item 4 is held by user 8 by {shop.codes[4]}"]}


@pytest.mark.parametrize("item", [9, 2, 0], ids=["available", "held-by-another", "sold"])
def test_a_held_checkout_that_holds_nothing_is_found(shop: Shop, item: int) -> None:
    shop.sql(
        CHECKOUT + "VALUES (%s, %s, %s, 9, now(), now() + interval '60 s', 'held', NULL)",
        CODE,
        shop.sale.pk,
        item,
    )
    assert shop.broken() == {HOLD_OF_ITEM: [f"checkout {CODE} of item {item} is held"]}


def test_a_held_item_with_another_code_is_found_from_both_sides(shop: Shop) -> None:
    shop.damage("UPDATE sales_saleitem SET code = %(code)s WHERE item_id = 2")
    assert shop.broken() == {
        HELD_BY_CHECKOUT: [f"item 2 is held by user 7 by {CODE}"],
        HOLD_OF_ITEM: [f"checkout {shop.codes[2]} of item 2 is held"],
    }


def test_a_purchased_checkout_whose_item_is_only_held_is_found(shop: Shop) -> None:
    shop.damage(
        "UPDATE sales_checkout SET state = 'purchased', purchased_at = created_at WHERE code = %(c2)s"
    )
    assert shop.broken() == {
        PURCHASE_OF_ITEM: [f"checkout {shop.codes[2]} of item 2 is purchased"],
        HELD_BY_CHECKOUT: [f"item 2 is held by user 7 by {shop.codes[2]}"],
    }


# --- allowances


@pytest.mark.parametrize(
    ("statement", "example"),
    [
        pytest.param(
            "UPDATE sales_allowance SET taken = 4 WHERE user_id = 7",
            "user 7: allowance 4, items 3",
            id="too-high",
        ),
        pytest.param(
            "UPDATE sales_allowance SET taken = 1 WHERE user_id = 8",
            "user 8: allowance 1, items 2",
            id="too-low",
        ),
        pytest.param(
            "DELETE FROM sales_allowance WHERE user_id = 7", "user 7: allowance 0, items 3", id="missing"
        ),
        pytest.param(
            "UPDATE sales_allowance SET taken = 1 WHERE user_id = 9",
            "user 9: allowance 1, items 0",
            id="not-given-back",
        ),
        pytest.param(
            """INSERT INTO sales_allowance (sale_id, user_id, taken, user_limit)
               VALUES (%(sale)s, 99, 1, 4)""",
            "user 99: allowance 1, items 0",
            id="of-nobody",
        ),
    ],
)
def test_a_wrong_allowance_is_found(shop: Shop, statement: str, example: str) -> None:
    shop.damage(statement)
    assert shop.broken() == {ALLOWANCE: [example]}


def test_an_allowance_of_nothing_may_be_there_or_not(shop: Shop) -> None:
    assert shop.sql("SELECT taken FROM sales_allowance WHERE user_id = 9") == [(0,)]
    shop.damage("DELETE FROM sales_allowance WHERE user_id = 9")
    assert shop.broken() == {}


def test_a_user_with_more_than_the_limit_of_the_sale_is_found(shop: Shop) -> None:
    shop.damage("UPDATE sales_sale SET user_limit = 2")
    assert shop.broken() == {LIMIT: ["user 7 has 3 of 2"]}


def test_a_user_at_the_limit_is_within_it(shop: Shop) -> None:
    shop.damage("UPDATE sales_sale SET user_limit = 3")
    assert shop.broken() == {}


def test_an_allowance_over_its_limit_is_found(shop: Shop) -> None:
    with without("allowance_within_limit"):
        shop.damage("UPDATE sales_allowance SET taken = 5 WHERE user_id = 7")
        assert shop.broken() == {ALLOWANCE: ["user 7: allowance 5, items 3"], LIMIT: ["user 7 has 5 of 4"]}


def test_the_limit_of_the_sale_counts_not_that_beside_the_allowance(shop: Shop) -> None:
    shop.damage("UPDATE sales_allowance SET taken = 5, user_limit = 5 WHERE user_id = 7")
    assert shop.broken() == {ALLOWANCE: ["user 7: allowance 5, items 3"], LIMIT: ["user 7 has 5 of 4"]}


def test_a_user_with_more_items_than_the_limit_is_found_whatever_the_allowance_says(shop: Shop) -> None:
    shop.damage(
        "UPDATE sales_sale SET user_limit = 2", "UPDATE sales_allowance SET taken = 2 WHERE user_id = 7"
    )
    assert shop.broken() == {ALLOWANCE: ["user 7: allowance 2, items 3"], LIMIT: ["user 7 has 3 of 2"]}


# --- time


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("expires_at", id="when-it-expired"),
        pytest.param("expires_at + interval '1 hour'", id="after-it-expired"),
        pytest.param("created_at - interval '1 microsecond'", id="before-it-was-granted"),
    ],
)
def test_a_purchase_out_of_the_time_of_its_hold_is_found(shop: Shop, moment: str) -> None:
    with without("item_columns_fit_state", "checkout_purchased_before_expiry"):
        shop.damage(
            f"UPDATE sales_checkout SET purchased_at = {moment} WHERE code = %(c0)s",
            """UPDATE sales_saleitem AS item SET purchased_at = checkout.purchased_at
               FROM sales_checkout AS checkout WHERE checkout.code = item.code AND item.item_id = 0""",
        )
        ((expires, purchased),) = shop.sql(
            "SELECT expires_at::text, purchased_at::text FROM sales_checkout WHERE code = %s", shop.codes[0]
        )
        assert shop.broken() == {
            IN_TIME: [f"checkout {shop.codes[0]} expired {expires}, purchased {purchased}"]
        }


def test_a_purchase_without_a_time_is_found(shop: Shop) -> None:
    with without("checkout_purchased_before_expiry"):
        shop.damage("UPDATE sales_checkout SET purchased_at = NULL WHERE code = %(c0)s")
        assert SOLD_BY_CHECKOUT in shop.broken()


# --- much damage


def test_examples_are_cut_and_counted(sale: Sale, sql: Sql) -> None:
    for user in range(7):
        sql(
            "INSERT INTO sales_allowance (sale_id, user_id, taken, user_limit) VALUES (%s, %s, 1, 10)",
            sale.pk,
            user,
        )
    certificate = certify(sale)
    (finding,) = [finding for finding in certificate.findings if finding.broken]
    assert (finding.invariant, finding.broken, len(finding.examples)) == (ALLOWANCE, 7, 5)
    assert set(finding.examples) < {f"user {user}: allowance 1, items 0" for user in range(7)}
    assert not certificate.is_valid


@pytest.mark.parametrize("count", [1, 5])
def test_few_examples_are_all_shown(sale: Sale, sql: Sql, count: int) -> None:
    for item in range(count):
        sql(
            CHECKOUT + "VALUES (%s, %s, %s, 9, now(), now() + interval '60 s', 'held', NULL)",
            new_code(sale.pk, item),
            sale.pk,
            item,
        )
    (finding,) = [finding for finding in certify(sale).findings if finding.broken]
    assert (finding.invariant, finding.broken, len(finding.examples)) == (HOLD_OF_ITEM, count, count)


def test_every_kind_of_damage_at_once_is_told_apart(shop: Shop) -> None:
    shop.damage(
        "DELETE FROM sales_saleitem WHERE item_id = 9",
        "UPDATE sales_checkout SET user_id = 99 WHERE code = %(c0)s",
        "DELETE FROM sales_checkout WHERE code = %(c2)s",
        "DELETE FROM sales_allowance WHERE user_id = 8",
    )
    assert shop.broken() == {
        EVERY_ITEM: ["9 items of 10, numbered 0 to 8"],
        SOLD_BY_CHECKOUT: [f"item 0 is sold to user 7 by {shop.codes[0]}"],
        HELD_BY_CHECKOUT: [f"item 2 is held by user 7 by {shop.codes[2]}"],
        ALLOWANCE: ["user 8: allowance 0, items 2"],
    }


def test_it_takes_no_longer_on_tables_that_were_never_analyzed(make_sale: MakeSale, sql: Sql) -> None:
    sale = make_sale(items=50_000)
    sql(
        """WITH sold AS (
               UPDATE sales_saleitem
               SET state = 'sold', version = 2, user_id = item_id, code = gen_random_uuid(),
                   held_until = now() + interval '1 minute', purchased_at = now()
               WHERE sale_id = %s RETURNING *
           ), allowed AS (
               INSERT INTO sales_allowance (sale_id, user_id, taken, user_limit)
               SELECT sale_id, user_id, 1, 10 FROM sold
           )
           INSERT INTO sales_checkout
               (code, sale_id, item_id, user_id, created_at, expires_at, state, purchased_at)
           SELECT code, sale_id, item_id, user_id, now(), held_until, 'purchased', purchased_at FROM sold""",
        sale.pk,
    )
    with connection.cursor() as cursor:
        # Comparing everything with everything would take minutes.
        cursor.execute(f"SET statement_timeout TO '{DEADLINE}s'")
    certificate = certify(sale)
    connection.close()
    assert (certificate.is_valid, certificate.sold) == (True, 50_000)
