"""``verifysale``: the certificate that it prints, and when it fails."""

import json
import re
from datetime import UTC, datetime, timedelta

import pytest
from django.core.management import CommandError, call_command

from sales import __version__
from sales.models import Sale
from sales.statements import INVARIANTS
from tests.integration.sales.commands.running import hold, refused, said, second
from tests.support.database import Sql
from tests.support.shopping import MakeSale, age

# Only the tables of sales are emptied after each test.
pytestmark = pytest.mark.django_db(transaction=True, available_apps=["sales"])


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
