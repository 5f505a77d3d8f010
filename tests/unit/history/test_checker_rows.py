"""The judge of histories: what the rows do not show, or should not, is found; what is right is not."""

from dataclasses import replace
from typing import Any

import pytest

from tests.acceptance.history.operations import Call
from tests.unit.history.story import EPOCH, SALE, Story, kinds


def test_a_run_in_which_all_went_well(story: Story) -> None:
    story.ask(Call.CHECKOUT, 0.5, 0, "ConnectionRefusedError", user_id=9, sent=False)
    bought = story.buy(story.hold(1, 0, at=1), at=2)
    story.ask(
        Call.PURCHASE, 3, 409, "already_purchased", code=bought, answer={"receipt": story.document(bought)}
    )
    story.receipt(bought, at=3)
    back = story.give_back(story.hold(2, 1, at=3), at=4)
    story.give_back(back, at=5)
    story.ask(Call.PURCHASE, 5.5, 409, "checkout_expired", code=back)
    story.hold(2, 1, at=6, told=False)
    story.ask(Call.CHECKOUT, 6, 409, "item_held", user_id=3, item_id=1)
    story.ask(Call.CHECKOUT, 8, 409, "all_held", user_id=3)
    forgotten = story.hold(1, 2, at=7)
    story.receipt(forgotten, at=8, state="held")
    story.ask(Call.CHECKOUT, 9, 409, "user_limit", user_id=1)
    story.ask(Call.PURCHASE, 18, 409, "checkout_expired", code=forgotten)
    story.receipt(forgotten, at=18)
    story.ask(Call.CHECKOUT, 20, 409, "item_sold", user_id=3, item_id=0)
    for item, at in ((1, 20), (2, 21)):
        story.buy(story.hold(3, item, at=at), at=at + 1, status=0)
    story.ask(Call.CHECKOUT, 30, 409, "sold_out", user_id=4)
    story.ask(Call.CHECKOUT, 30, 503, "outcome_unknown", user_id=4)
    story.ask(Call.SALE, 31, 200, answer={"id": 1, "items": 3, "sold": 3, "held": 0, "available": 0})
    story.ask(Call.NONSENSE, 31, 431)
    verdict = story.judge()
    assert verdict.violations == []
    assert (verdict.summary.requests, verdict.summary.acknowledged, verdict.summary.unsent) == (26, 12, 1)
    assert (verdict.summary.unknown.total(), verdict.summary.refused.total()) == (4, 8)
    assert verdict.lost == 0


# --- what was acknowledged


def test_an_acknowledged_hold_that_is_no_row(story: Story) -> None:
    story.hold(1, 0, at=5)
    lost = story.hold(1, 1, at=6)
    del story.checkouts[lost]
    verdict = story.judge()
    assert [violation.kind for violation in verdict.violations] == ["lost"]
    assert [operation.code for operation in verdict.violations[0].operations] == [lost]
    assert verdict.lost == 1


def test_an_acknowledged_purchase_that_is_not_in_the_rows(story: Story) -> None:
    lost = story.hold(1, 0, at=5)
    story.ask(Call.PURCHASE, 6, 200, code=lost)
    verdict = story.judge()
    assert [violation.kind for violation in verdict.violations] == ["lost"]
    shown = verdict.violations[0].told(start=0)
    assert len(shown.splitlines()) == 4
    assert "5.9000 …    6.1000  client 1    purchase code 00000000" in shown


def test_an_acknowledged_release_that_was_bought_by_another(story: Story) -> None:
    code = story.buy(story.hold(1, 0, at=5), at=6)
    story.ask(Call.RELEASE, 7, 204, code=code)
    assert kinds(story) == ["lost"]


@pytest.mark.parametrize("fields", [{"user_id": 7}, {"item_id": 2}])
def test_a_hold_of_another_user_or_item(story: Story, fields: dict[str, int]) -> None:
    story.change(story.hold(1, 0, at=5), **fields)
    assert kinds(story) == ["wrong hold"]


def test_a_code_that_was_given_twice(story: Story) -> None:
    code = story.hold(1, 0, at=95)
    story.ask(Call.CHECKOUT, 95, 200, user_id=1, item_id=0, code=code)
    assert kinds(story) == ["code"]


def test_a_code_that_is_none(story: Story) -> None:
    story.ask(Call.CHECKOUT, 5, 200, user_id=1, code="OK")
    assert kinds(story) == ["code"]


def test_a_purchase_that_two_were_told_of(story: Story) -> None:
    code = story.buy(story.hold(1, 0, at=5), at=6)
    story.ask(Call.PURCHASE, 6, 200, code=code)
    assert kinds(story) == ["purchased twice"]


@pytest.mark.parametrize("moment", [1, 9])
def test_a_hold_or_a_purchase_made_while_nobody_waited_for_it(story: Story, moment: int) -> None:
    code = story.hold(1, 0, at=5)
    story.ask(Call.PURCHASE, 6, 200, code=code)
    story.change(code, state="purchased", purchased_at=EPOCH + 8)
    story.change(code, created_at=EPOCH + moment, expires_at=EPOCH + moment + 10)
    assert "time" in kinds(story)
    assert "nobody's purchase" in kinds(story)


# --- what was unknown


