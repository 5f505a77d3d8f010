"""What one worker knows of a sale: pure state, no I/O, no await, no ORM.

The truth is in the database; this is a cache of versioned rows. It learns rows in any order and any
number of times (`Inventory.learn`): for each item the highest version wins. It is changed only by what
was committed, so a batch that fails leaves nothing to roll back.
"""

import math
import random
import re
from array import array
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import islice
from typing import NamedTuple
from uuid import UUID

from batching import Undecided
from sales import limits
from sales.codes import new_code
from sales.refusals import (
    ALL_HELD,
    HOLD_LIMIT,
    INVALID_PARAMETER,
    ITEM_HELD,
    ITEM_SOLD,
    PAUSED,
    SOLD_OUT,
    USER_LIMIT,
    Reason,
    Refusal,
)

AVAILABLE, HELD, SOLD, EXPIRED = range(4)
"""States in memory. EXPIRED: a hold whose time is over and that nobody has swept yet, as far as we know."""

_OVER = re.compile(bytes([EXPIRED]))

EXPIRY_MARGIN = 0.02
"""Seconds that memory lets a hold live on: our estimate of the database's clock is not exact, and a hold
believed to be over too early costs a conflict, one believed to be over too late only a moment."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SaleFacts:
    """One row of `Sale`; times are seconds since the epoch by the database's clock."""

    id: int
    starts_at: float
    ends_at: float
    items: int
    user_limit: int
    checkout_ttl: int
    paused: bool


class SaleEnded(Exception):
    """The sale of a batch has ended: ask for the one that is on now."""


class ItemRow(NamedTuple):
    """One row of `SaleItem` as the database has it; ``held_until`` is seconds since the epoch."""

    item_id: int
    version: int
    state: int
    user_id: int | None
    held_until: float | None


ItemValues = tuple[int, int, int, int | None, float | None]
"""The same without the names."""


