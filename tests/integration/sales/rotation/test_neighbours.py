"""New sales fill the gap that others leave; those that exist stay as they were made."""

from dataclasses import replace

import pytest

from sales.conf import SaleOptions
from sales.models import Sale
from sales.rotation import kept, rotate
from tests.integration.sales.rotation.times import SetClock, at, rows, sale_from, spans, stored


@pytest.mark.parametrize(
    ("existing", "made"),
    [
        pytest.param([("07:20", "08:20")], [("08:20", "09:00")], id="current-goes-on-to-its-end"),
        pytest.param([("06:40", "09:20")], [("09:20", "10:00")], id="current-is-long"),
        pytest.param([("07:29", "07:31")], [("07:31", "08:00")], id="current-is-short"),
        pytest.param([("07:30", "07:45")], [("07:45", "08:00")], id="current-starts-now"),
        pytest.param(
            [("07:00", "07:20")], [("07:20", "08:00"), ("08:00", "09:00")], id="ended-at-same-start"
        ),
        pytest.param([("06:00", "07:20")], [("07:20", "08:00"), ("08:00", "09:00")], id="ended-from-before"),
        pytest.param([("07:10", "07:30")], [("07:30", "08:00"), ("08:00", "09:00")], id="ends-now"),
        pytest.param([("06:00", "07:00")], [("07:00", "08:00"), ("08:00", "09:00")], id="ended-at-the-start"),
        pytest.param(
            [("07:00", "07:05"), ("07:10", "07:20")],
            [("07:20", "08:00"), ("08:00", "09:00")],
            id="ended-the-last-of-several",
        ),
        pytest.param([("07:45", "08:30")], [("07:00", "07:45")], id="upcoming"),
        pytest.param(
            [("07:45", "07:50"), ("07:55", "08:00")], [("07:00", "07:45")], id="upcoming-the-first-of-several"
        ),
        pytest.param([("07:00", "07:20"), ("07:45", "08:00")], [("07:20", "07:45")], id="between-two"),
        pytest.param([("07:00", "07:30"), ("07:30:01", "08:00")], [("07:30", "07:30:01")], id="one-second"),
        pytest.param([("07:00", "08:00"), ("08:30", "09:30")], [("08:00", "08:30")], id="next-is-cut"),
        pytest.param([("08:00", "09:00")], [("07:00", "08:00")], id="upcoming-at-the-end"),
        pytest.param(
            [("07:50", "07:55")], [("07:00", "07:50")], id="the-next-is-not-made-when-another-is-next"
        ),
        pytest.param([("12:00", "13:00")], [("07:00", "08:00"), ("08:00", "09:00")], id="far-ahead"),
    ],
)
def test_new_sales_fill_the_gap_that_others_leave(
    set_clock: SetClock,
    options: SaleOptions,
    existing: list[tuple[str, str]],
    made: list[tuple[str, str]],
) -> None:
    set_clock(at("07:30"))
    for start, end in existing:
        sale_from(start, end)
    before = rows()
    created = rotate(options)
    assert spans(created) == [(at(start), at(end)) for start, end in made]
    assert [sale.items for sale in created] == [20] * len(made)
    old = set(before)
    assert [row for row in rows() if row in old] == before
    assert all(
        first.ends_at <= second.starts_at for first, second in zip(stored(), stored()[1:], strict=False)
    )
    assert rotate(options) == []
    assert not {one.sale for one in kept(options)} & set(created)  # cut by neighbours, and yet as wished


def test_sales_that_stay_as_they_were_made_are_known_with_what_was_wanted(
    set_clock: SetClock, options: SaleOptions
) -> None:
    set_clock(at("07:30"))
    current, following = rotate(options)
    assert kept(options) == []
    for changed in (
        replace(options, items=7),
        replace(options, user_limit=9),
        replace(options, checkout_ttl=8),
        replace(options, period=1800),
        replace(options, period=10),
        replace(options, period=7200),
    ):
        assert [one.sale for one in kept(changed)] == [current, following]
        wanted = kept(changed)[0].wanted
        length = round((wanted.ends_at - wanted.starts_at).total_seconds())
        assert (wanted.items, wanted.user_limit, wanted.checkout_ttl) == (
            changed.items,
            changed.user_limit,
            changed.checkout_ttl,
        )
        assert length == changed.period
    Sale.objects.filter(pk=current.pk).update(items=7)
    assert [one.sale for one in kept(options)] == [current]
    assert [one.sale for one in kept(replace(options, items=7))] == [following]


def test_a_gap_before_the_next_but_one_is_filled_when_its_time_comes(
    set_clock: SetClock, options: SaleOptions
) -> None:
    sale_from("07:45", "07:50")
    set_clock(at("07:30"))
    assert spans(rotate(options)) == [(at("07:00"), at("07:45"))]
    set_clock(at("07:45"))
    assert spans(rotate(options)) == [(at("07:50"), at("08:00"))]
    set_clock(at("07:50"))
    assert spans(rotate(options)) == [(at("08:00"), at("09:00"))]
