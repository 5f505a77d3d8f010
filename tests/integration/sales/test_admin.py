"""The admin on real PostgreSQL: what it shows, finds and refuses, and that it changes ``paused`` alone."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.contrib import admin
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth.models import Permission, User
from django.contrib.messages import get_messages
from django.db import connection
from django.http import HttpResponse
from django.test import Client
from django.test.utils import CaptureQueriesContext

from sales import __version__
from sales.admin import rows as sales_admin_rows
from sales.certificate import issue
from sales.codes import MAX_ITEMS, MAX_SALE_ID, first_code, new_code
from sales.conf import SaleOptions
from sales.models import Allowance, Checkout, Sale, SaleCertificate, SaleItem
from sales.rotation import create_sale, rotate
from sales.statements import INVARIANTS

pytestmark = pytest.mark.django_db

HOUR = timedelta(hours=1)
SALES, ITEMS, CHECKOUTS = (f"/admin/sales/{name}/" for name in ("sale", "saleitem", "checkout"))
LISTS = (SALES, ITEMS, CHECKOUTS)

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


def new_sale(starts_at: datetime, *, items: int = 5, paused: bool = False) -> Sale:
    return create_sale(
        Sale(
            starts_at=starts_at,
            ends_at=starts_at + HOUR,
            items=items,
            user_limit=10,
            checkout_ttl=60,
            paused=paused,
        )
    )


def hold(
    sale: Sale,
    item_id: int,
    user_id: int,
    *,
    became: str = "held",
    ends: timedelta = HOUR,
    code: UUID | None = None,
) -> UUID:
    """One checkout and its item as the service leaves them; times are around now."""
    now = datetime.now(UTC)
    code = code or new_code(sale.pk, item_id)
    purchased_at = min(now, now + ends) - timedelta(seconds=1) if became == "purchased" else None
    Checkout.objects.create(
        code=code,
        sale=sale,
        item_id=item_id,
        user_id=user_id,
        created_at=now - 2 * HOUR,
        expires_at=now + ends,
        purchased_at=purchased_at,
        state=became,
    )
    if became in ("held", "purchased"):
        SaleItem.objects.filter(sale=sale, item_id=item_id).update(
            state="sold" if purchased_at else "held",
            user_id=user_id,
            code=code,
            held_until=now + ends,
            purchased_at=purchased_at,
            version=2 if purchased_at else 1,
        )
    return code


@pytest.fixture
def ended(db: None) -> Sale:
    sale = new_sale(datetime.now(UTC) - 3 * HOUR, items=4)
    for item_id in range(4):
        hold(sale, item_id, 40 + item_id, became="purchased", ends=-HOUR)
    return sale


@pytest.fixture
def current(db: None) -> Sale:
    """Item 0 is sold, 1 held, 2 was held before, the hold of 3 is over but not swept, 4 was never touched."""
    sale = new_sale(datetime.now(UTC) - HOUR / 2, items=5)
    hold(sale, 0, 7, became="purchased")
    hold(sale, 1, 2)
    hold(sale, 2, 7, became="expired", ends=-HOUR)
    hold(sale, 3, 3, ends=-HOUR)
    return sale


@pytest.fixture
def upcoming(db: None) -> Sale:
    return new_sale(datetime.now(UTC) + HOUR, items=3)


@pytest.fixture
def staff(db: None) -> Callable[..., Client]:
    """Log in a staff member with these permissions and no others."""

    def log_in(*codenames: str) -> Client:
        user = User.objects.create_user(f"staff{User.objects.count()}", is_staff=True)
        user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
        assert user.user_permissions.count() == len(codenames)
        client = Client()
        client.force_login(user)
        return client

    return log_in


def rows(response: HttpResponse) -> list[dict[str, str]]:
    """The cells of a list or a page by column, as a person reads them."""
    assert response.status_code == 200
    table = re.search(
        r'<table id="result_list">.*?<tbody>(.*?)</tbody>', response.content.decode(), re.DOTALL
    )
    return [
        {
            column: text(cell)
            for column, cell in re.findall(r'<t[hd] class="field-(\w+)[^>]*>(.*?)</t[hd]>', row, re.DOTALL)
        }
        for row in (table[1].split("<tr>")[1:] if table else [])
    ]


def text(html: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())


def column(response: HttpResponse, name: str) -> list[str]:
    return [row[name] for row in rows(response)]


def counted(response: HttpResponse) -> str:
    """What stands below a list."""
    # A paragraph up to Django 6.0, a nav with a heading of its own since.
    pattern = r'<(p|nav) class="paginator"[^>]*>(.*?)</\1>'
    paginator = re.search(pattern, response.content.decode(), re.DOTALL)
    assert paginator
    return text(re.sub(r"<(a|span|h2)\b.*?</\1>", "", paginator[2], flags=re.DOTALL))


def number_of_queries(client: Client, url: str, **params: Any) -> int:
    with CaptureQueriesContext(
        connection,
    ) as queries:
        assert client.get(url, params).status_code == 200
    return len(queries)


def stored(*models: Any) -> list[Any]:
    """Everything in these tables."""
    return [list(model.objects.order_by("pk").values()) for model in models]


def said(response: HttpResponse) -> list[str]:
    return [f"{message.level_tag}: {message}" for message in get_messages(response.wsgi_request)]


def run(client: Client, action: str, *sales: Sale) -> HttpResponse:
    return client.post(SALES, {"action": action, "_selected_action": [sale.pk for sale in sales], "index": 0})


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


def test_sale_list_of_rotated_sales(admin_client: Client) -> None:
    rotate(SaleOptions(items=6, user_limit=2, checkout_ttl=30, period=3600))

    response = admin_client.get(SALES)

    assert column(response, "state") == ["upcoming", "on sale"]
    assert column(response, "available") == ["6", "6"]
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0, tzinfo=None)
    assert column(response, "starts")[1] in {str(hour), str(hour - HOUR)}


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


# --- pausing


def test_pause_takes_the_sales_that_are_not_paused_and_only_their_flag(
    admin_client: Client, admin_user: User, ended: Sale, current: Sale, upcoming: Sale
) -> None:
    Sale.objects.filter(pk=upcoming.pk).update(paused=True)

    with CaptureQueriesContext(connection) as queries:
        response = run(admin_client, "pause", current, upcoming)

    assert response.status_code == 302
    assert said(response) == ["success: 1 sale was paused."]
    assert dict(Sale.objects.values_list("pk", "paused")) == {
        ended.pk: False,
        current.pk: True,
        upcoming.pk: True,
    }
    updates = [q["sql"] for q in queries if q["sql"].startswith("UPDATE") and "sales_" in q["sql"]]
    assert updates == [f'UPDATE "sales_sale" SET "paused" = true WHERE "sales_sale"."id" IN ({current.pk})']
    entries = LogEntry.objects.values_list("user_id", "object_id", "action_flag", "change_message")
    assert list(entries) == [(admin_user.pk, str(current.pk), CHANGE, "Paused.")]


def test_resume_takes_the_sales_that_are_paused(
    admin_client: Client, ended: Sale, current: Sale, upcoming: Sale
) -> None:
    Sale.objects.filter(pk__in=[ended.pk, current.pk]).update(paused=True)

    response = run(admin_client, "resume", ended, current, upcoming)

    assert said(response) == ["success: 2 sales were resumed."]
    assert not Sale.objects.filter(paused=True).exists()
    logged = LogEntry.objects.order_by("object_id").values_list("object_id", "change_message")
    assert list(logged) == [(str(ended.pk), "Resumed."), (str(current.pk), "Resumed.")]


@pytest.mark.parametrize("action", ["pause", "resume"])
def test_each_sale_that_is_paused_or_resumed_is_an_event_of_the_log(
    admin_client: Client, caplog: pytest.LogCaptureFixture, action: str, current: Sale, upcoming: Sale
) -> None:
    Sale.objects.filter(pk=current.pk).update(paused=action == "resume")
    Sale.objects.filter(pk=upcoming.pk).update(paused=action == "pause")
    run(admin_client, action, current, upcoming)
    events = [(r.getMessage(), r.fields) for r in caplog.records if r.name == "sales.operations"]
    assert events == [(f"sale.{action}d", {"sale_id": current.pk, "user": "admin"})]


@pytest.mark.parametrize("action", ["pause", "resume"])
def test_action_without_anything_to_do_says_so(
    admin_client: Client, caplog: pytest.LogCaptureFixture, action: str, current: Sale
) -> None:
    Sale.objects.update(paused=action == "pause")
    before = stored(Sale)

    response = run(admin_client, action, current)
    assert not [record for record in caplog.records if record.name == "sales.operations"]

    assert said(response) == [f"warning: No sale was {action}d: all of them were already."]
    assert stored(Sale) == before
    assert not LogEntry.objects.exists()


def test_pause_of_all_sales_of_a_filter(
    admin_client: Client, ended: Sale, current: Sale, upcoming: Sale
) -> None:
    data = {"action": "pause", "_selected_action": [current.pk], "index": 0, "select_across": 1}

    response = admin_client.post(f"{SALES}?time=upcoming", data)

    assert said(response) == ["success: 1 sale was paused."]
    assert list(Sale.objects.filter(paused=True)) == [upcoming]


def test_whoever_may_change_sales_may_pause_them_and_change_nothing_else(
    staff: Callable[..., Client], current: Sale
) -> None:
    client = staff("change_sale")

    assert said(run(client, "pause", current)) == ["success: 1 sale was paused."]
    before = stored(Sale)
    assert client.post(f"{SALES}{current.pk}/change/", {"items": 9, "paused": ""}).status_code == 403
    assert stored(Sale) == before


def test_pausing_needs_the_change_permission(staff: Callable[..., Client], current: Sale) -> None:
    client = staff("view_sale", "add_sale", "delete_sale", "change_saleitem")

    page = client.get(SALES)
    response = run(client, "pause", current)

    assert b'name="action"' not in page.content
    assert column(response, "is_paused") == ["no"]
    assert not Sale.objects.get().paused
    assert not LogEntry.objects.exists()


# --- read-only


@pytest.mark.parametrize("url", LISTS)
def test_nothing_can_be_added_changed_or_deleted(admin_client: Client, url: str, current: Sale) -> None:
    model = {SALES: Sale, ITEMS: SaleItem, CHECKOUTS: Checkout}[url]
    pk = model.objects.values_list("pk", flat=True)[0]
    before = stored(Sale, SaleItem, Checkout)

    page = admin_client.get(f"{url}{pk}/change/").content.decode()
    assert not re.findall(r'<(?:input|select|textarea)\b(?![^>]*type="hidden")[^>]*name="(?!_)', page)
    assert "_save" not in page
    changed = {field.attname: "1" for field in model._meta.fields}
    assert admin_client.post(f"{url}{pk}/change/", changed).status_code == 403
    for path in ("add/", f"{pk}/delete/"):
        assert admin_client.get(f"{url}{path}").status_code == 403
        assert admin_client.post(f"{url}{path}", changed | {"post": "yes"}).status_code == 403
    admin_client.post(url, {"action": "delete_selected", "_selected_action": [pk], "post": "yes", "index": 0})

    assert stored(Sale, SaleItem, Checkout) == before


@pytest.mark.parametrize("url", LISTS)
def test_the_view_permission_shows_lists_and_pages(
    staff: Callable[..., Client], url: str, current: Sale
) -> None:
    model = {SALES: Sale, ITEMS: SaleItem, CHECKOUTS: Checkout}[url]
    client, other = staff(f"view_{model._meta.model_name}"), staff()
    pk = model.objects.values_list("pk", flat=True)[0]

    for path in (url, f"{url}{pk}/change/"):
        response = client.get(path)
        assert response.status_code == 200
        assert b"addlink" not in response.content
        assert b"deletelink" not in response.content
        assert other.get(path).status_code == 403
    assert client.post(f"{url}{pk}/change/", {}).status_code == 403
    assert [path for path in LISTS if client.get(path).status_code == 200] == [url]


@pytest.mark.parametrize("url", LISTS)
@pytest.mark.parametrize("pk", ["0", "abc", str(10**30), "-1", "%00", str(UUID(int=5))])
def test_page_of_what_does_not_exist_leads_back(
    admin_client: Client, url: str, pk: str, current: Sale
) -> None:
    response = admin_client.get(f"{url}{pk}/change/")

    assert (response.status_code, response.headers.get("Location")) == (302, "/admin/")


def test_allowances_are_left_out() -> None:
    assert not admin.site.is_registered(Allowance)


# --- items and checkouts


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
        "state": "Expired",
        "created": checkout.created_at.replace(tzinfo=None).isoformat(" ", "milliseconds"),
        "expires": checkout.expires_at.replace(tzinfo=None).isoformat(" ", "milliseconds"),
        "purchased": "-",
    }
    assert f'<a href="{ITEMS}{SaleItem.id_of(current.pk, 2)}/change/">2</a>' in page


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
def test_filter_by_sale_is_a_range_of_keys(
    admin_client: Client, url: str, ended: Sale, current: Sale
) -> None:
    Checkout.objects.filter(item_id=2, sale=current).update(code=first_code(current.pk))
    Checkout.objects.filter(item_id=3, sale=ended).update(code=UUID(int=first_code(ended.pk + 1).int - 1))

    for sale, items, checkouts in ((ended, 4, 4), (current, 5, 4)):
        with CaptureQueriesContext(connection) as queries:
            response = admin_client.get(url, {"sale__id__exact": sale.pk})
        assert column(response, "sale_link") == [str(sale.pk)] * (items if url == ITEMS else checkouts)
        key = '"sales_saleitem"."id"' if url == ITEMS else '"sales_checkout"."code"'
        assert len([q for q in queries if f"{key} BETWEEN" in q["sql"]]) == 2  # the count and the page


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


@pytest.mark.parametrize(
    "selected", ["x", "", "1.5", "-x", "\x00", "7\x00", str(10**30), "9" * 5000, "1,2", "[]"]
)
@pytest.mark.parametrize(
    ("url", "action"),
    [
        (SALES, "pause"),
        (SALES, "resume"),
        ("/admin/auth/user/", "delete_selected"),
        ("/admin/auth/group/", "delete_selected"),
    ],
)
def test_an_action_on_what_cannot_be_is_refused_whatever_stands_beside_it(
    admin_client: Client, admin_user: User, current: Sale, url: str, action: str, selected: str
) -> None:
    right = current.pk if url == SALES else admin_user.pk
    for extra in ({}, {"select_across": "1"}, {"index": "x"}, {"index": "-9"}, {"select_across": "x"}):
        data = {"action": action, "_selected_action": [right, selected], "post": "yes", **extra}
        assert admin_client.post(url, data).status_code in (200, 302)
    assert Sale.objects.get(pk=current.pk).paused is False
    assert User.objects.filter(pk=admin_user.pk).exists()
    assert not LogEntry.objects.exists()
