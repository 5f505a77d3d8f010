"""Percentiles, and what a list of latencies says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashsale_project.benchmark.latency import Latency, percentile


@pytest.mark.parametrize(
    ("percent", "expected"), [(0.1, 1), (1, 1), (50, 50), (50.1, 51), (99, 99), (99.9, 100), (100, 100)]
)
def test_a_percentile_is_the_value_at_the_nearest_rank(percent: float, expected: int) -> None:
    assert percentile(range(1, 101), percent) == expected


def test_rounding_does_not_move_a_percentile() -> None:
    assert percentile(range(1, 1001), 99.9) == 999


@given(st.lists(st.floats(0, 1e6), min_size=1), st.integers(1, 1000))
def test_a_percentile_is_the_smallest_value_that_enough_do_not_exceed(
    values: list[float], permille: int
) -> None:
    found = percentile(sorted(values), permille / 10)
    assert found in values
    assert sum(value <= found for value in values) * 1000 >= permille * len(values)
    assert sum(value < found for value in values) * 1000 < permille * len(values)


@pytest.mark.parametrize(("values", "percent"), [([], 50), ([1.0], 0), ([1.0], 100.1)])
def test_there_is_no_percentile_of_nothing(values: list[float], percent: float) -> None:
    with pytest.raises(ValueError, match="There is no"):
        percentile(values, percent)


def test_latencies_are_in_milliseconds_and_in_any_order() -> None:
    assert Latency.of(n / 1000 for n in reversed(range(1, 1001))) == Latency(
        count=1000, p50=500, p99=990, p999=999, maximum=1000
    )


def test_no_answers_have_no_latency() -> None:
    assert Latency.of([]) == Latency(count=0, p50=None, p99=None, p999=None, maximum=None)
