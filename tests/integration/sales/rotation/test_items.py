"""A sale is made with all its items or not at all, however many make it at once."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from django.db import IntegrityError, connection

from sales.codes import MAX_ITEMS, MAX_SALE_ID
from sales.conf import SaleOptions
from sales.models import Sale, SaleItem
from sales.rotation import create_sale, rotate
from tests.integration.sales.rotation.times import YEAR, SetClock, at, rows, sale_from, stored
from tests.support.threads import at_once

# --- items


def test_ten_thousand_items_are_numbered_from_zero_and_free(db: None) -> None:
    sale = create_sale(
        Sale(starts_at=at("07:00"), ends_at=at("08:00"), items=10_000, user_limit=1, checkout_ttl=1)
    )
    units = SaleItem.objects.filter(sale=sale).order_by("item_id")
    assert list(units.values_list("id", "item_id")) == [(sale.pk * MAX_ITEMS + n, n) for n in range(10_000)]
    columns = ("version", "state", "user_id", "code", "held_until", "purchased_at")
    assert list(units.values_list(*columns).order_by().distinct()) == [
        (0, "available", None, None, None, None)
    ]


def test_a_sale_of_one_item_has_number_zero(db: None) -> None:
    sale = sale_from("07:00", "08:00", items=1)
    assert list(sale.units.values_list("item_id", flat=True)) == [0]


@pytest.mark.parametrize(
    ("start", "end"), [("07:30", "08:30"), ("06:30", "07:30"), ("07:20", "07:40"), ("06:00", "09:00")]
)
def test_a_sale_that_would_overlap_is_refused_with_all_its_items(db: None, start: str, end: str) -> None:
    sale_from("07:00", "08:00")
    before = rows()
    with pytest.raises(IntegrityError, match="sales_do_not_overlap"):
        sale_from(start, end)
    assert rows() == before


def test_where_the_next_sale_cannot_be_made_the_current_one_is_not_either(
    set_clock: SetClock, options: SaleOptions
) -> None:
    """The ids that codes have room for are used up after one more."""
    set_clock(at("07:30"))
    with connection.cursor() as cursor:
        cursor.execute("SELECT setval('sales_sale_id_seq', nextval('sales_sale_id_seq'))")
        (last,) = cursor.fetchone()
        cursor.execute("SELECT setval('sales_sale_id_seq', %s)", [MAX_SALE_ID - 1])
    try:
        with pytest.raises(IntegrityError, match="sale_id_fits_codes"):
            rotate(options)
        assert rows() == []
    finally:
        with connection.cursor() as cursor:
            cursor.execute("SELECT setval('sales_sale_id_seq', %s)", [last])


# --- at once


@pytest.mark.parametrize("attempt", range(3))
def test_rotations_at_once_make_each_sale_once(
    transactional_db: None, options: SaleOptions, attempt: int
) -> None:
    shape = replace(options, items=500, period=YEAR)
    made = at_once([lambda: rotate(shape)] * 8)
    assert sorted(len(sales) for sales in made) == [0] * 7 + [2]
    (created,) = (sales for sales in made if sales)
    assert stored() == created
    assert created[0].ends_at == created[1].starts_at
    for sale in created:
        assert list(sale.units.order_by("item_id").values_list("item_id", flat=True)) == list(range(500))
    assert SaleItem.objects.count() == 1000


@pytest.mark.parametrize("attempt", range(3))
def test_rotations_at_once_with_different_options_leave_no_gap_and_no_overlap(
    transactional_db: None, options: SaleOptions, attempt: int
) -> None:
    shapes = [replace(options, items=100 + n, period=YEAR - n * 86_400) for n in range(6)]
    made = at_once([lambda shape=shape: rotate(shape) for shape in shapes])
    assert sum(len(sales) for sales in made) == 2
    current, following = stored()
    assert current.starts_at <= datetime.now(UTC) < current.ends_at == following.starts_at
    assert current.items == following.items
    for sale in (current, following):
        assert sale.units.count() == sale.items


def test_one_of_several_equal_sales_made_at_once_exists(transactional_db: None) -> None:
    ends = at_once([lambda: sale_from("07:00", "08:00", items=300)] * 6)
    (sale,) = (end for end in ends if isinstance(end, Sale))
    refused = [end for end in ends if isinstance(end, IntegrityError)]
    assert len(refused) == 5
    assert stored() == [sale]
    assert list(sale.units.order_by("item_id").values_list("item_id", flat=True)) == list(range(300))
    assert SaleItem.objects.count() == 300
