"""Every answer was one that this call may give, and true when it was given.

Memory may refuse a little longer than it must, because other workers free items: that costs somebody a
second try. It may never call a thing sold that is not, or a code something that it never was.
"""

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from sales.inventory import max_unused
from tests.acceptance.history.check_rows import EXACT
from tests.acceptance.history.evidence import WORKER_CLOCK, Evidence, Violation
from tests.acceptance.history.operations import Call, Fate, Operation
from tests.acceptance.history.rows import Checkout, Sale

UNAVAILABLE = {(503, reason) for reason in ("database_unavailable", "outcome_unknown")}
BUSY = UNAVAILABLE | {(503, "draining"), (503, "overloaded")}
SETTLED = BUSY | {(409, reason) for reason in ("unknown_code", "checkout_expired", "already_purchased")}
EXPECTED = {
    Call.CHECKOUT: BUSY
    | {(200, "")}
    | {(409, reason) for reason in ("user_limit", "hold_limit", "no_sale", "paused")},
    Call.PURCHASE: SETTLED | {(200, "")},
    Call.RELEASE: SETTLED | {(204, "")},
    Call.RECEIPT: UNAVAILABLE | {(200, ""), (409, "unknown_code")},
    Call.SALE: UNAVAILABLE | {(200, ""), (409, "no_sale")},
}
PAUSE_KNOWN = 2.0
"""Seconds within which every worker knows that a sale was paused or resumed, and somebody has looked."""

CHOSEN = {(409, "item_held"), (409, "item_sold")}
ANY = {(409, "all_held"), (409, "sold_out")}


def answers_are_of_their_call(evidence: Evidence) -> Iterator[Violation]:
    """No answer but those of the contract; a 503 says when to come again; nonsense is a client's error."""
    for operation in evidence.operations:
        if operation.status == 0:
            continue
        if operation.call is Call.NONSENSE:
            right = 400 <= operation.status < 500
        else:
            expected = EXPECTED[operation.call]
            if operation.call is Call.CHECKOUT:
                expected = expected | (ANY if operation.item_id is None else CHOSEN)
            right = (operation.status, operation.reason) in expected
        if operation.status == 503 and not (operation.retry_after or "").isdigit():
            right = False
        if not right:
            text = f"{operation.outcome!r} is no answer to this"
            yield Violation(kind="answer", text=text, operations=(operation,))


def nothing_is_called_sold_before_it_is(evidence: Evidence) -> Iterator[Violation]:
    """``item_sold`` and ``sold_out`` are true for a sale that may have been on."""

    def item_may_be_sold(sale: Sale, operation: Operation) -> bool:
        return any(
            row.purchased_at is not None and evidence.clock.earliest(row.purchased_at) <= operation.ended_at
            for row in evidence.of_item.get((sale.id, operation.item_id or 0), ())
        )

    def all_may_be_sold(sale: Sale, operation: Operation) -> bool:
        return evidence.sold_by(sale.id, operation.ended_at) >= sale.items

    for reason, may_be in (("item_sold", item_may_be_sold), ("sold_out", all_may_be_sold)):
        for operation in _refused(evidence, reason):
            if any(may_be(sale, operation) for sale in evidence.sales_at(operation)):
                continue
            rows = [
                row
                for sale in evidence.sales_at(operation)
                for row in evidence.of_item.get((sale.id, operation.item_id or 0), ())
                if operation.item_id is not None
            ]
            yield Violation(
                kind=f"false {reason}",
                text=f"{reason} was not true: at most "
                f"{[evidence.sold_by(sale.id, operation.ended_at) for sale in evidence.sales_at(operation)]} "
                f"were sold of {[sale.items for sale in evidence.sales_at(operation)]}",
                operations=(operation, *(o for row in rows for o in evidence.about(row.code, Call.PURCHASE))),
                rows=tuple(rows),
            )


