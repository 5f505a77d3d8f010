"""Damage to allowances, limits and times breaks its invariant; and how much of it is shown."""

import pytest
from django.db import connection

from sales.certificate import EXAMPLES, certify
from sales.codes import new_code
from sales.models import Sale
from tests.integration.sales.certificate.shops import (
    ALLOWANCE,
    CHECKOUT,
    EVERY_ITEM,
    HELD_BY_CHECKOUT,
    HOLD_OF_ITEM,
    IN_TIME,
    LIMIT,
    SOLD_BY_CHECKOUT,
    Shop,
    without,
)
from tests.support.database import Sql
from tests.support.shopping import MakeSale
from tests.support.waiting import DEADLINE

# Only the tables of sales are emptied after each test.
pytestmark = pytest.mark.django_db(transaction=True, available_apps=["sales"])


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


AFTER = ("expires_at", "expires_at + interval '1 hour'")


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(AFTER[0], id="when-it-expired"),
        pytest.param(AFTER[1], id="after-it-expired"),
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
        broken = shop.broken()
        # What is marked is never before the hold, whatever the item says: its time is a wrong one, too.
        assert set(broken) - {SOLD_BY_CHECKOUT} == {IN_TIME}
        assert (SOLD_BY_CHECKOUT in broken) == (moment not in AFTER)
        assert broken[IN_TIME] == [f"checkout {shop.codes[0]} expired {expires}, purchased {purchased}"]


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


def test_few_examples_are_all_shown(sale: Sale, sql: Sql) -> None:
    for item in range(EXAMPLES):
        sql(
            CHECKOUT + "VALUES (%s, %s, %s, 9, now(), now() + interval '60 s', 'held', NULL)",
            new_code(sale.pk, item),
            sale.pk,
            item,
        )
    (finding,) = [finding for finding in certify(sale).findings if finding.broken]
    assert (finding.invariant, finding.broken, len(finding.examples)) == (HOLD_OF_ITEM, EXAMPLES, EXAMPLES)


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
