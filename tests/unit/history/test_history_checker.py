"""The judge of histories: it finds what is wrong, says so in few lines, and is silent about what is right."""

import random
from dataclasses import replace
from typing import Any

import pytest

from tests.acceptance.history.checker import Verdict, judge
from tests.acceptance.history.evidence import ALONE, LAG
from tests.acceptance.history.operations import Call, Operation
from tests.acceptance.history.rows import Allowance, Checkout, Clock, Item, Rows, Sale
from tests.acceptance.history.spans import Span, Times

EPOCH = 1000.0
"""The database's time when the monotonic clock of these stories is 0."""

SALE = Sale(
    id=1,
    starts_at=EPOCH - 100,
    ends_at=EPOCH + 1000,
    items=3,
    user_limit=2,
    checkout_ttl=10,
    rows=3,
    numbers=3,
    first=0,
    last=2,
)


class Story:
    """A run made by hand: what it tells is consistent, until a test spoils it.

    Times are seconds; each request takes from 0.1 before to 0.1 after what it does. The rows are read at 100.
    """

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.checkouts: dict[str, Checkout] = {}
        self.sales = [SALE]
        self.items: dict[int, dict[str, Any]] = {}
        self.taken: dict[int, int] = {}

    def ask(self, call: Call, at: float, status: int, reason: str = "", **facts: Any) -> None:
        """A request and its answer."""
        retry_after = "1" if status == 503 else None
        times = {"started_at": at - 0.1, "ended_at": at + 0.1}
        facts = times | {"client": 1, "retry_after": retry_after} | facts
        self.operations.append(Operation(call=call, status=status, reason=reason, **facts))

    def hold(self, user: int, item: int, at: float, *, told: bool = True) -> str:
        """A hold, with an answer or without."""
        code = f"{len(self.checkouts):08x}-0000-8000-8000-000000000000"
        self.checkouts[code] = Checkout(
            code=code,
            sale_id=1,
            item_id=item,
            user_id=user,
            created_at=EPOCH + at,
            expires_at=EPOCH + at + 10,
            purchased_at=None,
            state="held" if at > 90 else "expired",
        )
        facts: dict[str, Any] = {"user_id": user, "item_id": item}
        if told:
            self.ask(Call.CHECKOUT, at, 200, code=code, **facts)
        else:
            self.ask(Call.CHECKOUT, at, 0, "left", **facts)
        return code

    def buy(self, code: str, at: float, status: int = 200) -> str:
        """A purchase that was done."""
        self.change(code, state="purchased", purchased_at=EPOCH + at)
        self.ask(Call.PURCHASE, at, status, code=code)
        return code

    def give_back(self, code: str, at: float, status: int = 204) -> str:
        """A release that was done."""
        self.change(code, state="released")
        self.ask(Call.RELEASE, at, status, code=code)
        return code

    def change(self, code: str, **fields: Any) -> None:
        """Change a row."""
        self.checkouts[code] = replace(self.checkouts[code], **fields)

    def receipt(self, code: str, at: float, **fields: Any) -> None:
        """Ask for a receipt, which says what the row says, or something else."""
        self.ask(Call.RECEIPT, at, 200, code=code, answer=self.document(code) | fields)

    def document(self, code: str) -> dict[str, Any]:
        """The receipt of a checkout."""
        row = self.checkouts[code]
        times = {name: getattr(row, name) for name in ("created_at", "expires_at", "purchased_at")}
        return {
            "code": code,
            "sale_id": 1,
            "item_id": row.item_id,
            "user_id": row.user_id,
            "state": row.state,
        } | {name: None if time is None else iso(time) for name, time in times.items()}

    def judge(self, lag: float = LAG) -> Verdict:
        """What the judge says."""
        items: dict[int, Item] = {}
        taken = dict.fromkeys((row.user_id for row in self.checkouts.values()), 0)
        for row in self.checkouts.values():
            version = items[row.item_id].version if row.item_id in items else 0
            item = Item(
                sale_id=1,
                item_id=row.item_id,
                state="available",
                version=version + 2,
                user_id=None,
                code=None,
                held_until=None,
                purchased_at=None,
            )
            if row.state in ("held", "purchased"):
                taken[row.user_id] += 1
                item = replace(
                    item,
                    state="held" if row.state == "held" else "sold",
                    version=version + 1 + (row.state == "purchased"),
                    user_id=row.user_id,
                    code=row.code,
                    held_until=row.expires_at,
                    purchased_at=row.purchased_at,
                )
            items[row.item_id] = item
        rows = Rows(
            read_at=EPOCH + 100,
            sales=self.sales,
            items=[replace(item, **self.items.get(number, {})) for number, item in items.items()],
            checkouts=list(self.checkouts.values()),
            allowances=[
                Allowance(sale_id=1, user_id=user, taken=count, user_limit=2)
                for user, count in (taken | self.taken).items()
            ],
        )
        return judge(self.operations, rows, Clock(low=EPOCH, high=EPOCH), lag=lag)


def iso(time: float) -> str:
    return f"1970-01-01T00:{int(time) // 60:02}:{time % 60:09.6f}Z"


@pytest.fixture
def story() -> Story:
    return Story()


def kinds(story: Story, lag: float = LAG) -> list[str]:
    return sorted({violation.kind for violation in story.judge(lag).violations})


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


# --- refusals


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
