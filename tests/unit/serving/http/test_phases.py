"""What a connection waits for, and how long."""

import itertools

import pytest

from flashsale_project.serving.http.phases import LIMITS, Life, Phase

NAMES = ("is_unread", "is_closing", "is_answering", "is_question", "is_receiving")


def phase(life: Life, *facts: str) -> Phase:
    return life.phase(**{name: name in facts for name in NAMES})


@pytest.mark.parametrize(
    ("life", "facts", "expected"),
    [
        (Life(), [], Phase.NEW),
        (Life(), ["is_receiving"], Phase.RECEIVING),
        (Life(has_answered=True), [], Phase.IDLE),
        (Life(has_answered=True), ["is_receiving"], Phase.RECEIVING),
        (Life(), ["is_answering"], Phase.ANSWERING),
        (Life(), ["is_answering", "is_question"], Phase.ANSWERING),
        (Life(), ["is_answering", "is_receiving"], Phase.ANSWERING),
        (Life(has_said_all=True), ["is_answering"], Phase.ANSWERING),
        (Life(has_said_all=True), ["is_answering", "is_question"], Phase.LISTENED),
        (Life(has_said_all=True), ["is_answering", "is_question", "is_unread"], Phase.UNREAD),
        (Life(), ["is_closing", "is_receiving"], Phase.CLOSING),
        (Life(), ["is_closing", "is_answering"], Phase.CLOSING),
        (Life(is_lost=True), ["is_closing"], Phase.LOST),
    ],
)
def test_the_phase_is_told_by_the_facts(life: Life, facts: list[str], expected: Phase) -> None:
    assert phase(life, *facts) is expected


def test_whoever_leaves_answers_unread_is_waited_for_whatever_else_there_is() -> None:
    others = [name for name in NAMES if name != "is_unread"]
    for count in range(len(others) + 1):
        for facts in itertools.combinations(others, count):
            assert phase(Life(has_answered=True), "is_unread", *facts) is Phase.UNREAD


def test_a_phase_lasts_as_long_as_its_limit_and_no_second_longer() -> None:
    for kind, limit in LIMITS.items():
        life = Life()
        assert [life.second(kind) for _ in range(limit + 1)] == [False] * limit + [True]


def test_nobody_is_hung_up_on_for_what_we_owe_them() -> None:
    assert set(Phase) - set(LIMITS) == {Phase.ANSWERING, Phase.LOST}
    life = Life(age=10_000)
    assert not life.second(Phase.ANSWERING)
