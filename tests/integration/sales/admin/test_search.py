"""Searching items and checkouts, for what makes sense and what does not."""

from uuid import UUID, uuid4

import pytest
from django.test import Client

from sales.codes import MAX_ITEMS, MAX_SALE_ID, new_code
from sales.models import Checkout, Sale
from tests.integration.sales.admin.pages import CHECKOUTS, ITEMS, column, counted, rows

pytestmark = pytest.mark.django_db

NONSENSE = [
    "abc",
    "-1",
    "1.5",
    "٣",  # a digit, but not one of ours
    "1e3",
    str(10**30),
    "9" * 5000,
    "\x00",
    "7\x00",
    "user:",
    "user:abc",
    "item:-1",
    f"item:{MAX_ITEMS}",
    f"item:{2**63 - 1}",
    f"user:{2**63}",
    "code:7",
    "item: 7",
    "buyer:7",
    "user:item:7",
    ":",
    "%",
    "' OR 1=1 --",
    "00000000-0000-0000-0000-00000000000g",
    "00000000000000000000000000000007",
    f"user:{UUID(int=0)}",
    "7 7 7 7",
]


# --- search


@pytest.mark.parametrize(
    ("term", "items", "checkouts"),
    [
        ("7", ["0"], ["2", "0"]),
        ("3", ["3"], ["3"]),
        ("2", ["2", "1"], ["2", "1"]),  # item 2, and item 1 of user 2
        ("user:2", ["1"], ["1"]),
        ("item:2", ["2"], ["2"]),
        ("ITEM:2", ["2"], ["2"]),
        ("item:0002", ["2"], ["2"]),
        (" user:7  item:0 ", ["0"], ["0"]),
        ("user:7 item:1", [], []),
        ("7 2", [], ["2"]),
        ("item:4", ["4"], []),
        ("item:5", [], []),
        (str(2**63 - 1), [], []),
        (str(2**63), [], []),
        (str(10**19 - 1), [], []),
        ("", ["4", "3", "2", "1", "0"], ["3", "2", "1", "0"]),
        ("  ", ["4", "3", "2", "1", "0"], ["3", "2", "1", "0"]),
    ],
)
def test_search_by_numbers(
    admin_client: Client, term: str, items: list[str], checkouts: list[str], current: Sale
) -> None:
    assert column(admin_client.get(ITEMS, {"q": term}), "item_id") == items
    assert column(admin_client.get(CHECKOUTS, {"q": term}), "item_link") == checkouts


def test_search_by_item_finds_it_in_every_sale(
    admin_client: Client, ended: Sale, current: Sale, upcoming: Sale
) -> None:
    sales = [str(upcoming.pk), str(current.pk), str(ended.pk)]

    assert column(admin_client.get(ITEMS, {"q": "item:2"}), "sale_link") == sales
    assert column(admin_client.get(CHECKOUTS, {"q": "item:2"}), "sale_link") == sales[1:]
    in_one = {"q": "item:2", "sale__id__exact": current.pk}
    assert column(admin_client.get(ITEMS, in_one), "sale_link") == [str(current.pk)]
    assert column(admin_client.get(CHECKOUTS, in_one), "sale_link") == [str(current.pk)]


@pytest.mark.parametrize("form", ["{}", "{:}", "code:{}", " {} "])
@pytest.mark.parametrize("upper", [False, True])
def test_search_by_code(admin_client: Client, form: str, upper: bool, current: Sale) -> None:
    code = Checkout.objects.get(item_id=1).code
    term = form.format(str(code).upper() if upper else str(code))

    assert column(admin_client.get(ITEMS, {"q": term}), "code_link") == [str(code)]
    assert column(admin_client.get(CHECKOUTS, {"q": term}), "code") == [str(code)]
    assert column(admin_client.get(CHECKOUTS, {"q": f"{term} user:2 item:1"}), "code") == [str(code)]
    assert column(admin_client.get(CHECKOUTS, {"q": f"{term} user:3"}), "code") == []


def test_search_by_the_code_of_a_past_hold_finds_the_checkout_alone(
    admin_client: Client, current: Sale
) -> None:
    code = Checkout.objects.get(state="expired").code

    assert column(admin_client.get(CHECKOUTS, {"q": code}), "code") == [str(code)]
    assert rows(admin_client.get(ITEMS, {"q": code})) == []


def test_search_by_a_code_that_was_never_given_finds_nothing(admin_client: Client, current: Sale) -> None:
    for code in (
        new_code(current.pk, 1),
        new_code(MAX_SALE_ID, MAX_ITEMS - 1),
        uuid4(),
        UUID(int=0),
        UUID(int=2**128 - 1),
    ):
        assert rows(admin_client.get(ITEMS, {"q": code})) == []
        assert rows(admin_client.get(CHECKOUTS, {"q": code})) == []


@pytest.mark.parametrize("url", [ITEMS, CHECKOUTS])
@pytest.mark.parametrize("term", NONSENSE)
def test_search_for_nonsense_finds_nothing(admin_client: Client, url: str, term: str, current: Sale) -> None:
    response = admin_client.get(url, {"q": term})

    assert rows(response) == []
    assert counted(response) == f"0 {'sale items' if url == ITEMS else 'checkouts'}"


@pytest.mark.parametrize("url", [ITEMS, CHECKOUTS])
def test_search_explains_itself(admin_client: Client, url: str) -> None:
    assert "user:5 or item:7" in admin_client.get(url).content.decode()
