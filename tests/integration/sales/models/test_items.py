"""The table of items refuses a wrong row, whoever writes it."""

from typing import Any

import pytest

from sales.codes import MAX_ITEMS
from sales.models import Sale, SaleItem
from sales.rotation import create_sale
from tests.integration.sales.models.tables import (
    CODE,
    HOUR,
    MICROSECOND,
    MINUTE,
    START,
    insert,
    new_sale,
    refused,
)

# --- items: the columns fit the state

RIGHT_COLUMNS: dict[str, dict[str, Any]] = {
    "available": {"user_id": None, "code": None, "held_until": None, "purchased_at": None},
    "held": {"user_id": 7, "code": CODE, "held_until": START + MINUTE, "purchased_at": None},
    "sold": {"user_id": 7, "code": CODE, "held_until": START + MINUTE, "purchased_at": START},
}

OTHER_VALUES: dict[str, dict[str, list[Any]]] = {
    "available": {"user_id": [0, 7], "code": [CODE], "held_until": [START], "purchased_at": [START]},
    "held": {"user_id": [None, -1], "code": [None], "held_until": [None], "purchased_at": [START]},
    "sold": {
        "user_id": [None, -1],
        "code": [None],
        "held_until": [None, START, START - MICROSECOND],
        "purchased_at": [None, START + MINUTE, START + HOUR],
    },
}


@pytest.mark.parametrize(
    ("state", "column", "value"),
    [
        pytest.param(state, column, value, id=f"{state}-{column}-{value}".replace(" ", "-"))
        for state, columns in OTHER_VALUES.items()
        for column, values in columns.items()
        for value in values
    ],
)
def test_one_wrong_column_of_an_item_is_refused(sale: Sale, state: str, column: str, value: Any) -> None:
    item = SaleItem.objects.filter(sale=sale, item_id=2)
    wrong = {**RIGHT_COLUMNS[state], column: value}
    assert refused(lambda: item.update(state=state, **wrong)) == "item_columns_fit_state"


@pytest.mark.parametrize("columns", RIGHT_COLUMNS)
@pytest.mark.parametrize("state", [*RIGHT_COLUMNS, "gone", ""])
def test_the_columns_of_an_item_fit_its_state_alone(sale: Sale, state: str, columns: str) -> None:
    item = SaleItem.objects.filter(sale=sale, item_id=2)
    if state == columns:
        assert item.update(state=state, **RIGHT_COLUMNS[columns]) == 1
        assert item.filter(state=state, **RIGHT_COLUMNS[columns]).exists()
    else:
        change = lambda: item.update(state=state, **RIGHT_COLUMNS[columns])  # noqa: E731
        assert refused(change) == "item_columns_fit_state"


@pytest.mark.parametrize("user_id", [0, 2**63 - 1])
def test_the_first_and_the_last_user_may_hold(sale: Sale, user_id: int) -> None:
    item = SaleItem.objects.filter(sale=sale, item_id=2)
    assert item.update(state="held", **{**RIGHT_COLUMNS["held"], "user_id": user_id}) == 1


def test_a_purchase_in_the_last_moment_of_the_hold_fits(sale: Sale) -> None:
    item = SaleItem.objects.filter(sale=sale, item_id=2)
    last = {**RIGHT_COLUMNS["sold"], "purchased_at": START + MINUTE - MICROSECOND}
    assert item.update(state="sold", **last) == 1


# --- items: each has its own id and exists once


@pytest.mark.parametrize(
    ("item_id", "key", "constraint"),
    [
        pytest.param(5, 6, "item_has_its_own_id", id="id-of-the-next"),
        pytest.param(5, -MAX_ITEMS + 5, "item_has_its_own_id", id="id-in-the-sale-before"),
        pytest.param(5, MAX_ITEMS + 5, "item_has_its_own_id", id="id-in-the-sale-after"),
        pytest.param(MAX_ITEMS, MAX_ITEMS, "item_has_its_own_id", id="number-that-is-the-next-sales"),
        pytest.param(-1, -1, "sales_saleitem_item_id_check", id="negative-number"),
        pytest.param(2, 2, "sales_saleitem_pkey", id="again"),
    ],
)
def test_an_item_with_a_wrong_id_is_refused(sale: Sale, item_id: int, key: int, constraint: str) -> None:
    row = SaleItem(id=SaleItem.id_of(sale.pk, 0) + key, sale=sale, item_id=item_id)
    assert refused(lambda: insert(row)) == constraint


def test_an_item_number_exists_once_in_a_sale(sale: Sale) -> None:
    """Under its own id the primary key refuses it, under any other the check of ids."""
    again = SaleItem(id=SaleItem.id_of(sale.pk, 2), sale=sale, item_id=2)
    assert refused(lambda: insert(again)) == "sales_saleitem_pkey"
    other = SaleItem(id=SaleItem.id_of(sale.pk, 5), sale=sale, item_id=2)
    assert refused(lambda: insert(other)) == "item_has_its_own_id"
    item = SaleItem.objects.filter(sale=sale, item_id=3)
    assert refused(lambda: item.update(item_id=2)) == "item_has_its_own_id"
    assert refused(lambda: item.update(item_id=2, id=again.id)) == "sales_saleitem_pkey"


@pytest.mark.parametrize("item_id", [5, MAX_ITEMS - 1])
def test_an_item_with_its_own_id_is_taken(sale: Sale, item_id: int) -> None:
    insert(SaleItem(id=SaleItem.id_of(sale.pk, item_id), sale=sale, item_id=item_id))
    assert SaleItem.objects.get(sale=sale, item_id=item_id).state == "available"


def test_sales_have_items_of_the_same_number(sale: Sale) -> None:
    following = create_sale(new_sale())
    assert list(SaleItem.objects.filter(item_id=2).order_by("sale").values_list("sale", flat=True)) == [
        sale.pk,
        following.pk,
    ]


def test_an_item_of_no_sale_is_refused(sale: Sale) -> None:
    row = SaleItem(id=SaleItem.id_of(sale.pk + 1, 0), sale_id=sale.pk + 1, item_id=0)
    assert refused(lambda: insert(row)).endswith("_fk_sales_sale_id")


def test_a_negative_version_is_refused(sale: Sale) -> None:
    item = SaleItem.objects.filter(sale=sale, item_id=2)
    assert refused(lambda: item.update(version=-1)) == "sales_saleitem_version_check"
