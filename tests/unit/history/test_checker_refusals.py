"""The judge of histories: a refusal was true at some moment of its request."""

import random
from dataclasses import replace

import pytest

from tests.acceptance.history.evidence import ALONE
from tests.acceptance.history.operations import Call
from tests.acceptance.history.spans import Span, Times
from tests.unit.history.story import EPOCH, SALE, Story, kinds


def test_an_item_called_sold_that_was_not(story: Story) -> None:
    story.buy(story.hold(1, 0, at=5), at=6)
    story.ask(Call.CHECKOUT, 6, 409, "item_sold", user_id=2, item_id=0)
    assert kinds(story) == []
    story.ask(Call.CHECKOUT, 5.8, 409, "item_sold", user_id=2, item_id=0)
    assert kinds(story) == ["false item_sold"]
    story.operations.pop()
    story.ask(Call.CHECKOUT, 9, 409, "item_sold", user_id=2, item_id=1)
    assert kinds(story) == ["false item_sold"]


def test_a_sale_called_sold_out_that_was_not(story: Story) -> None:
    for item in range(3):
        story.buy(story.hold(item, item, at=5 + item), at=6 + item)
    story.ask(Call.CHECKOUT, 8, 409, "sold_out", user_id=2)
    assert kinds(story) == []
    story.ask(Call.CHECKOUT, 7.8, 409, "sold_out", user_id=2)
    assert kinds(story) == ["false sold_out"]


def test_a_refusal_of_the_sale_that_was_on_then(story: Story) -> None:
    """Another sale follows at 50, and this one was sold out."""
    for item in range(3):
        story.buy(story.hold(item, item, at=5 + item), at=6 + item)
    story.sales = [replace(SALE, ends_at=EPOCH + 50), replace(SALE, id=2, starts_at=EPOCH + 50)]
    story.ask(Call.CHECKOUT, 49, 409, "sold_out", user_id=2)
    assert kinds(story) == []
    story.ask(Call.CHECKOUT, 60, 409, "sold_out", user_id=2)
    story.ask(Call.CHECKOUT, 60, 409, "item_sold", user_id=2, item_id=0)
    assert kinds(story) == ["false item_sold", "false sold_out"]


def test_a_limit_that_was_not_reached(story: Story) -> None:
    story.buy(story.hold(1, 0, at=5), at=6)
    story.ask(Call.CHECKOUT, 10, 409, "user_limit", user_id=1)
    assert kinds(story) == ["false user_limit"]


def test_a_limit_that_was_only_hoped_for(story: Story) -> None:
    """The other request was in the same batch, and its hold met a changed row."""
    story.buy(story.hold(1, 0, at=5), at=6)
    story.hold(2, 1, at=9)
    story.ask(Call.CHECKOUT, 10, 409, "item_held", user_id=1, item_id=1)
    story.ask(Call.CHECKOUT, 10, 409, "user_limit", user_id=1, item_id=2)
    assert kinds(story) == ["false user_limit"]


def test_a_limit_that_was_about_to_be_reached(story: Story) -> None:
    """The other request was in the same batch, which was saved after this one was refused."""
    story.buy(story.hold(1, 0, at=5), at=6)
    story.hold(1, 1, at=12)
    story.operations[-1] = replace(story.operations[-1], started_at=9.5)
    story.ask(Call.CHECKOUT, 10, 409, "user_limit", user_id=1)
    assert kinds(story) == ["false user_limit"]
    story.operations[-1] = replace(story.operations[-1], ended_at=12.0)  # it has waited for that
    assert kinds(story) == []


def test_a_limit_that_was_reached_by_a_hold_of_which_nobody_was_told(story: Story) -> None:
    story.hold(1, 0, at=5)
    story.hold(1, 1, at=5, told=False)
    story.ask(Call.CHECKOUT, 10, 409, "user_limit", user_id=1)
    assert kinds(story) == []


def test_a_limit_that_was_reached_once(story: Story) -> None:
    story.hold(1, 0, at=5)
    story.buy(story.hold(1, 1, at=5), at=6)
    story.ask(Call.CHECKOUT, 16, 409, "user_limit", user_id=1)  # the first is just over
    assert kinds(story) == []
    story.ask(Call.CHECKOUT, 16.2, 409, "user_limit", user_id=1)
    assert kinds(story) == ["false user_limit"]


def test_a_limit_that_was_reached_by_what_never_was_there_together(story: Story) -> None:
    """Three holds of one user touch the request, and no more than one at a time."""
    story.give_back(story.hold(1, 0, at=5), at=6)
    story.give_back(story.hold(1, 1, at=8), at=9)
    story.hold(1, 2, at=11)
    story.ask(Call.CHECKOUT, 9, 409, "user_limit", user_id=1, started_at=5.0, ended_at=13.0)
    assert kinds(story) == ["false user_limit"]


