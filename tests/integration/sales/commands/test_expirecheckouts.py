"""``expirecheckouts``: what it says, and what it gives back."""

from contextlib import closing

import psycopg
import pytest

from sales.certificate import certify
from sales.connections import connection_info
from sales.models import Sale
from tests.integration.sales.commands.running import hold, refused, rows, said
from tests.support.database import Sql
from tests.support.outcomes import CHECKOUTS
from tests.support.shopping import MakeSale, age

# Only the tables of sales are emptied after each test.
pytestmark = pytest.mark.django_db(transaction=True, available_apps=["sales"])


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
    assert dict(sql(f"SELECT code, state FROM {CHECKOUTS}")) == {
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
