"""``rotatesale``: what it says, and what it makes."""

from datetime import UTC, datetime, timedelta

import pytest
from django.test import override_settings

from sales.models import Sale
from tests.integration.sales.commands.running import (
    SMALL,
    VARIABLES,
    refused,
    rows,
    said,
    second,
)
from tests.support.database import Sql
from tests.support.shopping import MakeSale

# Only the tables of sales are emptied after each test.
pytestmark = pytest.mark.django_db(transaction=True, available_apps=["sales"])


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
