"""What a worker refused from what it knew, held against what it knew."""

from collections.abc import Callable, Iterator
from math import ceil
from typing import cast

from sales.inventory import EXPIRY_MARGIN
from sales.refusals import Refusal
from tests.simulation.calls import Call
from tests.simulation.checks import History
from tests.simulation.memory import Known, Memories
from tests.simulation.rows import Item, Sale

STALE_AFTER = 1.2
"""Seconds after which a worker knows what others did, where nothing fails."""

CLOCK_ERROR = 0.05
"""Seconds that its idea of the database's time may be wrong, where nothing fails."""


class Refusals:
    """Checks refusals that need nothing but what workers know; ``fair``: nothing ever fails."""

    def __init__(self, history: History, memories: Memories, *, fair: bool) -> None:
        self.history = history
        self.database = history.database
        self.memories = memories
        self._fair = fair
        self.checks: dict[str, Callable[[Call, Refusal], None]] = {
            "no_sale": self._no_sale,
            "item_sold": self._item_sold,
            "sold_out": self._sold_out,
            "item_held": self._item_held,
            "all_held": self._all_held,
            "user_limit": self._user_limit,
        }
        """By the reason."""

    def _no_sale(self, call: Call, refusal: Refusal) -> None:
        # There always is one; but a worker may not get to hear of the next in time.
        assert call.sale_id not in (None, *self.database.sales) or not self._fair, f"{call}: there is one"

    def _item_sold(self, call: Call, refusal: Refusal) -> None:
        assert self._was_known(call, "sold"), f"{call}: it was not known to be sold"

    def _sold_out(self, call: Call, refusal: Refusal) -> None:
        assert any(all(item.state == "sold" for item in items) for _, items in self._known(call)), (
            f"{call}: not all were known to be sold"
        )

    def _item_held(self, call: Call, refusal: Refusal) -> None:
        assert self._was_known(call, "held"), f"{call}: it was not known to be held"

    def _all_held(self, call: Call, refusal: Refusal) -> None:
        held = [items for _, items in self._known(call) if all(item.state != "available" for item in items)]
        assert held, f"{call}: some were known to be free"
        if self._fair:
            seconds = refusal.reason.retry_after or 0
            ends = [end for items in held if (end := _first_end(items)) is not None]
            soonest, latest = call.answered_at + CLOCK_ERROR, call.started_at - CLOCK_ERROR
            assert any(
                max(1, ceil(end - soonest)) <= seconds <= max(1, ceil(end - latest)) for end in ends
            ), f"{call} was told to wait for {seconds} s, and the first hold ends at one of {ends}"

    def _user_limit(self, call: Call, refusal: Refusal) -> None:
        assert any(
            sum(item.user_id == call.user_id for item in items) >= sale.user_limit
            for sale, items in self._known(call)
        ), f"{call}: they were not known to have so many"

    def _was_known(self, call: Call, state: str) -> bool:
        """Whether the item that was asked for was known to be in this state."""
        known = (item for _, items in self._known(call) for item in items)
        return any((item.item_id, item.state) == (call.item_id, state) for item in known)

    def _known(self, call: Call) -> Iterator[tuple[Sale, list[Item]]]:
        """What its worker knew of a sale at some moment between question and answer.

        Only what was committed and, where nothing fails, not too long ago; a hold that is over is no hold.
        """
        for memory in self.memories.of(call.worker):
            for known in memory.known(call.started_at, call.answered_at):
                for server in self.history.servers:  # it may have been any
                    items = [
                        self._item(memory.sale.id, item_id, known, server)
                        for item_id in range(memory.sale.items)
                    ]
                    if None not in items:
                        yield self.database.sales[memory.sale.id], cast("list[Item]", items)

    def _item(self, sale_id: int, item_id: int, known: Known, server: int) -> Item | None:
        """An item as a worker knew it on a server; ``None`` where it should have known better."""
        version, versions = known.versions[item_id], self.history.of(sale_id, item_id, server)
        if version >= len(versions):
            return None
        item, newer = versions[version].item, versions[version + 1 : version + 2]
        if self._fair and newer and newer[0].at < known.since - STALE_AFTER:
            return None
        if self._fair and item.state == "held" and item.held_until is not None:
            over_at = item.held_until + EXPIRY_MARGIN + CLOCK_ERROR
            if over_at < known.since:
                return Item(sale_id, item_id)
        return item


def _first_end(items: list[Item]) -> float | None:
    """When the first of these holds is over for a worker, if there is one."""
    ends = [item.held_until for item in items if item.state == "held" and item.held_until is not None]
    return min(ends) + EXPIRY_MARGIN if ends else None
