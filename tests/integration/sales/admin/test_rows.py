"""The lists of items and checkouts, which stay quick however long they are."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from django.contrib import admin
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from sales.admin import rows as sales_admin_rows
from sales.codes import MAX_SALE_ID
from sales.models import Checkout, Sale, SaleItem
from tests.integration.sales.admin.pages import (
    CHECKOUTS,
    HOUR,
    ITEMS,
    LISTS,
    SALES,
    column,
    counted,
    hold,
    new_sale,
    number_of_queries,
    rows,
    text,
)

pytestmark = pytest.mark.django_db


def test_list_and_page_of_an_item(admin_client: Client, current: Sale) -> None:
    item = SaleItem.objects.get(sale=current, item_id=0)
    code = str(item.code)

    row = rows(admin_client.get(ITEMS))[-1]
    page = admin_client.get(f"{ITEMS}{item.pk}/change/").content.decode()

    assert row == {
        "item_id": "0",
        "sale_link": str(current.pk),
        "state": "Sold",
        "user_id": "7",
        "code_link": code,
        "until": item.held_until.replace(tzinfo=None).isoformat(" ", "milliseconds"),
        "purchased": item.purchased_at.replace(tzinfo=None).isoformat(" ", "milliseconds"),
        "version": "2",
    }
    assert f'<a href="{CHECKOUTS}{code}/change/">{code}</a>' in page
    assert f'<a href="{SALES}{current.pk}/change/">{current.pk}</a>' in page


def test_list_and_page_of_a_checkout(admin_client: Client, current: Sale) -> None:
    checkout = Checkout.objects.get(state="expired")

    row = rows(admin_client.get(CHECKOUTS))[1]
    page = admin_client.get(f"{CHECKOUTS}{checkout.code}/change/").content.decode()

    assert row == {
        "code": str(checkout.code),
        "sale_link": str(current.pk),
        "item_link": "2",
        "user_id": "7",
        "outcome": "Expired",
        "created": checkout.created_at.replace(tzinfo=None).isoformat(" ", "milliseconds"),
        "expires": checkout.expires_at.replace(tzinfo=None).isoformat(" ", "milliseconds"),
        "purchased": "-",
    }
    assert f'<a href="{ITEMS}{SaleItem.id_of(current.pk, 2)}/change/">2</a>' in page


def unmarked(sale: Sale, item_id: int) -> Checkout:
    """The checkout of a sold item as a purchase leaves it, which writes the row of the item alone."""
    Checkout.objects.filter(sale=sale, item_id=item_id).update(state="held", purchased_at=None)
    return Checkout.objects.get(sale=sale, item_id=item_id)


def test_a_purchase_is_shown_before_its_checkout_is_marked(admin_client: Client, current: Sale) -> None:
    item = SaleItem.objects.get(sale=current, item_id=0)
    bought = item.purchased_at.replace(tzinfo=None).isoformat(" ", "milliseconds")
    code = unmarked(current, 0).code

    row = rows(admin_client.get(CHECKOUTS))[-1]
    page = text(admin_client.get(f"{CHECKOUTS}{code}/change/").content.decode())

    assert (row["outcome"], row["purchased"]) == ("Purchased", bought)
    assert "Purchased" in page
    assert bought in page
    assert column(admin_client.get(CHECKOUTS, {"state__exact": "purchased"}), "code") == [str(code)]
    assert str(code) not in column(admin_client.get(CHECKOUTS, {"state__exact": "held"}), "code")


PAST = """
    INSERT INTO sales_sale (id, starts_at, ends_at, items, user_limit, checkout_ttl, paused, closed)
    SELECT 1000 + n, now() - interval '9 years' + n * interval '1 hour',
           now() - interval '9 years' + (n + 1) * interval '1 hour', 1000, 10, 60, false, true
    FROM generate_series(1, 200) AS n;
    INSERT INTO sales_saleitem (id, sale_id, item_id, state, version)
    SELECT (1000 + n) * 16777216::bigint + item, 1000 + n, item, 'available', 0
    FROM generate_series(1, 200) AS n, generate_series(0, 999) AS item;
    INSERT INTO sales_checkout (code, sale_id, item_id, user_id, created_at, expires_at, state)
    SELECT gen_random_uuid(), sale_id, item_id, item_id, now(), now() + interval '1 day', 'held'
    FROM sales_saleitem WHERE sale_id > 1000 AND item_id < 20;
    ANALYZE sales_sale, sales_saleitem, sales_checkout