class Inventory:
    """The items of one sale, as far as this worker knows."""

    def __init__(self, sale: SaleFacts, rows: Iterable[ItemRow]) -> None:
        self.sale = sale
        self.sold = 0
        self.held = 0
        self.unswept = 0
        """Holds that are over and, as far as we know, not swept yet."""
        self._taken: dict[int, int] = {}
        self._lapsed: dict[int, int] = {}  # users of EXPIRED items: the database still counts these
        self._unused: dict[int, int] = {}  # holds that came to nothing, by user
        self._versions = array("i", bytes(4 * sale.items))
        self._states = bytearray(sale.items)
        self._users = array("q", bytes(8 * sale.items))
        # When holds are over, as a heap, and for each of these times its holds, as items and versions in
        # turn: few times, as all holds of a batch have the same. Which holds have ended before is found out
        # when their time comes.
        self._ends: list[float] = []
        self._ending: dict[float, array[int]] = {}
        # Free items, and the place of each among them (-1: not there), so that any can be taken out at once.
        self._free = array("i", range(sale.items))
        self._places = self._free[:]
        self.learn(rows)

    @property
    def available(self) -> int:
        """Items that are neither sold nor held, holds that are over included."""
        return len(self._free)

    def version(self, item_id: int) -> int:
        """The version that a free item has once its expired hold, if there is one, was swept."""
        return self._versions[item_id] + (self._states[item_id] == EXPIRED)

    def needs_sweep(self, user_id: int, item_id: int) -> bool:
        """Whether this user can have this item only once an expired hold was swept in the database."""
        return self._states[item_id] == EXPIRED or user_id in self._lapsed

    def learn(self, rows: Iterable[ItemRow | ItemValues]) -> None:
        """Take in rows as read from the database, or as written and committed there."""
        versions, states, users, taken = self._versions, self._states, self._users, self._taken
        for item_id, version, state, user_id, held_until in rows:
            if version <= versions[item_id]:
                continue
            versions[item_id] = version
            before, states[item_id] = states[item_id], state
            if state == AVAILABLE:
                self._free_again(item_id, before)
                continue
            assert user_id is not None
            assert held_until is not None
            if state == SOLD:
                self.sold += 1
                if before == HELD and users[item_id] == user_id:
                    self.held -= 1
                    continue
            else:
                self.held += 1
                if (holds := self._ending.get(held_until)) is None:
                    holds = self._add_end(held_until)
                holds.append(item_id)
                holds.append(version)
            self._leave(item_id, before)
            users[item_id] = user_id
            taken[user_id] = taken.get(user_id, 0) + 1

    def expire(self, now: float) -> None:
        """Free the items whose hold is over at this time (seconds by the database's clock)."""
        over = now - EXPIRY_MARGIN
        versions, states, users, lapsed = self._versions, self._states, self._users, self._lapsed
        while self._ends and self._ends[0] <= over:
            pairs = iter(self._ending.pop(heappop(self._ends)))
            for item_id, version in zip(pairs, pairs, strict=True):
                if versions[item_id] == version and states[item_id] == HELD:
                    states[item_id] = EXPIRED
                    self._leave(item_id, HELD)
                    self._put(item_id)
                    self.unswept += 1
                    lapsed[users[item_id]] = lapsed.get(users[item_id], 0) + 1

    def lapsed(self, most: int | None = None) -> list[int]:
        """The first items whose hold is over and not swept yet, as far as we know."""
        return [match.start() for match in islice(_OVER.finditer(self._states), most)]

    def lapsed_of(self, holds: "Collection[Hold]") -> list[int]:
        """Those of the lapsed items that these holds count on: their own, and those of their users."""
        items, users = {hold.item_id for hold in holds}, {hold.user_id for hold in holds}
        return [item for item in self.lapsed() if item in items or self._users[item] in users]

    def refusal(self, user_id: int, item_id: int | None, now: float) -> Reason | None:
        """What cannot be granted now, as far as this worker knows; ``None`` where it can.

        ``item_id`` ``None`` asks for any free item. Changes nothing but what time has freed. Most answers
        of a sale come from here.

        It is true by committed rows: those of this worker as they are, those of others as they were at the
        last look (a second ago at most, where nothing is wrong). A hold counts until `EXPIRY_MARGIN` after
        its end.
        """
        if self._ends and self._ends[0] <= now - EXPIRY_MARGIN:
            self.expire(now)
        sale = self.sale
        if sale.paused:
            return PAUSED
        if item_id is None:
            if not self._free:
                return SOLD_OUT if self.sold == sale.items else self.all_held(now)
        elif item_id >= sale.items:
            return INVALID_PARAMETER.saying(f"item_id must be a whole number from 0 to {sale.items - 1}.")
        elif (state := self._states[item_id]) == SOLD:
            return ITEM_SOLD
        elif state == HELD:
            return ITEM_HELD
        if self._taken.get(user_id, 0) >= sale.user_limit:
            return USER_LIMIT
        if self._unused.get(user_id, 0) >= limits.max_unused(sale.user_limit):
            return HOLD_LIMIT
        return None

    def taken(self, user_id: int) -> int:
        """How many items this user holds and has bought."""
        return self._taken.get(user_id, 0)

    def free_item(self, place: int) -> int | None:
        """The free item at this place, counted from 0 in no order; ``None`` past all."""
        return self._free[place] if place < len(self._free) else None

    def random_item(self) -> int | None:
        """Some free item, ``None`` without any: who knows nothing of another worker picks another one."""
        free = self._free
        return free[int(random.random() * len(free))] if free else None  # noqa: S311  (no secret)

    def all_held(self, now: float) -> Reason:
        """The reason that says when the next hold expires (whole seconds, at least 1)."""
        first = self._first_end()
        wait = self.sale.checkout_ttl if first is None else first + EXPIRY_MARGIN - now
        return ALL_HELD.after(max(1, math.ceil(wait)))

    def _add_end(self, held_until: float) -> "array[int]":
        """Keep the holds that are over at this time, from now on."""
        heappush(self._ends, held_until)
        holds = self._ending[held_until] = array("i")
        return holds

    def _first_end(self) -> float | None:
        """When the first hold is over, once those that ended in another way are thrown out."""
        while self._ends:
            holds = self._ending[self._ends[0]]
            while holds:
                item_id = holds[-2]
                if self._versions[item_id] == holds[-1] and self._states[item_id] == HELD:
                    return self._ends[0]
                del holds[-2:]
            del self._ending[heappop(self._ends)]
        return None

    def _put(self, item_id: int) -> None:
        self._places[item_id] = len(self._free)
        self._free.append(item_id)

    def _free_again(self, item_id: int, before: int) -> None:
        """Count an item that is available now, and in what it was before."""
        if before == AVAILABLE:
            return
        user_id = self._users[item_id]
        if before == EXPIRED:  # it is among the free ones already
            _lower(self._lapsed, user_id)
            self.unswept -= 1
        else:
            self._leave(item_id, before)
            self._put(item_id)
        if before != SOLD:
            self._unused[user_id] = self._unused.get(user_id, 0) + 1

    def _leave(self, item_id: int, state: int) -> None:
        """Take the item out of the counts of this state, in which it was."""
        if (place := self._places[item_id]) >= 0:
            if (last := self._free.pop()) != item_id:
                self._free[place] = last
                self._places[last] = place
            self._places[item_id] = -1
            if state == EXPIRED:
                _lower(self._lapsed, self._users[item_id])
                self.unswept -= 1
            return
        if state == SOLD:
            self.sold -= 1
        else:
            self.held -= 1
        _lower(self._taken, self._users[item_id])


