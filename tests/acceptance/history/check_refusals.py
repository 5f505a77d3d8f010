"""A checkout was refused for what was so at some moment of the request, by committed rows.

Rows are all that counts: what others asked for at the same time and did not get excuses nobody's refusal.
A worker may know of the end of a hold a little later than it was, by `Evidence.lag` and no more; that a
thing is sold it never says before it is.
"""

from collections.abc import Callable, Iterator

from sales.limits import max_unused
from tests.acceptance.history.evidence import Evidence, Violation
from tests.acceptance.history.operations import Call, Operation
from tests.acceptance.history.rows import Checkout, Sale

PAUSE_SEEN = 2.0
"""Seconds within which every worker knows that a sale was paused or resumed, and somebody has looked."""


def nothing_is_called_sold_before_it_is(evidence: Evidence) -> Iterator[Violation]:
    """``item_sold`` and ``sold_out``."""

    def item_may_be_sold(sale: Sale, operation: Operation) -> bool:
        return any(
            row.purchased_at is not None and evidence.clock.earliest(row.purchased_at) <= operation.ended_at
            for row in _of_item(evidence, sale, operation)
        )

    def all_may_be_sold(sale: Sale, operation: Operation) -> bool:
        return evidence.sold_by(sale.id, operation.ended_at) >= sale.items

    yield from _false(evidence, "item_sold", item_may_be_sold, _of_item)
    yield from _false(evidence, "sold_out", all_may_be_sold, _of_nobody)


def nothing_is_called_held_that_is_free(evidence: Evidence) -> Iterator[Violation]:
    """``item_held`` and ``all_held``."""

    def item_may_be_held(sale: Sale, operation: Operation) -> bool:
        return evidence.held(sale.id, operation.item_id or 0).meet(operation.span)

    def all_may_be_held(sale: Sale, operation: Operation) -> bool:
        return evidence.all_taken(sale.id).meet(operation.span)

    yield from _false(evidence, "item_held", item_may_be_held, _of_item)
    yield from _false(evidence, "all_held", all_may_be_held, _of_nobody)


def nobody_with_room_is_told_of_a_limit(evidence: Evidence) -> Iterator[Violation]:
    """``user_limit``."""

    def may_be_at_the_limit(sale: Sale, operation: Operation) -> bool:
        return evidence.at_the_limit(sale.id, operation.user_id or 0).meet(operation.span)

    yield from _false(evidence, "user_limit", may_be_at_the_limit, _of_user)


def nobody_is_told_of_holds_that_they_used(evidence: Evidence) -> Iterator[Violation]:
    """``hold_limit``."""

    def may_have_let_them_go(sale: Sale, operation: Operation) -> bool:
        unused = sum(
            row.purchased_at is None and evidence.clock.earliest(row.created_at) <= operation.ended_at
            for row in _of_user(evidence, sale, operation)
        )
        return unused >= max_unused(sale.user_limit)

    yield from _false(evidence, "hold_limit", may_have_let_them_go, _of_user)


def nobody_is_told_of_a_pause_that_was_not(evidence: Evidence) -> Iterator[Violation]:
    """``paused``: no row tells, but somebody who looked at the sale a moment before or after was told so."""
    looks = [o for o in evidence.operations if o.call is Call.SALE and o.answer and o.answer.get("paused")]

    def may_be_paused(sale: Sale, operation: Operation) -> bool:
        return any(
            look.started_at <= operation.ended_at + PAUSE_SEEN
            and look.ended_at >= operation.started_at - PAUSE_SEEN
            for look in looks
        )

    yield from _false(evidence, "paused", may_be_paused, _of_nobody)


def _false(
    evidence: Evidence,
    reason: str,
    may_be: Callable[[Sale, Operation], bool],
    about: Callable[[Evidence, Sale, Operation], list[Checkout]],
) -> Iterator[Violation]:
    """Refusals that cannot have been true of any sale that may have been on, with the rows about them."""
    for operation in evidence.operations:
        if operation.call is not Call.CHECKOUT or operation.reason != reason:
            continue
        sales = evidence.sales_at(operation)
        if any(may_be(sale, operation) for sale in sales):
            continue
        rows = [row for sale in sales for row in about(evidence, sale, operation)]
        rows.sort(key=lambda row: abs(evidence.clock.latest(row.created_at) - operation.ended_at))
        sold = [f"{evidence.sold_by(sale.id, operation.ended_at)} of {sale.items}" for sale in sales]
        yield Violation(
            kind=f"false {reason}",
            text=f"{reason} was not true at any moment of the request; at most {', '.join(sold)} were sold",
            operations=(operation, *(o for row in rows[:3] for o in evidence.about(row.code))),
            rows=tuple(rows[:5]),
        )


def _of_item(evidence: Evidence, sale: Sale, operation: Operation) -> list[Checkout]:
    return list(evidence.of_item.get((sale.id, operation.item_id or 0), ()))


def _of_user(evidence: Evidence, sale: Sale, operation: Operation) -> list[Checkout]:
    return list(evidence.of_user.get((sale.id, operation.user_id or 0), ()))


def _of_nobody(evidence: Evidence, sale: Sale, operation: Operation) -> list[Checkout]:
    return []


CHECKS = (
    nothing_is_called_sold_before_it_is,
    nothing_is_called_held_that_is_free,
    nobody_with_room_is_told_of_a_limit,
    nobody_is_told_of_holds_that_they_used,
    nobody_is_told_of_a_pause_that_was_not,
)
