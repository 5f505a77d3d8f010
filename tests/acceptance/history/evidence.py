"""What is known of a run, with the questions that every check asks. Pure: nothing here waits or reads."""

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from tests.acceptance.history.operations import Call, Fate, Operation
from tests.acceptance.history.rows import Checkout, Clock, Rows, Sale
from tests.acceptance.history.spans import Span, Times

WORKER_CLOCK = 2.0
"""Seconds that a worker's idea of the database's time may be wrong, when the database was slow to tell it.

It decides which sale is on.
"""

LAG = 1.0
"""Seconds after which every worker knows that a hold has ended, where nothing is wrong: as is promised."""

ALONE = 0.1
"""The same where there is one worker, which ends all holds itself: its clock is not exact."""

SHOWN = 12
"""Operations and rows that are shown for one violation at most."""


@dataclass(frozen=True, kw_only=True)
class Violation:
    """Something that must not be, with the operations and the rows that show it."""

    kind: str
    text: str
    operations: tuple[Operation, ...] = ()
    rows: tuple[Checkout, ...] = ()

    def told(self, start: float) -> str:
        """Some lines; times of operations are seconds after ``start``."""
        shown = [operation.told(start) for operation in sorted(self.operations, key=lambda o: o.started_at)]
        shown += [row.told() for row in self.rows]
        left = [f"… and {len(shown) - SHOWN} more"] if len(shown) > SHOWN else []
        return "\n    ".join([f"{self.kind}: {self.text}", *shown[:SHOWN], *left])


class Evidence:
    """The operations of a run and the rows after it, indexed.

    ``lag``: the seconds that a worker may go on counting a hold that has ended.
    """

    def __init__(
        self, operations: Iterable[Operation], rows: Rows, clock: Clock, *, lag: float = LAG
    ) -> None:
        self.operations = sorted(operations, key=lambda operation: operation.started_at)
        self.rows = rows
        self.clock = clock
        self.lag = lag
        self._held: dict[tuple[int, int], Times] = {}
        self._at_the_limit: dict[tuple[int, int], Times] = {}
        self._all_taken: dict[int, Times] = {}
        self.started_at = self.operations[0].started_at if self.operations else math.inf
        self.checkouts = {row.code: row for row in rows.checkouts}
        self.sales = {sale.id: sale for sale in rows.sales}
        self._in_order = sorted(rows.sales, key=lambda sale: sale.starts_at)  # they do not overlap
        self._starts = [clock.earliest(sale.starts_at) for sale in self._in_order]
        self.of_item: dict[tuple[int, int], list[Checkout]] = defaultdict(list)
        self.of_user: dict[tuple[int, int], list[Checkout]] = defaultdict(list)
        self._purchases: dict[int, list[float]] = defaultdict(list)
        for row in sorted(rows.checkouts, key=lambda row: row.created_at):
            self.of_item[row.place].append(row)
            self.of_user[row.sale_id, row.user_id].append(row)
            if row.purchased_at is not None:
                self._purchases[row.sale_id].append(clock.earliest(row.purchased_at))
        for moments in self._purchases.values():
            moments.sort()
        self.attempts: dict[int | None, list[Operation]] = defaultdict(list)
        self._about: dict[tuple[str | None, Call], list[Operation]] = defaultdict(list)
        for operation in self.operations:
            if operation.fate is Fate.UNSENT:
                continue
            if operation.call is Call.CHECKOUT:
                self.attempts[operation.user_id].append(operation)
            self._about[operation.code, operation.call].append(operation)

    def about(self, code: str, *calls: Call) -> list[Operation]:
        """The operations on this code that may have reached the service; of all calls where none is given."""
        found = [operation for call in calls or Call for operation in self._about.get((code, call), ())]
        return sorted(found, key=lambda operation: operation.started_at)

    def in_run(self, moment: float) -> bool:
        """Whether a time of the database may be one of this run."""
        return self.clock.latest(moment) >= self.started_at

    def sales_at(self, operation: Operation) -> list[Sale]:
        """The sales that may have been on for a worker that decided this operation."""
        begin = operation.started_at - WORKER_CLOCK
        end = operation.ended_at + WORKER_CLOCK
        last = bisect_right(self._starts, end)
        first = last
        while first and self.clock.latest(self._in_order[first - 1].ends_at) >= begin:
            first -= 1
        return self._in_order[first:last]

    def sold_by(self, sale_id: int, moment: float) -> int:
        """How many items of a sale may have been sold by a monotonic time, at most."""
        return bisect_right(self._purchases[sale_id], moment)

    def held(self, sale_id: int, item_id: int) -> Times:
        """When a worker may have known that an item was held."""
        place = sale_id, item_id
        if place not in self._held:
            self._held[place] = Times(self._known_held(row) for row in self.of_item.get(place, ()))
        return self._held[place]

    def at_the_limit(self, sale_id: int, user_id: int) -> Times:
        """When a worker may have known of as many items of a user as one may have."""
        place = sale_id, user_id
        if place not in self._at_the_limit:
            spans = [self._known_taken(row) for row in self.of_user.get(place, ())]
            self._at_the_limit[place] = Times(spans, self.sales[sale_id].user_limit)
        return self._at_the_limit[place]

    def all_taken(self, sale_id: int) -> Times:
        """When a worker may have known that every item of a sale was held or sold."""
        if sale_id not in self._all_taken:
            items = self.sales[sale_id].items
            of_items = [self.of_item.get((sale_id, item_id), ()) for item_id in range(items)]
            spans = [
                span
                for rows in (of_items if all(of_items) else ())
                for span in Times(self._known_taken(row) for row in rows).spans
            ]
            self._all_taken[sale_id] = Times(spans, items)
        return self._all_taken[sale_id]

    def _known_held(self, row: Checkout) -> Span:
        """From when to when a worker may have known that this hold was there, at most.

        It ends when its time is over, or before, when somebody was told that it was bought or given back:
        whoever was not told may have done that later.
        """
        ends = [o.ended_at for o in self.about(row.code, Call.PURCHASE, Call.RELEASE) if o.fate is Fate.DONE]
        end = min([self.clock.latest(row.expires_at), *ends])
        return Span(self.clock.earliest(row.created_at), end + self.lag)

    def _known_taken(self, row: Checkout) -> Span:
        """The same for the item, once it was bought for ever."""
        span = self._known_held(row)
        return span if row.purchased_at is None else span._replace(end=math.inf)

    def certain(self, row: Checkout) -> tuple[float, float] | None:
        """From when to when, in monotonic time, the item surely was this user's; ``None`` if not surely ever.

        A hold surely is there once it was acknowledged or bought, and until its time is over or somebody
        may have begun to give it back.
        """
        begins = [o.ended_at for o in self.about(row.code, Call.CHECKOUT) if o.fate is Fate.DONE]
        if row.purchased_at is not None:
            begins.append(self.clock.latest(row.purchased_at))
            end = math.inf
        elif row.state == "held" and row.expires_at > self.rows.read_at:
            end = math.inf
        else:
            releases = [o.started_at for o in self.about(row.code, Call.RELEASE)]
            end = min([self.clock.earliest(row.expires_at), *releases])
        if not begins or min(begins) >= end:
            return None
        return min(begins), end
