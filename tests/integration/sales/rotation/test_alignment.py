"""Sales are aligned to the database's clock, one after another, each made once."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from django.db import connection

from sales.conf import SaleOptions
from sales.models import Sale
from sales.rotation import rotate
from tests.integration.sales.rotation.times import SetClock, at, rows, spans, stored

# --- aligned to the database's clock


@pytest.mark.parametrize(
    ("period", "now", "starts"),
    [
        (3600, at("07:30:00"), (at("07:00"), at("08:00"), at("09:00"))),
        (3600, at("07:59:59.999999"), (at("07:00"), at("08:00"), at("09:00"))),
        (3600, at("08:00:00"), (at("08:00"), at("09:00"), at("10:00"))),
        (3600, at("23:10:00"), (at("23:00"), at("00:00", day=7), at("01:00", day=7))),
        (60, at("07:30:59"), (at("07:30"), at("07:31"), at("07:32"))),
        (90, at("07:31:00"), (at("07:30:00"), at("07:31:30"), at("07:33:00"))),
        (1, at("07:30:00.5"), (at("07:30:00"), at("07:30:01"), at("07:30:02"))),
        (86_400, at("07:30:00"), (at("00:00"), at("00:00", day=7), at("00:00", day=8))),
    ],
)
def test_the_current_and_the_next_sale_are_aligned_to_the_period(
    set_clock: SetClock, options: SaleOptions, period: int, now: datetime, starts: tuple[datetime, ...]
) -> None:
    set_clock(now)
    created = rotate(replace(options, period=period))
    assert spans(created) == [starts[:2], starts[1:]]
    assert spans(stored()) == [starts[:2], starts[1:]]


@pytest.mark.parametrize("period", [7, 1000, 366 * 86_400])
def test_any_period_is_counted_from_the_epoch(set_clock: SetClock, options: SaleOptions, period: int) -> None:
    set_clock(now := at("07:30:00"))
    current, following = rotate(replace(options, period=period))
    assert current.starts_at <= now < current.ends_at
    assert current.starts_at.timestamp() % period == 0
    assert current.ends_at - current.starts_at == timedelta(seconds=period)
    assert spans([following]) == [(current.ends_at, current.ends_at + timedelta(seconds=period))]


def test_without_a_clock_of_the_test_it_is_the_real_hour(db: None, options: SaleOptions) -> None:
    def hour() -> datetime:
        with connection.cursor() as cursor:
            cursor.execute("SELECT date_trunc('hour', clock_timestamp(), 'UTC')")
            return cursor.fetchone()[0]

    before = hour()
    current, following = rotate(options)
    assert current.starts_at in (before, hour())  # two, where the hour has just ended
    assert following.starts_at == current.starts_at + timedelta(hours=1)


def test_new_sales_are_what_the_options_say(set_clock: SetClock, options: SaleOptions) -> None:
    set_clock(at("07:30"))
    created = rotate(options)
    assert stored() == created
    for sale in stored():
        assert (sale.items, sale.user_limit, sale.checkout_ttl, sale.paused) == (20, 3, 45, False)
        assert sale.units.count() == 20


# --- repeating


def test_repeating_makes_none_and_touches_nothing(set_clock: SetClock, options: SaleOptions) -> None:
    set_clock(at("07:00"))
    assert len(rotate(options)) == 2
    before = rows()
    for now in ("07:00", "07:30", "07:59:59.999999"):
        set_clock(at(now))
        assert rotate(options) == []
    assert rows() == before


def test_every_period_brings_one_more(set_clock: SetClock, options: SaleOptions) -> None:
    set_clock(at("07:30"))
    rotate(options)
    for hour in range(8, 12):
        set_clock(at(f"{hour:02}:00"))
        assert spans(rotate(options)) == [(at(f"{hour + 1:02}:00"), at(f"{hour + 2:02}:00"))]
    assert [sale.starts_at.hour for sale in stored()] == [7, 8, 9, 10, 11, 12]


def test_what_nobody_made_in_time_is_not_made_afterwards(set_clock: SetClock, options: SaleOptions) -> None:
    set_clock(at("07:30"))
    rotate(options)
    set_clock(at("14:30"))
    assert spans(rotate(options)) == [(at("14:00"), at("15:00")), (at("15:00"), at("16:00"))]
    assert len(stored()) == 4


def test_changed_options_shape_new_sales_alone(set_clock: SetClock, options: SaleOptions) -> None:
    set_clock(at("07:30"))
    rotate(options)
    Sale.objects.update(paused=True)
    before = rows()
    changed = SaleOptions(items=7, user_limit=9, checkout_ttl=8, period=1800)
    assert rotate(changed) == []
    assert rows() == before
    set_clock(at("08:30"))
    (made,) = rotate(changed)
    assert spans([made]) == [(at("09:00"), at("09:30"))]
    assert (made.items, made.user_limit, made.checkout_ttl, made.paused) == (7, 9, 8, False)
    old = set(before)
    assert [row for row in rows() if row in old] == before