"""


def test_pages_and_searches_go_by_whole_keys_however_many_rows_there_are(
    admin_client: Client, current: Sale
) -> None:
    code = unmarked(current, 0).code
    item = SaleItem.objects.get(sale=current, item_id=0)
    asked = (
        (ITEMS, {}),
        (CHECKOUTS, {}),
        (ITEMS, {"sale__id__exact": current.pk}),
        (CHECKOUTS, {"sale__id__exact": current.pk, "state__exact": "purchased"}),
        (ITEMS, {"q": str(code)}),
        (CHECKOUTS, {"q": str(code)}),
        (ITEMS, {"q": "item:0"}),
        (f"{ITEMS}{item.pk}/change/", {}),
        (f"{CHECKOUTS}{code}/change/", {}),
    )
    with connection.cursor() as cursor:
        cursor.execute(PAST)
        for url, parameters in asked:
            with CaptureQueriesContext(connection) as queries:
                assert admin_client.get(url, parameters).status_code == 200
            for query in queries:
                if "sales_saleitem" in query["sql"] or "sales_checkout" in query["sql"]:
                    cursor.execute("EXPLAIN (FORMAT JSON) " + query["sql"])
                    scanned = set(scans(json.loads(json.dumps(cursor.fetchone()[0]))))
                    assert not scanned & {"sales_saleitem", "sales_checkout"}, (url, parameters, query["sql"])


def scans(plan: Any, parent: str = "") -> Iterator[str]:
    """The tables that a plan may read to their end; where it only wants some, any rows will do."""
    if isinstance(plan, list):
        for part in plan:
            yield from scans(part, parent)
    elif isinstance(plan, dict):
        kind, table = plan.get("Node Type", parent), plan.get("Relation Name", "")
        is_found = "Index Cond" in plan or "Recheck Cond" in plan
        if kind.endswith("Scan") and not is_found and ("Filter" in plan or parent != "Limit"):
            yield table
        for part in plan.values():
            if isinstance(part, list | dict):
                yield from scans(part, kind)


def test_lists_start_with_the_newest_sale(admin_client: Client, ended: Sale, current: Sale) -> None:
    items = [(row["sale_link"], row["item_id"]) for row in rows(admin_client.get(ITEMS))]
    checkouts = [(row["sale_link"], row["item_link"]) for row in rows(admin_client.get(CHECKOUTS))]

    def expected(last_item: int) -> list[tuple[str, str]]:
        return [(str(current.pk), str(n)) for n in range(last_item, -1, -1)] + [
            (str(ended.pk), str(n)) for n in (3, 2, 1, 0)
        ]

    assert items == expected(4)
    assert checkouts == expected(3)


@pytest.mark.parametrize("url", [ITEMS, CHECKOUTS])
def test_lists_keep_the_order_of_the_key_whatever_is_asked(
    admin_client: Client, url: str, current: Sale
) -> None:
    usual = rows(admin_client.get(url))

    for order in ("4", "-4", "1.2.3", "nonsense", "99", "\x00"):
        assert rows(admin_client.get(url, {"o": order})) == usual
    assert b"sortable" not in admin_client.get(url).content


@pytest.mark.parametrize("url", [ITEMS, CHECKOUTS])
def test_queries_of_the_lists_do_not_grow_with_rows(admin_client: Client, url: str, current: Sale) -> None:
    before = number_of_queries(admin_client, url)
    sale = new_sale(datetime.now(UTC) - 5 * HOUR, items=150)
    for item_id in range(150):
        hold(sale, item_id, item_id, became="purchased", ends=-HOUR)

    assert len(rows(admin_client.get(url))) == 100
    assert before == number_of_queries(admin_client, url) == number_of_queries(admin_client, url, p=2) == 5
    found = {"sale__id__exact": sale.pk, "state__exact": "sold" if url == ITEMS else "purchased", "q": "7"}
    assert len(rows(admin_client.get(url, found))) == 1
    assert number_of_queries(admin_client, url, **found) == 5
    assert number_of_queries(admin_client, url, _facets="True") == 5


@pytest.mark.parametrize("url", [ITEMS, CHECKOUTS])
def test_long_lists_are_neither_counted_nor_paged_to_their_end(
    admin_client: Client, url: str, ended: Sale, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_admin = admin.site.get_model_admin(SaleItem if url == ITEMS else Checkout)
    monkeypatch.setattr(model_admin, "list_per_page", 2)
    assert counted(admin_client.get(url)) == f"4 {'sale items' if url == ITEMS else 'checkouts'}"
    monkeypatch.setattr(sales_admin_rows, "MAX_COUNT", 3)

    with CaptureQueriesContext(connection) as queries:
        last = admin_client.get(url, {"p": 2})

    assert counted(last) == f"more than 3 {'sale items' if url == ITEMS else 'checkouts'}"
    assert len(rows(last)) == 1
    assert [q["sql"].endswith("LIMIT 4) subquery") for q in queries if "COUNT(" in q["sql"]] == [True]
    for page in ("3", "0", "-1", "9" * 30):
        assert admin_client.get(url, {"p": page}).headers["Location"] == f"{url}?e=1"
    assert len(rows(admin_client.get(url, {"p": "nonsense"}))) == 2


@pytest.mark.parametrize("url", [ITEMS, CHECKOUTS])
def test_filter_by_sale_keeps_to_its_keys(admin_client: Client, url: str, ended: Sale, current: Sale) -> None:
    for sale, items, checkouts in ((ended, 4, 4), (current, 5, 4)):
        with CaptureQueriesContext(connection) as queries:
            response = admin_client.get(url, {"sale__id__exact": sale.pk})
        assert column(response, "sale_link") == [str(sale.pk)] * (items if url == ITEMS else checkouts)
        table = "sales_saleitem" if url == ITEMS else "sales_checkout"
        of_sale = f'"{table}"."sale_id" = {sale.pk}'
        assert len([q for q in queries if of_sale in q["sql"]]) == 2  # the count and the page


@pytest.mark.parametrize("url", [ITEMS, CHECKOUTS])
@pytest.mark.parametrize(
    "value", ["0", "-1", "abc", "", "\x00", "1.0", str(MAX_SALE_ID), str(MAX_SALE_ID + 1), str(10**30)]
)
def test_filter_by_a_sale_that_is_none_finds_nothing(
    admin_client: Client, url: str, value: str, current: Sale
) -> None:
    assert rows(admin_client.get(url, {"sale__id__exact": value})) == []


def test_filter_offers_the_newest_sales_and_the_one_that_is_chosen(admin_client: Client) -> None:
    first = datetime(2026, 3, 10, tzinfo=UTC)
    pks = [new_sale(first + number * HOUR, items=1).pk for number in range(25)]

    def offered(**params: Any) -> list[str]:
        response = admin_client.get(ITEMS, params)
        sidebar = response.content.decode().split('id="changelist-filter"')[1]
        return re.findall(r"sale__id__exact=(\d+)", sidebar)

    newest = [str(pk) for pk in reversed(pks[5:])]
    assert offered() == newest
    assert f"{pks[24]} · 2026-03-11 00:00" in admin_client.get(ITEMS).content.decode()
    chosen = re.findall(
        r'<li class="selected">\s*<a href="\S+">(.*?)</a>',
        admin_client.get(ITEMS, {"sale__id__exact": pks[0]}).content.decode(),
    )
    assert chosen == ["All", str(pks[0])]  # any state, this sale


@pytest.mark.parametrize(
    ("url", "state", "items"),
    [
        (ITEMS, "available", ["4", "2"]),
        (ITEMS, "held", ["3", "1"]),
        (ITEMS, "sold", ["0"]),
        (ITEMS, "purchased", []),
        (CHECKOUTS, "held", ["3", "1"]),
        (CHECKOUTS, "purchased", ["0"]),
        (CHECKOUTS, "expired", ["2"]),
        (CHECKOUTS, "released", []),
        (CHECKOUTS, "sold", []),
        (CHECKOUTS, "", []),
        (CHECKOUTS, "\x00", []),
    ],
)
def test_filter_by_state(admin_client: Client, url: str, state: str, items: list[str], current: Sale) -> None:
    found = admin_client.get(url, {"state__exact": state})

    assert column(found, "item_id" if url == ITEMS else "item_link") == items


@pytest.mark.parametrize("url", LISTS)
@pytest.mark.parametrize(
    "lookup",
    ["user_id__icontains", "code__regex", "starts_at__regex", "user_id", "sale__items", "id__in", "nonsense"],
)
def test_other_lookups_are_refused(admin_client: Client, url: str, lookup: str, current: Sale) -> None:
    assert admin_client.get(url, {lookup: "("}).status_code == 400
