"""Which runs are believed."""

from dataclasses import replace
from typing import Any

import pytest

from flashsale_project.benchmark.database_alone import Sold
from flashsale_project.benchmark.verdict import (
    problems_of_crowd,
    problems_of_database,
    problems_of_race,
    problems_of_refusals,
    problems_of_sell_out,
    problems_of_traffic,
)
from flashsale_project.benchmark.wrk import RaceOutcome
from tests.unit.benchmark.healthy import BOOKS, OUTCOME, REFUSALS, TRAFFIC


def test_a_healthy_run_has_no_problems() -> None:
    assert problems_of_sell_out(OUTCOME, BOOKS, 2) == []
    assert problems_of_crowd(OUTCOME, BOOKS) == []
    assert problems_of_traffic(TRAFFIC, BOOKS) == []
    assert problems_of_refusals(REFUSALS) == []
    assert problems_of_database(Sold(items=2, seconds=1, is_valid=True), 2) == []


@pytest.mark.parametrize(
    ("outcome", "books", "problem"),
    [
        ({"bought": 3}, {}, "3 purchases were acknowledged, 2 items are sold"),
        ({}, {"sold": 3}, "2 purchases were acknowledged, 3 items are sold"),
        ({}, {"codes": frozenset("bc")}, "1 acknowledged holds are not in the database"),
        ({}, {"purchased": frozenset("a")}, "1 acknowledged purchases are not in the database"),
        ({"codes": ["a", "b", "b"]}, {}, "a code was given twice"),
        ({}, {"is_valid": False, "certificate": "✗ broken\n"}, "the certificate does not hold: ✗ broken"),
        ({"failed": {"503": 4}}, {}, "4 answers 503"),
        ({"errors": {"no length": 1}}, {}, "1 times: no length"),
        ({"connect_errors": 5}, {}, "5 connections were refused"),
        ({"resets": 6}, {}, "6 connections were closed on a request"),
        ({"connections_served": 1}, {}, "2 connections were never served"),
        ({"unanswered": 7}, {}, "7 requests were not answered"),
        ({"finished": False, "seconds": 75.2}, {}, "it was not done after 75 s"),
    ],
)
def test_whatever_is_wrong_with_a_run_of_the_crowd_is_a_problem(
    outcome: dict[str, Any], books: dict[str, Any], problem: str
) -> None:
    assert problem in problems_of_crowd(replace(OUTCOME, **outcome), replace(BOOKS, **books))


def test_a_sell_out_must_sell_everything_and_say_so() -> None:
    assert problems_of_sell_out(OUTCOME, BOOKS, 3) == ["2 of 3 items were bought"]
    assert problems_of_sell_out(replace(OUTCOME, told_sold_out=False), BOOKS, 2) == [
        "the service did not say that it was sold out"
    ]
    assert problems_of_database(Sold(items=2, seconds=1, is_valid=False), 3) == [
        "the certificate does not hold",
        "2 of 3 items are sold",
    ]


@pytest.mark.parametrize(("sold", "agrees"), [(1, False), (2, True), (12, True), (13, False)])
def test_a_run_that_was_cut_off_may_have_bought_what_was_under_way(sold: int, agrees: bool) -> None:
    problems = problems_of_traffic(TRAFFIC, replace(BOOKS, sold=sold))
    assert problems == ([] if agrees else [f"2 purchases were acknowledged, {sold} items are sold"])


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"held": 1}, "1 requests were not refused"),
        ({"bought": 1}, "1 requests were not refused"),
        ({"failed": 2}, "2 answers were failures"),
        ({"connection_errors": 3}, "3 connections failed"),
        ({"refused": 0}, "nothing was answered"),
    ],
)
def test_after_the_sell_out_everything_must_be_refused(changes: dict[str, int], problem: str) -> None:
    assert problems_of_refusals(replace(REFUSALS, **changes)) == [problem]


def test_a_race_must_sell_each_item_once_and_be_in_the_books() -> None:
    outcome = RaceOutcome(seconds=1, held=2, bought=2, refused=1, failed=0)
    assert problems_of_race(outcome, BOOKS, 2) == []
    assert problems_of_race(replace(outcome, failed=1, held=3), replace(BOOKS, sold=1), 2) == [
        "1 answers were failures",
        "3 holds were acknowledged for 2 items",
        "2 purchases were acknowledged, 1 items are sold",
    ]