def _lower(counts: dict[int, int], user_id: int) -> None:
    """Count one less for a user; users whose count is zero are not kept."""
    if counts[user_id] == 1:
        del counts[user_id]
    else:
        counts[user_id] -= 1


class RequestKey(NamedTuple):
    """An ``Idempotency-Key``, and the item that was asked for with it (``None``: any)."""

    text: str
    item_id: int | None


@dataclass(eq=False, slots=True)
class Hold:
    """A hold that a batch means to take: an item at the version it was seen, for a user."""

    item_id: int
    version: int
    user_id: int
    code: UUID
    key: RequestKey | None = None


@dataclass(slots=True)
class HoldBatch:
    """The holds of one batch, decided on the inventory without changing it.

    They are only hoped for until the batch is saved, so they refuse nobody: who could be granted something
    if it were not for them is undecided until then.

    ``now`` is seconds by the database's clock. ``needs_sweep``: a hold here counts on another one being
    over, so the sweep must run before the batch is saved.
    """

    inventory: Inventory
    now: float
    holds: dict[int, Hold] = field(default_factory=dict)
    needs_sweep: bool = False
    _wanted: dict[int, int] = field(default_factory=dict)
    _keyed: dict[tuple[int, str], Hold] = field(default_factory=dict)
    _place: int = 0

    def hold(self, user_id: int, item_id: int | None, key: RequestKey | None = None) -> Hold:
        """Add a hold for this user to the batch; a second one with the same key is the first one.

        Raises the `Refusal`; `Undecided` where it depends on the other holds of the batch, which may fail;
        or `SaleEnded`. Adds nothing then.
        """
        if key is not None and (earlier := self._keyed.get((user_id, key.text))) is not None:
            if earlier.key != key:
                raise Undecided
            return earlier
        inventory = self.inventory
        if self.now >= inventory.sale.ends_at:
            raise SaleEnded
        if (reason := inventory.refusal(user_id, item_id, self.now)) is not None:
            raise Refusal(reason)
        wanted = self._wanted.get(user_id, 0)
        if wanted and inventory.taken(user_id) + wanted >= inventory.sale.user_limit:
            raise Undecided
        if item_id is None:
            item_id = self._any_free()
        elif item_id in self.holds:
            raise Undecided
        self._wanted[user_id] = wanted + 1
        if inventory.unswept and inventory.needs_sweep(user_id, item_id):
            self.needs_sweep = True
        hold = Hold(item_id, inventory.version(item_id), user_id, new_code(inventory.sale.id, item_id), key)
        self.holds[item_id] = hold
        if key is not None:
            self._keyed[user_id, key.text] = hold
        return hold

    def _any_free(self) -> int:
        """A free item that is not in this batch. Raises `Undecided` where it has them all."""
        item_id = self.inventory.random_item()
        while item_id in self.holds:  # few are, so it is looked for only near the end of a sale
            item_id = self.inventory.free_item(self._place)
            self._place += 1
        if item_id is None:
            raise Undecided
        return item_id
