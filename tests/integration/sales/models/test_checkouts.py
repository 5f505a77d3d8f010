"""The tables of checkouts and allowances refuse a wrong row, whoever writes it."""

from typing import Any

import pytest

from sales.codes import new_code
from sales.models import Allowance, Checkout, Sale, SaleItem
from sales.rotation import create_sale
from tests.integration.sales.models.tables import (
    CODE,
    HOUR,
    MICROSECOND,
    MINUTE,
    OTHER_CODE,
    START,
    insert,
    new_allowance,
    new_checkout,
    new_sale,
    purchased,
    refused,
)

# --- checkouts


@pytest.mark.parametrize(
    ("columns", "constraint"),
    [
        pytest.param({"user_id": -1}, "checkout_user_not_negative", id="negative-user"),
        pytest.param({"item_id": -1}, "sales_checkout_item_id_check", id="negative-item"),
        pytest.param({"code": OTHER_CODE}, "sales_checkout_pkey", id="code-again"),
        *(
            pytest.param(
                {"state": state, "purchased_at": START},
                "checkout_purchased_before_expiry",
                id=f"{state}-but-purchased",
            )
            for state in ("held", "expired", "released", "gone", "")
        ),
        pytest.param({"state": "gone"}, "checkout_purchased_before_expiry", id="unknown-state"),
        *(
            pytest.param(
                {"state": "purchased", "purchased_at": moment}, "checkout_purchased_before_expiry", id=name
            )
            for name, moment in {
                "purchased-never": None,
                "purchased-before-it-was-granted": START - MICROSECOND,
                "purchased-when-it-expired": START + MINUTE,
                "purchased-after-it-expired": START + HOUR,
            }.items()
        ),
    ],
)
def test_a_wrong_checkout_is_refused(sale: Sale, columns: dict[str, Any], constraint: str) -> None:
    insert(new_checkout(sale, code=OTHER_CODE, item_id=1))
    assert refused(lambda: insert(new_checkout(sale, **columns))) == constraint


@pytest.mark.parametrize(
    "columns",
    [
        pytest.param({"state": "held"}, id="held"),
        pytest.param({"state": "expired"}, id="expired"),
        pytest.param({"state": "released"}, id="released"),
        pytest.param({"state": "purchased", "purchased_at": START}, id="purchased-at-once"),
        pytest.param(
            {"state": "purchased", "purchased_at": START + MINUTE - MICROSECOND}, id="purchased-at-last"
        ),
        pytest.param({"user_id": 0}, id="first-user"),
        pytest.param({"user_id": 2**63 - 1}, id="last-user"),
    ],
)
def test_a_right_checkout_is_taken(sale: Sale, columns: dict[str, Any]) -> None:
    insert(new_checkout(sale, **columns))
    assert Checkout.objects.filter(code=CODE, **columns).count() == 1


def test_an_item_is_bought_by_one_of_its_checkouts_whoever_writes_it(sale: Sale) -> None:
    """Its row has one code: no other hold becomes a purchase by it, and it alone says that it was sold."""
    for code in (CODE, OTHER_CODE):
        insert(new_checkout(sale, code=code))
    items = SaleItem.objects.filter(sale=sale)
    sold = {"state": "sold", "user_id": 7, "held_until": START + MINUTE, "purchased_at": START}
    assert items.filter(item_id=0).update(code=CODE, **sold) == 1
    assert items.filter(item_id=1).update(code=OTHER_CODE, **sold) == 1  # which holds another item
    outcomes = Checkout.objects.with_outcome().values_list("code", "outcome", "bought_at")
    assert set(outcomes) == {(CODE, "purchased", START), (OTHER_CODE, "held", None)}


def test_an_item_may_have_any_number_of_checkouts_that_are_not_purchases(sale: Sale) -> None:
    insert(purchased(sale))
    for state in ("held", "expired", "released") * 2:
        insert(new_checkout(sale, code=new_code(sale.pk, 0), state=state))
    assert Checkout.objects.filter(sale=sale, item_id=0).count() == 7


def test_purchases_of_other_items_and_other_sales_are_no_repetition(sale: Sale) -> None:
    following = create_sale(new_sale())
    for place in ((sale, 0), (sale, 1), (following, 0)):
        insert(purchased(place[0], item_id=place[1], code=new_code(place[0].pk, place[1])))
    assert Checkout.objects.filter(state="purchased").count() == 3


# --- allowances


@pytest.mark.parametrize(
    ("columns", "constraint"),
    [
        pytest.param({"user_id": -1}, "allowance_user_not_negative", id="negative-user"),
        pytest.param({"taken": 4}, "allowance_within_limit", id="above-the-limit"),
        pytest.param({"taken": 1, "user_limit": 0}, "allowance_within_limit", id="above-no-limit"),
        pytest.param({"taken": -1}, "sales_allowance_taken_check", id="negative"),
        pytest.param({"user_id": 8}, "sales_allowance_pkey", id="again"),
    ],
)
def test_a_wrong_allowance_is_refused(sale: Sale, columns: dict[str, Any], constraint: str) -> None:
    insert(new_allowance(sale, user_id=8))
    assert refused(lambda: insert(new_allowance(sale, **columns))) == constraint


@pytest.mark.parametrize(
    "columns",
    [{"taken": 0}, {"taken": 3}, {"taken": 0, "user_limit": 0}, {"user_id": 0}, {"user_id": 2**63 - 1}],
)
def test_a_right_allowance_is_taken(sale: Sale, columns: dict[str, Any]) -> None:
    insert(new_allowance(sale, **columns))
    assert Allowance.objects.filter(**columns).count() == 1


def test_an_allowance_that_exists_cannot_grow_above_its_limit(sale: Sale) -> None:
    insert(new_allowance(sale, taken=3))
    assert refused(lambda: Allowance.objects.update(taken=4)) == "allowance_within_limit"


def test_a_user_has_an_allowance_in_every_sale(sale: Sale) -> None:
    following = create_sale(new_sale())
    for each in (sale, following):
        insert(new_allowance(each))
    assert Allowance.objects.filter(user_id=7).count() == 2
