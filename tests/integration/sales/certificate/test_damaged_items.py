"""Every kind of damage to items and their checkouts breaks its invariant."""

import pytest

from sales.models import Sale
from tests.integration.sales.certificate.shops import (
    ALLOWANCE,
    CHECKOUT,
    CODE,
    EVERY_ITEM,
    HELD_BY_CHECKOUT,
    HOLD_OF_ITEM,
    IN_TIME,
    PURCHASE_OF_ITEM,
    PURCHASED_ONCE,
    SOLD_BY_CHECKOUT,
    Shop,
    without,
)
from tests.support.database import Sql
from tests.support.shopping import MakeSale

# Only the tables of sales are emptied after each test.
pytestmark = pytest.mark.django_db(transaction=True, available_apps=["sales"])


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
    with without("item_has_its_own_id"):
        shop.damage("UPDATE sales_saleitem SET item_id = 8 WHERE item_id = 7")
        assert set(shop.broken()) == {EVERY_ITEM}


def test_an_item_that_is_neither_sold_nor_held_nor_available_is_found(shop: Shop) -> None:
    with without("item_columns_fit_state"):
        shop.damage("UPDATE sales_saleitem SET state = 'lost' WHERE item_id = 7")
        assert EVERY_ITEM in shop.broken()


# --- what was sold


def test_an_item_that_was_sold_twice_is_found(shop: Shop) -> None:
    shop.damage(
        CHECKOUT
        + """SELECT %(code)s, sale_id, item_id, 99, created_at, expires_at, 'purchased', created_at
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


def test_a_sold_item_whose_checkout_is_not_marked_is_no_damage(shop: Shop) -> None:
    shop.damage("UPDATE sales_checkout SET state = 'held', purchased_at = NULL WHERE code = %(c0)s")
    assert shop.broken() == {}


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param("UPDATE sales_checkout SET item_id = 9 WHERE code = %(c3)s", id="another-item"),
        pytest.param("UPDATE sales_saleitem SET code = %(code)s WHERE item_id = 3", id="another-code"),
    ],
)
def test_a_checkout_that_is_not_marked_and_by_which_nothing_is_sold_is_found(
    shop: Shop, statement: str
) -> None:
    shop.damage(statement)
    assert set(shop.broken()) == {SOLD_BY_CHECKOUT, HOLD_OF_ITEM}


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param("DELETE FROM sales_checkout WHERE code = %(c3)s", id="no-checkout"),
        pytest.param("UPDATE sales_checkout SET user_id = 99 WHERE code = %(c3)s", id="another-user"),
        pytest.param(
            "UPDATE sales_checkout SET state = 'released' WHERE code = %(c3)s", id="checkout-was-released"
        ),
    ],
)
def test_a_sold_item_without_its_checkout_is_found_before_that_is_marked(shop: Shop, statement: str) -> None:
    shop.damage(statement)
    assert shop.broken() == {SOLD_BY_CHECKOUT: [f"item 3 is sold to user 8 by {shop.codes[3]}"]}


def test_a_purchase_before_it_is_marked_is_in_the_time_of_its_hold(shop: Shop) -> None:
    with without("item_columns_fit_state"):
        shop.damage("UPDATE sales_saleitem SET purchased_at = held_until WHERE item_id = 3")
        assert set(shop.broken()) == {IN_TIME}


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
