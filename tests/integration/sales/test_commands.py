"""The commands of the app and its system checks: what they say, and what they change."""

import asyncio
import json
import re
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.conf import settings
from django.core.checks import CheckMessage, run_checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.db.utils import ConnectionHandler
from django.test import override_settings

from sales import __version__, services
from sales.certificate import certify
from sales.conf import LIMITS, SaleOptions
from sales.connections import connection_info
from sales.models import Sale
from sales.runtime import Runtime
from sales.statements import INVARIANTS

# Only the tables of sales are emptied after each test.
pytestmark = pytest.mark.django_db(transaction=True, available_apps=["sales"])

Sql = Callable[..., list[tuple[Any, ...]]]
MakeSale = Callable[..., Sale]
Holds = dict[int, UUID]

SMALL = override_settings(
    FLASHSALE_ITEMS=1234, FLASHSALE_USER_LIMIT=3, FLASHSALE_CHECKOUT_TTL=45, FLASHSALE_PERIOD=365 * 86_400
)

VARIABLES = {
    "items": "FLASHSALE_ITEMS",
    "user_limit": "FLASHSALE_USER_LIMIT",
    "checkout_ttl": "FLASHSALE_CHECKOUT_TTL",
    "period": "FLASHSALE_PERIOD",
}


def said(command: str, *arguments: str) -> str:
    """Run a command that succeeds; what it writes."""
    stdout, stderr = StringIO(), StringIO()
    call_command(command, *arguments, stdout=stdout, stderr=stderr)
    assert stderr.getvalue() == ""
    return stdout.getvalue()


def refused(command: str, *arguments: str) -> tuple[str, str]:
    """Run a command that exits with 1; its error, and what it wrote before."""
    stdout = StringIO()
    with pytest.raises(CommandError) as error:
        call_command(command, *arguments, stdout=stdout)
    assert error.value.returncode == 1
    return str(error.value), stdout.getvalue()


def second(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}"


def hold(*wanted: tuple[int, int], buy: tuple[int, ...] = ()) -> Holds:
    """Let users hold items of the current sale, and buy some; codes by item."""

    async def shop() -> Holds:
        options = SaleOptions(items=100, user_limit=10, checkout_ttl=60, period=3600)
        async with Runtime(connection_info(), options) as worker:
            granted = [services.checkout(worker, user_id=user, item_id=item) for user, item in wanted]
            codes = dict(zip((item for _, item in wanted), await asyncio.gather(*granted), strict=True))
            await asyncio.gather(*(services.purchase(worker, code=codes[item]) for item in buy))
            return codes

    return asyncio.run(shop())


def age(sql: Sql, *codes: UUID) -> None:
    """Make holds, and purchases, as old as if they had been granted an hour earlier."""
    sql(
        """WITH item AS (
               UPDATE sales_saleitem SET held_until = held_until - interval '1 hour',
                                         purchased_at = purchased_at - interval '1 hour'
               WHERE code = ANY(%s))
           UPDATE sales_checkout SET created_at = created_at - interval '1 hour',
                                     expires_at = expires_at - interval '1 hour',
                                     purchased_at = purchased_at - interval '1 hour'
           WHERE code = ANY(%s)""",
        list(codes),
        list(codes),
    )


def rows(sql: Sql) -> list[list[tuple[Any, ...]]]:
    """Every row of our tables, with its transaction: one that was only written anew differs too."""
    tables = ("sales_sale", "sales_saleitem", "sales_checkout", "sales_allowance")
    return [sql(f"SELECT xmin::text, ctid::text, * FROM {table} ORDER BY 2") for table in tables]


# --- rotatesale


@SMALL
def test_rotatesale_makes_the_current_and_the_next_sale_and_says_so() -> None:
    text = said("rotatesale")
    current, following = Sale.objects.order_by("starts_at")
    assert text == "".join(
        f"Sale {sale.pk} ({second(sale.starts_at)}): 1,234 items until {second(sale.ends_at)} UTC\n"
        for sale in (current, following)
    )
    assert current.starts_at <= datetime.now(UTC) < current.ends_at == following.starts_at
    for sale in (current, following):
        assert (sale.items, sale.user_limit, sale.checkout_ttl, sale.paused) == (1234, 3, 45, False)
        assert sale.ends_at - sale.starts_at == timedelta(days=365)
        assert sale.units.count() == 1234


@SMALL
def test_rotatesale_again_has_nothing_to_do(sql: Sql) -> None:
    said("rotatesale")
    before = rows(sql)
    for _ in range(2):
        assert said("rotatesale") == "Nothing to do: the current and the next sale exist.\n"
    assert rows(sql) == before


