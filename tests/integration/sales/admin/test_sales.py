"""The list of sales and the page of each, with its counts and its certificate."""

import re
from datetime import UTC, datetime

import pytest
from django.contrib import admin
from django.test import Client

from sales import __version__
from sales.certificate import issue
from sales.models import Sale, SaleCertificate
from sales.statements import INVARIANTS
from tests.integration.sales.admin.pages import (
    CHECKOUTS,
    HOUR,
    ITEMS,
    SALES,
    column,
    counted,
    new_sale,
    number_of_queries,
    rows,
    stored,
    text,
)

pytestmark = pytest.mark.django_db


# --- the list of sales


def test_sale_list_shows_counts_and_state(
    admin_client: Client, ended: Sale, current: Sale, upcoming: Sale
) -> None:
    def row(sale: Sale, sold: int, held: int, available: int, state: str) -> dict[str, str]:
        return {
            "id": str(sale.pk),
            "starts": sale.starts_at.replace(tzinfo=None).isoformat(" ", "milliseconds"),
            "ends": sale.ends_at.replace(tzinfo=None).isoformat(" ", "milliseconds"),
            "items": str(sale.items),
            "sold": str(sold),
            "held": str(held),
            "available": str(available),
            "state": state,
            "is_paused": "no",
            "certified": "–",  # noqa: RUF001
        }

    # The hold that is over counts as available: whoever comes next gets it.
    assert rows(admin_client.get(SALES)) == [
        row(upcoming, 0, 0, 3, "upcoming"),
        row(current, 1, 1, 3, "on sale"),
        row(ended, 4, 0, 0, "ended"),
    ]


@pytest.mark.parametrize(
    ("offset", "paused", "state"),
    [
        (-2, False, "ended"),
        (-2, True, "ended"),
        (-0.5, False, "on sale"),
        (-0.5, True, "paused"),
        (1, False, "upcoming"),
        (1, True, "upcoming"),
    ],
)
def test_state_of_a_sale(admin_client: Client, offset: float, paused: bool, state: str) -> None:
    sale = new_sale(datetime.now(UTC) + offset * HOUR, paused=paused)

    assert [(row["state"], row["is_paused"]) for row in rows(admin_client.get(SALES))] == [
        (state, "yes" if paused else "no")
    ]
    assert (
        f'<div class="readonly">{state}</div>'
        in admin_client.get(f"{SALES}{sale.pk}/change/").content.decode()
    )


def test_queries_of_the_sale_list_do_not_grow_with_sales(admin_client: Client) -> None:
    first = datetime(2026, 3, 10, 0, tzinfo=UTC)  # one month, so that the date drill-down stays the same
    for number in range(2):
        new_sale(first + number * HOUR)
    before = number_of_queries(admin_client, SALES)
    for number in range(2, 50):
        new_sale(first + number * HOUR)

    response = admin_client.get(SALES)

    assert len(rows(response)) == 20
    assert counted(response) == "50 sales"
    assert (
        before == number_of_queries(admin_client, SALES) == number_of_queries(admin_client, SALES, p=3) == 7
    )


@pytest.mark.parametrize(
    ("params", "found"),
    [
        ({"time": "upcoming"}, ["upcoming"]),
        ({"time": "current"}, ["current"]),
        ({"time": "ended"}, ["ended"]),
        ({"paused__exact": "1"}, ["ended"]),
        ({"paused__exact": "0"}, ["upcoming", "current"]),
        ({"time": "current", "paused__exact": "1"}, []),
        ({"time": "nonsense"}, []),
        ({"time": "\x00"}, []),
    ],
)
def test_filters_of_sales(
    admin_client: Client,
    params: dict[str, str],
    found: list[str],
    ended: Sale,
    current: Sale,
    upcoming: Sale,
) -> None:
    Sale.objects.filter(pk=ended.pk).update(paused=True)
    pks = {"ended": str(ended.pk), "current": str(current.pk), "upcoming": str(upcoming.pk)}

    assert column(admin_client.get(SALES, params), "id") == [pks[name] for name in found]


def test_sales_can_be_looked_up_by_date(admin_client: Client) -> None:
    day, other = (new_sale(datetime(2026, 3, day, tzinfo=UTC)) for day in (10, 11))

    assert column(admin_client.get(SALES), "id") == [str(other.pk), str(day.pk)]
    date = {"starts_at__year": "2026", "starts_at__month": "3", "starts_at__day": "10"}
    assert column(admin_client.get(SALES, date), "id") == [str(day.pk)]


@pytest.mark.parametrize(
    ("params", "status"),
    [
        ({"starts_at__year": "9999"}, 400),
        ({"starts_at__year": "09999", "starts_at__month": "12"}, 400),
        ({"starts_at__year": "abc"}, 400),
        ({"starts_at__year": "\x00"}, 400),
        ({"starts_at__year": "0"}, 302),
        ({"starts_at__year": "2026", "starts_at__month": "13"}, 302),
        ({"starts_at__month": "\x00"}, 302),
        ({"starts_at__month": str(10**30)}, 200),
        ({"paused__exact": "\x00"}, 302),
        ({"paused__exact": "2"}, 302),
        ({"p": "\x00", "o": "\x00", "q": "\x00", "all": "\x00"}, 200),
    ],
)
def test_nonsense_in_the_address_of_the_sale_list_does_no_harm(
    admin_client: Client, params: dict[str, str], status: int, current: Sale
) -> None:
    assert admin_client.get(SALES, params).status_code == status