def nobody_with_room_is_told_of_a_limit(evidence: Evidence) -> Iterator[Violation]:
    """``user_limit`` is said to those who have, or may be about to have, as much as they may.

    A worker may not know yet what another took back, so a hold counts here until its time is over; and the
    requests of the same user at the same time count, which may have been in the same batch.
    """
    for operation in _refused(evidence, "user_limit"):
        sales = evidence.sales_at(operation)
        mine = {sale.id: _perhaps_taken(evidence, sale, operation) for sale in sales}
        counted = {row.code for rows in mine.values() for row in rows}
        beside = [
            other
            for other in evidence.attempts.get(operation.user_id, ())
            if other is not operation
            and other.started_at <= operation.ended_at
            and (other.ended_at >= operation.started_at or other.fate is Fate.UNKNOWN)
            and other.code not in counted
        ]
        if not any(len(mine[sale.id]) + len(beside) >= sale.user_limit for sale in sales):
            yield Violation(
                kind="false user_limit",
                text=f"user {operation.user_id} had room for another item",
                operations=(operation, *beside),
                rows=tuple(row for rows in mine.values() for row in rows),
            )


def nobody_is_told_of_holds_that_they_used(evidence: Evidence) -> Iterator[Violation]:
    """``hold_limit`` is said to those who have let go as many holds as that."""
    for operation in _refused(evidence, "hold_limit"):
        unused = {
            sale: [
                row
                for row in evidence.of_user.get((sale.id, operation.user_id or 0), ())
                if row.purchased_at is None and evidence.clock.earliest(row.created_at) <= operation.ended_at
            ]
            for sale in evidence.sales_at(operation)
        }
        if not any(len(rows) >= max_unused(sale.user_limit) for sale, rows in unused.items()):
            yield Violation(
                kind="false hold_limit",
                text=f"user {operation.user_id} had let go of less",
                operations=(operation,),
                rows=tuple(row for rows in unused.values() for row in rows),
            )


def nobody_is_told_of_a_pause_that_was_not(evidence: Evidence) -> Iterator[Violation]:
    """``paused`` is said while somebody who looks at the sale is told so, or a moment before or after."""
    looks = [o for o in evidence.operations if o.call is Call.SALE and o.answer and o.answer.get("paused")]
    for operation in _refused(evidence, "paused"):
        if not any(
            look.started_at <= operation.ended_at + PAUSE_KNOWN
            and look.ended_at >= operation.started_at - PAUSE_KNOWN
            for look in looks
        ):
            yield Violation(kind="false paused", text="the sale was not paused", operations=(operation,))


def there_is_always_a_sale(evidence: Evidence) -> Iterator[Violation]:
    """``no_sale`` is true only between sales that do not touch."""
    for operation in evidence.operations:
        if operation.reason != "no_sale":
            continue
        moment = evidence.clock.low + operation.started_at - WORKER_CLOCK
        for sale in evidence.rows.sales:
            if sale.starts_at <= moment < sale.ends_at:
                moment = sale.ends_at
        if moment > evidence.clock.high + operation.ended_at + WORKER_CLOCK:
            yield Violation(
                kind="false no_sale", text="there was a sale all the time", operations=(operation,)
            )


def refused_codes_are_what_they_are_called(evidence: Evidence) -> Iterator[Violation]:
    """``unknown_code``, ``checkout_expired`` and ``already_purchased`` fit the checkout."""
    for operation in evidence.operations:
        if operation.call not in (Call.PURCHASE, Call.RELEASE, Call.RECEIPT) or operation.status != 409:
            continue
        row = evidence.checkouts.get(operation.code or "")
        made = evidence.about(operation.code or "", Call.CHECKOUT)
        if operation.reason == "unknown_code":
            right = not any(o.fate is Fate.DONE and o.ended_at < operation.started_at for o in made)
        elif row is None:
            right = False
        elif operation.reason == "already_purchased":
            right = _may_be("purchased", evidence, row, operation)
            if right and operation.answer is not None:
                yield from _wrong_receipt(evidence, row, operation, operation.answer.get("receipt") or {})
        else:
            right = _may_be("expired", evidence, row, operation) or _may_be(
                "released", evidence, row, operation
            )
        if not right:
            yield Violation(
                kind=f"false {operation.reason}",
                text=f"{operation.code} was not that when it was called so",
                operations=tuple(evidence.about(operation.code or "")),
                rows=() if row is None else (row,),
            )


def receipts_agree(evidence: Evidence) -> Iterator[Violation]:
    """A receipt says what the row says, and its state was that of the checkout at some time meanwhile."""
    for operation in evidence.operations:
        if operation.call is Call.RECEIPT and operation.fate is Fate.DONE:
            row = evidence.checkouts.get(operation.code or "")
            if row is None:
                text = f"there is a receipt of {operation.code}, and no row"
                yield Violation(kind="receipt", text=text, operations=(operation,))
            else:
                yield from _wrong_receipt(evidence, row, operation, operation.answer or {})


