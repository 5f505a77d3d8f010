"""The rows agree with each other: exactly N items, each held and sold by one at a time."""

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from tests.acceptance.history.evidence import WORKER_CLOCK, Evidence, Violation
from tests.acceptance.history.operations import Call
from tests.acceptance.history.rows import Checkout, Item

EXACT = 1e-5
"""Seconds within which two times of the database are the same: they were read as floating-point numbers."""


def every_item_exists_once(evidence: Evidence) -> Iterator[Violation]:
    """A sale has the items from 0 to N-1."""
    for sale in evidence.rows.sales:
        if not sale.rows == sale.numbers == sale.items == sale.last + 1 or sale.first != 0:
            yield Violation(
                kind="items",
                text=f"sale {sale.id} of {sale.items} items has {sale.rows} rows of {sale.numbers} different "
                f"items from {sale.first} to {sale.last}",
            )


def items_agree_with_their_checkouts(evidence: Evidence) -> Iterator[Violation]:
    """A sold item has one purchased checkout, a held one has one that is held, and both say the same.

    The version of an item counts its changes: one for a hold, one for whatever became of it.
    """
    items = {(item.sale_id, item.item_id): item for item in evidence.rows.items}
    for place in items.keys() | evidence.of_item.keys():
        checkouts = evidence.of_item.get(place, [])
        item = items.get(place) or Item(
            sale_id=place[0],
            item_id=place[1],
            state="available",
            version=0,
            user_id=None,
            code=None,
            held_until=None,
            purchased_at=None,
        )
        owners = [row for row in checkouts if row.state in ("held", "purchased")]
        if [_owner(row) for row in owners] != ([] if item.state == "available" else [_owned(item)]):
            yield Violation(kind="item", text=f"{item} has these checkouts", rows=tuple(owners))
        changes = sum(1 if row.state == "held" else 2 for row in checkouts)
        if item.version != changes:
            yield Violation(
                kind="version",
                text=f"item {item.item_id} of sale {item.sale_id} has version {item.version}, and its "
                f"checkouts explain {changes}",
                rows=tuple(checkouts),
            )


def holds_of_an_item_follow_each_other(evidence: Evidence) -> Iterator[Violation]:
    """An item is held again only after the hold before is over, and never after it was sold."""
    for checkouts in evidence.of_item.values():
        for before, after in pairwise(checkouts):
            if before.state == "expired":
                free = after.created_at >= before.expires_at
            elif before.state == "released":
                releases = [o.started_at for o in evidence.about(before.code, Call.RELEASE)]
                free = not releases or evidence.clock.latest(after.created_at) >= min(releases)
            else:
                free = False
            if not free:
                yield Violation(
                    kind="held twice",
                    text=f"item {after.item_id} of sale {after.sale_id} was held again while it was not free",
                    operations=(*evidence.about(before.code), *evidence.about(after.code)),
                    rows=(before, after),
                )


def allowances_are_what_users_have(evidence: Evidence) -> Iterator[Violation]:
    """What a user is said to have is what they hold and bought, and not above the limit."""
    allowances = {(row.sale_id, row.user_id): row for row in evidence.rows.allowances}
    owned = Counter(
        (row.sale_id, row.user_id) for row in evidence.rows.checkouts if row.state in ("held", "purchased")
    )
    for place in allowances.keys() | owned.keys():
        taken = allowances[place].taken if place in allowances else 0
        limit = evidence.sales[place[0]].user_limit
        if taken != owned[place] or taken > limit:
            yield Violation(
                kind="allowance",
                text=f"user {place[1]} has {owned[place]} items of sale {place[0]}, is said to have {taken}, "
                f"and may have {limit}",
                rows=tuple(row for row in evidence.of_user[place] if row.state in ("held", "purchased")),
            )


def times_are_right(evidence: Evidence) -> Iterator[Violation]:
    """By the database's clock: a hold lasts as long as the sale says, and is bought within that time."""
    for row in evidence.rows.checkouts:
        sale = evidence.sales[row.sale_id]
        wrong = []
        if abs(row.expires_at - row.created_at - sale.checkout_ttl) > EXACT:
            wrong.append(f"lasts {row.expires_at - row.created_at:.6f} s, not {sale.checkout_ttl}")
        if row.purchased_at is not None and not row.created_at <= row.purchased_at < row.expires_at:
            wrong.append("was not bought while it was held")
        if row.state == "expired" and row.expires_at > evidence.rows.read_at:
            wrong.append("has expired before its time")
        if row.created_at < sale.starts_at - WORKER_CLOCK:
            wrong.append("was held before its sale")
        # What was asked within the sale may be saved a moment after it.
        started_at = [operation.started_at for operation in evidence.about(row.code, Call.CHECKOUT)]
        if started_at and min(started_at) > evidence.clock.latest(sale.ends_at) + WORKER_CLOCK:
            wrong.append("was asked for after its sale")
        if wrong:
            yield Violation(
                kind="time",
                text=f"the hold {' and '.join(wrong)}",
                operations=tuple(evidence.about(row.code)),
                rows=(row,),
            )


def _owner(row: Checkout) -> tuple[object, ...]:
    state = {"purchased": "sold"}.get(row.state, row.state)
    return state, row.code, row.user_id, row.expires_at, row.purchased_at


def _owned(item: Item) -> tuple[object, ...]:
    return item.state, item.code, item.user_id, item.held_until, item.purchased_at


CHECKS = (
    every_item_exists_once,
    items_agree_with_their_checkouts,
    holds_of_an_item_follow_each_other,
    allowances_are_what_users_have,
    times_are_right,
)