def test_sales_sort_by_start_either_way(admin_client: Client, ended: Sale, current: Sale) -> None:
    assert column(admin_client.get(SALES, {"o": "2"}), "id") == [str(ended.pk), str(current.pk)]
    assert column(admin_client.get(SALES, {"o": "-2"}), "id") == [str(current.pk), str(ended.pk)]


def test_page_of_a_sale(admin_client: Client, current: Sale) -> None:
    page = admin_client.get(f"{SALES}{current.pk}/change/").content.decode()

    # Since Django 6.1 the help text stands before the value.
    page = re.sub(r'<div class="help"[^>]*>\s*<div>.*?</div>\s*</div>', "", page, flags=re.DOTALL)
    shown = re.findall(r"<label>(.*?):</label>\s*<div class=\"readonly\">(.*?)</div>", page, re.DOTALL)
    assert [(label, text(value)) for label, value in shown if "UTC" not in label] == [
        ("ID", str(current.pk)),
        ("Items", "5"),
        ("Sold", "1"),
        ("Held", "1"),
        ("Available", "3"),
        ("State", "on sale"),
        ("Paused", "no"),
        ("User limit", "10"),
        ("Checkout TTL", "60"),
        ("See also", "items , checkouts"),
        ("Certificate", "not written yet"),
    ]
    links = re.findall(r'href="(\S+\?sale__id__exact=\d+)"', page)
    assert links == [f"{ITEMS}?sale__id__exact={current.pk}", f"{CHECKOUTS}?sale__id__exact={current.pk}"]
    assert [len(rows(admin_client.get(link))) for link in links] == [5, 4]


# --- certificates


def shown_certificate(client: Client, sale: Sale) -> list[str]:
    """The lines of the certificate on the page of a sale."""
    page = client.get(f"{SALES}{sale.pk}/change/").content.decode()
    found = re.search(r"<label>Certificate:</label>\s*<div class=\"readonly\">(.*?)</div>", page, re.DOTALL)
    assert found
    return [text(line) for line in found[1].split("<br>")]


@pytest.fixture
def certified(ended: Sale) -> SaleCertificate:
    """As a worker writes it; the rows were made up, so one invariant is broken."""
    findings = [
        {"invariant": "nothing is lost", "holds": True, "broken": 0, "examples": []},
        {
            "invariant": "nothing is sold twice",
            "holds": False,
            "broken": 1002,
            "examples": ["item 1 <b>", "item 2"],
        },
    ]
    return SaleCertificate.objects.create(
        sale=ended,
        issued_at=datetime(2026, 3, 10, 7, 8, 9, tzinfo=UTC),
        version="1.2.3",
        holds=False,
        document={
            "items": 10_000,
            "sold": 9000,
            "held": 0,
            "available": 1000,
            "users": 8000,
            "invariants": findings,
        },
    )


def test_a_broken_certificate_is_shown_with_its_sale(
    admin_client: Client, certified: SaleCertificate, current: Sale
) -> None:
    assert column(admin_client.get(SALES), "certified") == ["–", "✗"]  # noqa: RUF001
    assert shown_certificate(admin_client, certified.sale) == [
        "✗ BROKEN",
        "10,000 items: 9,000 sold to 8,000 users, 0 held, 1,000 available",
        "issued 2026-03-10 07:08:09 UTC by version 1.2.3",
        "✓ nothing is lost",
        "✗ nothing is sold twice",
        "item 1 <b>",
        "item 2",
        "and 1,000 more",
    ]
    assert shown_certificate(admin_client, current) == ["not written yet"]


@pytest.mark.django_db(transaction=True)
def test_a_certificate_that_holds_is_shown_as_it_was_issued(admin_client: Client) -> None:
    sale = new_sale(datetime.now(UTC) - 3 * HOUR, items=4)
    certificate = issue(sale)
    assert certificate is not None
    assert column(admin_client.get(SALES), "certified") == ["✓"]
    assert shown_certificate(admin_client, sale) == [
        "✓ every invariant holds",
        "4 items: 0 sold to 0 users, 0 held, 4 available",
        f"issued {certificate.issued_at:%Y-%m-%d %H:%M:%S} UTC by version {__version__}",
        *(f"✓ {invariant}" for invariant in INVARIANTS),
    ]


def test_a_certificate_can_only_be_looked_at(admin_client: Client, certified: SaleCertificate) -> None:
    assert not admin.site.is_registered(SaleCertificate)
    sale = certified.sale
    before = stored(SaleCertificate)
    data = {"certificate": "", "proof": "", "certified": "True", "post": "yes"}
    for path in ("change", "delete"):
        assert admin_client.post(f"{SALES}{sale.pk}/{path}/", data).status_code == 403
    assert admin_client.get(f"/admin/sales/salecertificate/{sale.pk}/change/").status_code == 404
    assert stored(SaleCertificate) == before