@pytest.mark.parametrize(
    ("reason", "facts"), [("user_limit", {"user_id": 1}), ("item_held", {"user_id": 2, "item_id": 1})]
)
def test_a_hold_counts_until_its_end_is_known_and_no_longer(
    story: Story, reason: str, facts: dict[str, int]
) -> None:
    """By whoever gave it back, and at another worker so much later as is promised."""
    story.hold(1, 0, at=5)
    story.give_back(story.hold(1, 1, at=5), at=8)
    story.ask(Call.CHECKOUT, 9, 409, reason, **facts)
    assert kinds(story) == []
    assert kinds(story, lag=ALONE) == [f"false {reason}"]
    story.operations[-1] = replace(story.operations[-1], started_at=8.15)
    assert kinds(story, lag=ALONE) == []
    story.operations[-1] = replace(story.operations[-1], started_at=9.11, ended_at=9.2)
    assert kinds(story) == [f"false {reason}"]


def test_a_hold_of_whose_end_nobody_was_told_counts_until_its_time_is_over(story: Story) -> None:
    code = story.give_back(story.hold(1, 1, at=5), at=8, status=0)
    story.ask(Call.CHECKOUT, 14, 409, "item_held", user_id=2, item_id=1)
    assert kinds(story) == []
    story.ask(Call.RELEASE, 10, 204, code=code)  # now it is known when it was over at the latest
    assert kinds(story) == ["false item_held"]


def test_an_item_called_held_that_was_free(story: Story) -> None:
    story.hold(1, 0, at=5)
    story.ask(Call.CHECKOUT, 4.8, 409, "item_held", user_id=2, item_id=0)
    story.ask(Call.CHECKOUT, 6, 409, "item_held", user_id=2, item_id=1)
    story.ask(Call.CHECKOUT, 17, 409, "item_held", user_id=2, item_id=0)
    verdict = story.judge()
    assert [violation.kind for violation in verdict.violations] == ["false item_held"] * 3
    assert [len(violation.rows) for violation in verdict.violations] == [1, 0, 1]


def test_an_item_called_held_that_was_held(story: Story) -> None:
    story.hold(1, 0, at=5)
    story.hold(2, 1, at=5, told=False)
    for at, item in ((5, 0), (14, 0), (16, 0), (14, 1)):
        story.ask(Call.CHECKOUT, at, 409, "item_held", user_id=2, item_id=item)
    assert kinds(story) == []


def test_an_item_called_held_that_is_sold(story: Story) -> None:
    story.buy(story.hold(1, 0, at=5), at=6)
    story.ask(Call.CHECKOUT, 6, 409, "item_held", user_id=2, item_id=0)
    assert kinds(story) == []
    story.ask(Call.CHECKOUT, 8, 409, "item_held", user_id=2, item_id=0)
    assert kinds(story) == ["false item_held"]


def test_a_sale_called_all_held_that_was_not(story: Story) -> None:
    story.hold(1, 0, at=5)
    story.buy(story.hold(2, 1, at=5), at=6)
    story.hold(3, 2, at=8)
    story.ask(Call.CHECKOUT, 9, 409, "all_held", user_id=4)
    story.ask(Call.CHECKOUT, 16, 409, "all_held", user_id=4)  # the first is just over
    assert kinds(story) == []
    story.ask(Call.CHECKOUT, 7, 409, "all_held", user_id=4)
    assert kinds(story) == ["false all_held"]
    story.operations[-1] = replace(story.operations[-1], started_at=16.2, ended_at=16.3)
    assert kinds(story) == ["false all_held"]


def test_a_sale_called_all_held_of_which_something_was_free_at_every_moment(story: Story) -> None:
    """Each item was held at some moment of the request, and never all at once."""
    for item, at in enumerate((5, 8, 11)):
        story.give_back(story.hold(item, item, at=at), at=at + 1)
    story.ask(Call.CHECKOUT, 9, 409, "all_held", user_id=4, started_at=4.0, ended_at=14.0)
    assert kinds(story) == ["false all_held"]


def test_a_sale_of_which_an_item_was_never_wanted_was_not_all_held(story: Story) -> None:
    story.hold(1, 0, at=5)
    story.hold(2, 1, at=5)
    story.ask(Call.CHECKOUT, 6, 409, "all_held", user_id=4)
    assert kinds(story) == ["false all_held"]


@pytest.mark.parametrize("seed", range(20))
def test_times_agree_with_counting(seed: int) -> None:
    rng = random.Random(seed)
    spans = [Span(begin := rng.randrange(20), begin + rng.randrange(6)) for _ in range(rng.randrange(30))]
    for least in range(1, 6):
        times = Times(spans, least)
        for begin in range(25):
            for end in range(begin, 26):
                counts = [sum(span.begin <= at <= span.end for span in spans) for at in range(begin, end + 1)]
                assert times.meet(Span(begin, end)) == (max(counts) >= least)