@SMALL
def test_rotatesale_says_only_what_was_missing(make_sale: MakeSale) -> None:
    sale = make_sale(items=5, lasts=7200)
    text = said("rotatesale")
    (made,) = Sale.objects.exclude(pk=sale.pk)
    assert text == f"{made}: 1,234 items until {second(made.ends_at)} UTC\n"
    assert made.starts_at == sale.ends_at


@pytest.mark.parametrize("variable", VARIABLES.values())
def test_rotatesale_makes_nothing_of_wrong_settings(variable: str, sql: Sql) -> None:
    with override_settings(**{variable: 0}):
        error, text = refused("rotatesale")
    assert error.startswith(f"No sale was made: {variable} must be a whole number from 1 to ")
    assert text == ""
    assert rows(sql) == [[], [], [], []]


# --- expirecheckouts


def test_expirecheckouts_has_nothing_to_do_where_nothing_is_held(sale: Sale, sql: Sql) -> None:
    before = rows(sql)
    assert said("expirecheckouts") == "Nothing to do: no hold has expired.\n"
    assert rows(sql) == before


def test_expirecheckouts_leaves_holds_that_are_not_over_and_what_was_sold(sale: Sale, sql: Sql) -> None:
    codes = hold((7, 0), (7, 1), (8, 2), buy=(2,))
    age(sql, codes[2])
    before = rows(sql)
    assert said("expirecheckouts") == "Nothing to do: no hold has expired.\n"
    assert rows(sql) == before


def test_expirecheckouts_frees_items_and_gives_allowances_back(sale: Sale, sql: Sql) -> None:
    codes = hold((7, 0), (7, 1), (7, 2), (8, 3), (8, 4), (9, 5), buy=(2,))
    age(sql, codes[0], codes[1], codes[3])
    assert said("expirecheckouts") == "3 expired holds were given back.\n"
    assert sql("SELECT item_id, state, user_id FROM sales_saleitem WHERE item_id < 6 ORDER BY 1") == [
        (0, "available", None),
        (1, "available", None),
        (2, "sold", 7),
        (3, "available", None),
        (4, "held", 8),
        (5, "held", 9),
    ]
    assert sql("SELECT user_id, taken FROM sales_allowance ORDER BY 1") == [(7, 1), (8, 1), (9, 1)]
    assert dict(sql("SELECT code, state FROM sales_checkout")) == {
        codes[0]: "expired",
        codes[1]: "expired",
        codes[2]: "purchased",
        codes[3]: "expired",
        codes[4]: "held",
        codes[5]: "held",
    }
    assert certify(sale).is_valid
    assert said("expirecheckouts") == "Nothing to do: no hold has expired.\n"


def test_expirecheckouts_counts_one_hold_in_the_singular(sale: Sale, sql: Sql) -> None:
    age(sql, hold((7, 0))[0])
    assert said("expirecheckouts") == "1 expired hold was given back.\n"


def test_expirecheckouts_frees_in_all_sales(make_sale: MakeSale, sale: Sale, sql: Sql) -> None:
    old = hold((7, 0))
    sql("UPDATE sales_sale SET ends_at = now() WHERE id = %s", sale.pk)
    following = make_sale(started=0)
    new = hold((7, 0), (7, 1))
    age(sql, old[0], *new.values())
    assert said("expirecheckouts") == "3 expired holds were given back.\n"
    assert sql("SELECT count(*) FROM sales_saleitem WHERE state <> 'available'") == [(0,)]
    assert sql("SELECT sale_id, state FROM sales_checkout ORDER BY 1") == [
        (sale.pk, "expired"),
        (following.pk, "expired"),
        (following.pk, "expired"),
    ]
    assert sql("SELECT sale_id, taken FROM sales_allowance ORDER BY 1") == [(sale.pk, 0), (following.pk, 0)]


def test_expirecheckouts_leaves_a_row_that_somebody_is_changing(sale: Sale, sql: Sql) -> None:
    codes = hold((7, 0), (8, 1), (9, 2))
    age(sql, *codes.values())
    with closing(psycopg.connect(connection_info())) as somebody:
        somebody.execute("SELECT FROM sales_saleitem WHERE code = %s FOR UPDATE", [codes[1]])
        assert said("expirecheckouts") == "2 expired holds were given back.\n"
        somebody.rollback()
    assert sql("SELECT item_id, user_id FROM sales_saleitem WHERE state = 'held'") == [(1, 8)]
    assert sql("SELECT user_id, taken FROM sales_allowance ORDER BY 1") == [(7, 0), (8, 1), (9, 0)]


