"""Every answer was one that this call may give, and true when it was given.

Why checkouts are refused is looked at in `check_refusals`.
"""

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from tests.acceptance.history.check_rows import EXACT
from tests.acceptance.history.evidence import WORKER_CLOCK, Evidence, Violation
from tests.acceptance.history.operations import Call, Fate, Operation
from tests.acceptance.history.rows import Checkout

UNAVAILABLE = {(503, reason) for reason in ("database_unavailable", "outcome_unknown")}
BUSY = UNAVAILABLE | {(503, "draining"), (503, "overloaded")}
SETTLED = BUSY | {(409, reason) for reason in ("unknown_code", "checkout_expired", "already_purchased")}
NOT_SPOKEN = {501, 505}
"""Statuses for what is no HTTP that is known here."""

EXPECTED = {
    Call.CHECKOUT: BUSY
    | {(200, "")}
    | {(409, reason) for reason in ("user_limit", "hold_limit", "no_sale", "paused")},
    Call.PURCHASE: SETTLED | {(200, "")},
    Call.RELEASE: SETTLED | {(204, "")},
    Call.RECEIPT: UNAVAILABLE | {(200, ""), (409, "unknown_code")},
    Call.SALE: UNAVAILABLE | {(200, ""), (409, "no_sale")},
}
CHOSEN = {(409, "item_held"), (409, "item_sold")}
ANY = {(409, "all_held"), (409, "sold_out")}


def answers_are_of_their_call(evidence: Evidence) -> Iterator[Violation]:
    """No answer but those of the contract; a 503 says when to come again; nonsense is a client's error."""
    for operation in evidence.operations:
        if operation.status == 0:
            continue
        if operation.call is Call.NONSENSE:
            right = 400 <= operation.status < 500 or operation.status in NOT_SPOKEN
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
    # It is held until it is swept.
    return (
        clock.latest(row.expires_at) + evidence.lag >= operation.started_at
        and min(ended, default=operation.started_at) >= operation.started_at
    )


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
    there_is_always_a_sale,
    refused_codes_are_what_they_are_called,
    receipts_agree,
    counts_of_a_sale_add_up,
)
