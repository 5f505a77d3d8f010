"""The judge of histories: refusals about codes, receipts and counts."""

from dataclasses import replace
from typing import Any

import pytest

from tests.acceptance.history.operations import Call
from tests.unit.history.story import EPOCH, SALE, Story, iso, kinds


def test_no_sale_where_there_was_one(story: Story) -> None:
    story.sales = [replace(SALE, ends_at=EPOCH + 50), replace(SALE, id=2, starts_at=EPOCH + 50)]
    story.ask(Call.CHECKOUT, 50, 409, "no_sale", user_id=1)
    assert kinds(story) == ["false no_sale"]
    story.sales[1] = replace(SALE, id=2, starts_at=EPOCH + 51)
    assert kinds(story) == []


def test_a_code_called_what_it_is_not(story: Story) -> None:
    code = story.hold(1, 0, at=95)
    story.ask(Call.PURCHASE, 96, 409, "unknown_code", code=code)
    assert kinds(story) == ["false unknown_code"]
    story.operations.pop()
    story.ask(Call.PURCHASE, 96, 409, "checkout_expired", code=code)
    assert kinds(story) == ["false checkout_expired"]
    story.operations.pop()
    story.ask(Call.PURCHASE, 96, 409, "already_purchased", code=code)
    assert kinds(story) == ["false already_purchased"]


def test_a_hold_called_over_too_early(story: Story) -> None:
    code = story.hold(1, 0, at=5)
    story.ask(Call.PURCHASE, 14, 409, "checkout_expired", code=code)
    assert kinds(story) == ["false checkout_expired"]


def test_holds_that_were_used(story: Story) -> None:
    story.ask(Call.CHECKOUT, 5, 409, "hold_limit", user_id=1)
    assert kinds(story) == ["false hold_limit"]


def test_a_pause_that_was_not(story: Story) -> None:
    story.ask(Call.CHECKOUT, 5, 409, "paused", user_id=1)
    assert kinds(story) == ["false paused"]


def test_an_answer_that_is_none(story: Story) -> None:
    for call, status, reason in (
        (Call.CHECKOUT, 500, "internal_error"),
        (Call.CHECKOUT, 409, "item_held"),  # of any item
        (Call.PURCHASE, 400, "invalid_parameter"),
        (Call.PURCHASE, 200, "with the body 'sorry'"),
        (Call.NONSENSE, 200, ""),
        (Call.NONSENSE, 500, ""),
    ):
        story.operations = []
        story.ask(call, 5, status, reason)
        assert "answer" in kinds(story), (call, status, reason)
    story.operations = []
    story.ask(Call.CHECKOUT, 5, 503, "overloaded", retry_after=None)
    assert kinds(story) == ["answer"]


# --- receipts and counts


@pytest.mark.parametrize(
    "fields",
    [
        {"item_id": 1},
        {"user_id": 2},
        {"state": "held"},
        {"expires_at": iso(EPOCH + 15.1)},
        {"purchased_at": None},
    ],
)
def test_a_receipt_that_does_not_agree(story: Story, fields: dict[str, Any]) -> None:
    code = story.buy(story.hold(1, 0, at=5), at=6)
    story.receipt(code, at=7, **fields)
    assert kinds(story) == ["receipt"]


def test_a_receipt_before_its_time(story: Story) -> None:
    code = story.hold(1, 0, at=5)
    story.receipt(code, at=14, state="expired")
    assert kinds(story) == ["receipt"]


@pytest.mark.parametrize(
    "counts",
    [
        {"sold": 1, "held": 0, "available": 2},  # nothing is sold yet
        {"sold": 0, "held": 1, "available": 3},
        {"sold": 0, "held": 4, "available": -1},
        {"sold": 0, "held": 0, "available": 3, "id": 2},
    ],
)
def test_counts_that_do_not_add_up(story: Story, counts: dict[str, int]) -> None:
    story.buy(story.hold(1, 0, at=5), at=6)
    story.ask(Call.SALE, 5.5, 200, answer={"id": 1, "items": 3} | counts)
    assert kinds(story) == ["counts"]
