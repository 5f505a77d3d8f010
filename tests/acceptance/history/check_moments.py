"""At no moment of the run did an item belong to two, or a user have more than the limit.

Only what is certain counts (see `Evidence.certain`): whatever is found here was so.
"""

import math
from collections.abc import Iterator

from tests.acceptance.history.evidence import Evidence, Violation
from tests.acceptance.history.rows import Checkout


def no_user_had_more_than_the_limit(evidence: Evidence) -> Iterator[Violation]:
    """Held and bought items count together."""
    for (sale_id, user_id), rows in evidence.of_user.items():
        limit = evidence.sales[sale_id].user_limit
        if together := _most(evidence, rows, limit):
            yield Violation(
                kind="limit",
                text=f"user {user_id} had {len(together)} items of sale {sale_id} at one time, of {limit}",
                operations=tuple(o for row in together for o in evidence.about(row.code)),
                rows=tuple(together),
            )


def no_item_had_two_owners(evidence: Evidence) -> Iterator[Violation]:
    """An item is held or sold once at a time."""
    for (sale_id, item_id), rows in evidence.of_item.items():
        if together := _most(evidence, rows, 1):
            yield Violation(
                kind="two owners",
                text=f"item {item_id} of sale {sale_id} belonged to {len(together)} at one time",
                operations=tuple(o for row in together for o in evidence.about(row.code)),
                rows=tuple(together),
            )


def _most(evidence: Evidence, rows: list[Checkout], limit: int) -> list[Checkout]:
    """More than ``limit`` rows that surely were there together, at the first moment of that; or none."""
    if len(rows) <= limit:
        return []
    spans = [(*span, row) for row in rows if (span := evidence.certain(row)) is not None]
    spans.sort(key=lambda span: span[0])
    there: list[tuple[float, Checkout]] = []
    for begin, end, row in spans:
        there = [(other_end, other) for other_end, other in there if other_end > begin]
        there.append((end if end > begin else math.inf, row))
        if len(there) > limit:
            return [row for _, row in there]
    return []


CHECKS = (no_user_had_more_than_the_limit, no_item_had_two_owners)