def counts_of_a_sale_add_up(evidence: Evidence) -> Iterator[Violation]:
    """The counts of a sale are those of all its items, and nothing is counted as sold before it is."""
    for operation in evidence.operations:
        if operation.call is not Call.SALE or operation.fate is not Fate.DONE:
            continue
        answer = operation.answer or {}
        sale = evidence.sales.get(answer.get("id", 0))
        counts = [answer.get(name, -1) for name in ("sold", "held", "available")]
        if (
            sale not in evidence.sales_at(operation)
            or sale is None
            or answer.get("items") != sale.items
            or sum(counts) != sale.items
            or min(counts) < 0
            or counts[0] > evidence.sold_by(sale.id, operation.ended_at)
        ):
            most = 0 if sale is None else evidence.sold_by(sale.id, operation.ended_at)
            text = f"the counts {answer} are wrong; at most {most} were sold"
            yield Violation(kind="counts", text=text, operations=(operation,))


def _refused(evidence: Evidence, reason: str) -> Iterator[Operation]:
    for operation in evidence.operations:
        if operation.call is Call.CHECKOUT and operation.reason == reason:
            yield operation


def _perhaps_taken(evidence: Evidence, sale: Sale, operation: Operation) -> list[Checkout]:
    return [
        row
        for row in evidence.of_user.get((sale.id, operation.user_id or 0), ())
        if evidence.clock.earliest(row.created_at) <= operation.ended_at
        and (
            row.purchased_at is not None
            or evidence.clock.latest(row.expires_at) + WORKER_CLOCK >= operation.started_at
        )
    ]


def _may_be(state: str, evidence: Evidence, row: Checkout, operation: Operation) -> bool:
    """Whether the checkout can have been in this state at some time between question and answer."""
    clock = evidence.clock
    over = row.state in ("held", "expired") and clock.earliest(row.expires_at) <= operation.ended_at
    ends = {
        "purchased": row.purchased_at is not None and clock.earliest(row.purchased_at) <= operation.ended_at,
        "released": row.state == "released"
        and any(o.started_at <= operation.ended_at for o in evidence.about(row.code, Call.RELEASE)),
        "expired": over,
    }
    if state != "held":
        return ends.get(state, False)
    ended = [o.ended_at for o in evidence.about(row.code, Call.PURCHASE, Call.RELEASE) if o.fate is Fate.DONE]
    return clock.latest(row.expires_at) >= operation.started_at and min(
        ended, default=operation.started_at
    ) >= (operation.started_at)


def _wrong_receipt(
    evidence: Evidence, row: Checkout, operation: Operation, receipt: dict[str, Any]
) -> Iterator[Violation]:
    same: dict[str, Callable[[Any], bool]] = {
        "code": row.code.__eq__,
        "sale_id": row.sale_id.__eq__,
        "item_id": row.item_id.__eq__,
        "user_id": row.user_id.__eq__,
        "created_at": lambda text: _is_time(text, row.created_at),
        "expires_at": lambda text: _is_time(text, row.expires_at),
        "purchased_at": lambda text: _is_time(
            text, row.purchased_at if receipt.get("state") == "purchased" else None
        ),
        "state": lambda state: _may_be(state, evidence, row, operation),
    }
    wrong = [name for name, agrees in same.items() if name not in receipt or not agrees(receipt[name])]
    if wrong:
        yield Violation(
            kind="receipt",
            text=f"the receipt {receipt} is wrong in {', '.join(wrong)}",
            operations=(operation, *evidence.about(row.code, Call.PURCHASE, Call.RELEASE)),
            rows=(row,),
        )


def _is_time(text: str | None, moment: float | None) -> bool:
    if text is None or moment is None:
        return text is None and moment is None
    return abs(datetime.fromisoformat(text).timestamp() - moment) <= EXACT


CHECKS = (
    answers_are_of_their_call,
    nothing_is_called_sold_before_it_is,
    nobody_with_room_is_told_of_a_limit,
    nobody_is_told_of_holds_that_they_used,
    nobody_is_told_of_a_pause_that_was_not,
    there_is_always_a_sale,
    refused_codes_are_what_they_are_called,
    receipts_agree,
    counts_of_a_sale_add_up,
)