def test_an_unknown_hold_explains_one_row(story: Story) -> None:
    story.hold(1, 0, at=5, told=False)
    story.hold(1, 1, at=5, told=False)
    assert kinds(story) == []
    story.operations.pop()
    assert kinds(story) == ["nobody's hold"]


@pytest.mark.parametrize(
    "fields", [{"item_id": 1}, {"user_id": 2}, {"started_at": 6.0}, {"code": "another"}, {"sent": False}]
)
def test_an_unknown_hold_explains_no_other_row(story: Story, fields: dict[str, Any]) -> None:
    story.ask(Call.SALE, 1, 503, "database_unavailable")  # the run begins before
    code = story.hold(1, 0, at=5, told=False)
    known = replace(story.operations.pop(), code=code)
    story.operations.append(known)
    assert kinds(story) == []
    story.operations[-1] = replace(known, **fields)
    assert kinds(story) == ["nobody's hold"]


def test_unknown_holds_are_matched_as_well_as_can_be(story: Story) -> None:
    """One request asked for any item, the other for this one: it must not be the first that explains it."""
    story.hold(1, 0, at=5, told=False)
    story.hold(1, 1, at=6, told=False)
    story.operations[0] = replace(story.operations[0], item_id=None)
    story.operations[1] = replace(story.operations[1], item_id=0, started_at=4.8)
    assert kinds(story) == []


def test_a_refused_hold_leaves_no_row(story: Story) -> None:
    story.hold(1, 0, at=5, told=False)
    for reason in ("overloaded", "draining", "database_unavailable"):
        story.operations = [replace(story.operations[0], status=503, reason=reason, retry_after="1")]
        assert kinds(story) == ["nobody's hold"]


def test_a_purchase_or_release_that_nobody_asked_for(story: Story) -> None:
    story.change(story.hold(1, 0, at=5), state="purchased", purchased_at=EPOCH + 6)
    story.change(story.hold(1, 1, at=5), state="released")
    assert kinds(story) == ["nobody's purchase", "nobody's release"]


# --- the rows


@pytest.mark.parametrize("fields", [{"rows": 4}, {"numbers": 2}, {"first": 1}, {"last": 3}])
def test_a_sale_that_has_not_its_items(story: Story, fields: dict[str, int]) -> None:
    story.sales = [replace(SALE, **fields)]
    assert kinds(story) == ["items"]


@pytest.mark.parametrize("fields", [{"user_id": 2}, {"code": "x"}, {"state": "held"}, {"held_until": 7.0}])
def test_a_sold_item_of_another(story: Story, fields: dict[str, Any]) -> None:
    story.buy(story.hold(1, 0, at=5), at=6)
    story.items[0] = fields
    assert kinds(story) == ["item"]


def test_an_item_that_was_changed_behind_its_checkouts(story: Story) -> None:
    story.buy(story.hold(1, 0, at=5), at=6)
    story.items[0] = {"version": 4}
    assert kinds(story) == ["version"]


def test_an_item_that_was_sold_twice(story: Story) -> None:
    story.buy(story.hold(1, 0, at=5), at=6)
    story.buy(story.hold(2, 0, at=7), at=8)
    assert {"held twice", "two owners"} <= set(kinds(story))


def test_an_item_held_again_before_the_hold_before_was_over(story: Story) -> None:
    story.hold(1, 0, at=5)
    story.hold(2, 0, at=14)
    assert kinds(story) == ["held twice", "two owners"]


def test_an_item_held_again_before_it_was_given_back(story: Story) -> None:
    story.give_back(story.hold(1, 0, at=5), at=8)
    story.hold(2, 0, at=7)
    assert kinds(story) == ["held twice", "two owners"]


@pytest.mark.parametrize("taken", [0, 2])
def test_an_allowance_that_is_not_what_the_user_has(story: Story, taken: int) -> None:
    story.buy(story.hold(1, 0, at=5), at=6)
    story.taken[1] = taken
    assert kinds(story) == ["allowance"]


def test_a_purchase_after_the_hold_expired(story: Story) -> None:
    story.buy(story.hold(1, 0, at=5), at=15.5)
    assert kinds(story) == ["time"]


def test_a_hold_that_lasts_too_long(story: Story) -> None:
    story.change(story.hold(1, 0, at=5), expires_at=EPOCH + 16)
    assert kinds(story) == ["time"]


def test_a_hold_outside_its_sale(story: Story) -> None:
    story.hold(1, 0, at=5)
    story.sales = [replace(SALE, ends_at=EPOCH + 2)]
    assert kinds(story) == ["time"]
    story.sales = [replace(SALE, starts_at=EPOCH + 8)]
    assert kinds(story) == ["time"]


# --- moments


def test_a_user_with_more_than_the_limit_for_a_moment(story: Story) -> None:
    """At rest nothing is left of it; the holds were given back."""
    codes = [story.hold(1, item, at=5 + item) for item in range(3)]
    for code in codes:
        story.give_back(code, at=8)
    verdict = story.judge()
    assert [violation.kind for violation in verdict.violations] == ["limit"]
    assert len(verdict.violations[0].rows) == 3


def test_a_limit_that_may_have_been_kept(story: Story) -> None:
    """The first hold may have been back when the third was granted."""
    first = story.hold(1, 0, at=5)
    story.hold(1, 1, at=5.5)
    story.hold(1, 2, at=6.02)
    story.give_back(first, at=6)
    assert kinds(story) == []