def test_expirecheckouts_says_that_the_database_does_not_answer(
    sale: Sale, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    age(sql, hold((7, 0))[0])
    before = rows(sql)
    monkeypatch.setattr("sales.limits.CONNECT_TIMEOUT", 0.2)
    monkeypatch.setattr(
        "sales.operations.connection_info",
        lambda: psycopg.conninfo.make_conninfo(connection_info(), dbname="no_such_database"),
    )
    error, text = refused("expirecheckouts")
    assert error.startswith("Nothing was freed: ")
    assert len(error) > len("Nothing was freed: ")
    assert text == ""
    assert rows(sql) == before


# --- verifysale


def without_time(text: str) -> str:
    return re.sub(r"verified \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC by", "verified THEN by", text)


def test_verifysale_prints_the_certificate_of_a_healthy_sale(make_sale: MakeSale, sql: Sql) -> None:
    sale = make_sale(items=1000)
    codes = hold((7, 0), (7, 1), (8, 2), (9, 3), (9, 4), buy=(0, 1, 2))
    age(sql, codes[4])
    assert without_time(said("verifysale", str(sale.pk))) == (
        f"Sale {sale.pk} ({second(sale.starts_at)}), until {second(sale.ends_at)} UTC\n"
        "  1,000 items: 3 sold to 2 users, 1 held, 996 available\n"
        f"  verified THEN by version {__version__}\n"
        + "".join(f"  ✓ {invariant}\n" for invariant in INVARIANTS)
    )


def test_verifysale_without_an_id_takes_the_current_sale(make_sale: MakeSale) -> None:
    make_sale(started=7200, lasts=3600)
    current = make_sale()
    make_sale(starts_at=current.ends_at)
    text = said("verifysale")
    assert text.startswith(f"{current}, until ")
    assert without_time(text) == without_time(said("verifysale", str(current.pk)))


def test_verifysale_between_sales_takes_the_last_one(make_sale: MakeSale) -> None:
    make_sale(started=90_000, lasts=3600)
    last = make_sale(started=7200, lasts=3600)
    make_sale(started=-3600, lasts=3600)
    assert said("verifysale").startswith(f"{last}, until ")


def test_verifysale_names_what_is_broken_and_fails(sale: Sale, sql: Sql) -> None:
    codes = hold((7, 0), (8, 1), (9, 2), buy=(0, 2))
    sql("DELETE FROM sales_checkout WHERE code = %s", codes[0])
    sql("UPDATE sales_allowance SET taken = 3 WHERE user_id = 8")
    error, text = refused("verifysale", str(sale.pk))
    assert error == f"{sale} breaks its invariants."
    lines = without_time(text).splitlines()
    assert lines[:3] == [
        f"{sale}, until {second(sale.ends_at)} UTC",
        "  100 items: 2 sold to 2 users, 1 held, 97 available",
        f"  verified THEN by version {__version__}",
    ]
    marks = [line for line in lines if line.startswith(("  ✓", "  ✗"))]
    sold, allowance = list(INVARIANTS)[2], list(INVARIANTS)[6]
    assert marks == [f"  {'✗' if name in (sold, allowance) else '✓'} {name}" for name in INVARIANTS]
    at = lines.index(f"  ✗ {sold}")
    assert lines[at + 1] == f"      item 0 is sold to user 7 by {codes[0]}"
    at = lines.index(f"  ✗ {allowance}")
    assert lines[at + 1] == "      user 8: allowance 3, items 1"
    assert len(lines) == 3 + 9 + 2


def test_verifysale_counts_the_examples_that_it_does_not_show(sale: Sale, sql: Sql) -> None:
    sql(
        """INSERT INTO sales_allowance (sale_id, user_id, taken, user_limit)
           SELECT %s, n, 1, 10 FROM generate_series(1, 1234) AS n""",
        sale.pk,
    )
    _, text = refused("verifysale")
    lines = text.splitlines()
    at = lines.index(f"  ✗ {list(INVARIANTS)[6]}")
    for line in lines[at + 1 : at + 6]:
        assert re.fullmatch(r"      user \d+: allowance 1, items 0", line)
    assert lines[at + 6] == "      and 1,229 more"
    assert len(lines) == 3 + 9 + 6


def test_verifysale_prints_json_of_a_healthy_sale(sale: Sale) -> None:
    hold((7, 0), (7, 1), (8, 2), buy=(0, 1))
    document = json.loads(said("verifysale", str(sale.pk), "--json"))
    assert abs(datetime.fromisoformat(document.pop("issued_at")) - datetime.now(UTC)) < timedelta(hours=1)
    assert datetime.fromisoformat(document["sale"].pop("starts_at")) == in_milliseconds(sale.starts_at)
    assert datetime.fromisoformat(document["sale"].pop("ends_at")) == in_milliseconds(sale.ends_at)
    assert document == {
        "sale": {"id": sale.pk, "user_limit": 10, "checkout_ttl_seconds": 60},
        "holds": True,
        "items": 100,
        "sold": 2,
        "held": 1,
        "available": 97,
        "users": 1,
        "version": __version__,
        "invariants": [
            {"invariant": invariant, "holds": True, "broken": 0, "examples": []} for invariant in INVARIANTS
        ],
    }


def in_milliseconds(moment: datetime) -> datetime:
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def test_verifysale_prints_json_of_a_broken_sale_and_fails(sale: Sale, sql: Sql) -> None:
    sql(
        """INSERT INTO sales_allowance (sale_id, user_id, taken, user_limit)
           SELECT %s, n, 1, 10 FROM generate_series(1, 1234) AS n""",
        sale.pk,
    )
    error, text = refused("verifysale", "--json")
    assert error == f"{sale} breaks its invariants."
    document = json.loads(text)
    assert not document["holds"]
    (broken,) = (finding for finding in document["invariants"] if not finding["holds"])
    assert (broken["invariant"], broken["broken"]) == (list(INVARIANTS)[6], 1234)
    assert len(set(broken["examples"])) == 5


@pytest.mark.parametrize("number", ["999999", "0", str(10**30)])
def test_verifysale_of_an_unknown_sale_is_refused(sale: Sale, number: str) -> None:
    assert refused("verifysale", number) == (f"There is no sale {number}.", "")


def test_verifysale_before_the_first_sale_is_refused(make_sale: MakeSale) -> None:
    assert refused("verifysale") == ("There is no sale yet.", "")
    make_sale(started=-3600, lasts=3600)
    assert refused("verifysale") == ("There is no sale yet.", "")


def test_verifysale_of_something_else_than_a_number_is_refused(sale: Sale) -> None:
    with pytest.raises(CommandError, match="invalid int value: 'abc'"):
        call_command("verifysale", "abc")


# --- options and checks; these look at all apps


def told() -> list[CheckMessage]:
    """What our system checks say, among all that are registered."""
    return [message for message in run_checks() if (message.id or "").startswith("sales.")]


@pytest.mark.django_db
def test_right_settings_pass_the_checks() -> None:
    assert told() == []


@pytest.mark.django_db
@pytest.mark.parametrize(("name", "largest"), LIMITS.items())
def test_an_option_out_of_range_is_e001(name: str, largest: int) -> None:
    variable = VARIABLES[name]
    for wrong in (0, -1, largest + 1):
        with override_settings(**{variable: wrong}):
            (message,) = told()
            assert (message.id, message.is_serious()) == ("sales.E001", True)
            assert message.msg == f"{variable} must be a whole number from 1 to {largest}, not {wrong}."
    for right in (1, largest):
        with override_settings(**{variable: right}):
            assert told() == []


@pytest.mark.django_db
def test_another_database_than_postgresql_is_e002(monkeypatch: pytest.MonkeyPatch) -> None:
    other = ConnectionHandler({"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}})
    with monkeypatch.context() as patch:
        patch.setattr("sales.checks.connections", other)
        (message,) = told()
    assert (message.id, message.is_serious()) == ("sales.E002", True)
    assert message.msg == "Sales need PostgreSQL."
    assert "DATABASE_URL" in (message.hint or "")
    assert told() == []


@pytest.mark.parametrize(("name", "largest"), LIMITS.items())
def test_options_name_the_variable_that_is_wrong(name: str, largest: int) -> None:
    right = {"items": 1, "user_limit": 1, "checkout_ttl": 1, "period": 1}
    for wrong in (0, -1, largest + 1):
        with pytest.raises(ImproperlyConfigured) as error:
            SaleOptions(**{**right, name: wrong})
        assert str(error.value) == (
            f"{VARIABLES[name]} must be a whole number from 1 to {largest}, not {wrong}."
        )
    for edge in (1, largest):
        assert getattr(SaleOptions(**{**right, name: edge}), name) == edge


def test_options_are_read_when_they_are_asked_for() -> None:
    assert SaleOptions.from_settings() == SaleOptions(
        items=settings.FLASHSALE_ITEMS,
        user_limit=settings.FLASHSALE_USER_LIMIT,
        checkout_ttl=settings.FLASHSALE_CHECKOUT_TTL,
        period=settings.FLASHSALE_PERIOD,
    )
    with SMALL:
        assert SaleOptions.from_settings() == SaleOptions(
            items=1234, user_limit=3, checkout_ttl=45, period=365 * 86_400
        )
