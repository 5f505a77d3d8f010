"""Transactions of the model database: what each statement of `sales.statements` does to its tables.

A statement sees what was committed when it began, rows are locked in the order in which the statement locks
them, and what it finds behind a lock is looked at again. `tests.simulation.test_model` compares it with
PostgreSQL.
"""

from collections import Counter
from collections.abc import Collection
from typing import Any
from uuid import UUID

from tests.simulation.database import OpenTransaction
from tests.simulation.rows import Checkout, Counts, Item, Sale, Tables, Wish


class LimitExceeded(Exception):
    """The constraint ``allowance_within_limit``."""


class KeyUsed(Exception):
    """The primary key of ``sales_idempotencykey``."""


class ConstraintViolated(Exception):
    """Any other constraint; no statement of ours should meet one."""


class Transaction(OpenTransaction):
    """One transaction; its methods are the statements."""

    # --- reads

    async def sales(self) -> list[Sale]:
        """`sales.statements.LIVE_SALES`."""
        return self.database.live(self.now)

    async def started(self) -> list[int]:
        """`sales.statements.STARTED`; no sale of the model is ever closed."""
        return [sale.id for sale in self.database.sales.values() if sale.starts_at <= self.now]

    async def counts(self, sale_id: int) -> Counts | None:
        """`sales.statements.COUNTS`, of one sale."""
        if (sale := self.database.sales.get(sale_id)) is None:
            return None
        items = self._seen().items.values() if sale.starts_at <= self.now else ()
        rows = [item for item in items if item.sale_id == sale_id]
        states = Counter(item.state for item in rows)
        return Counts(*sale, sold=states["sold"], held=states["held"])

    async def load(self, sale_id: int) -> tuple[int, list[Item]]:
        """`sales.statements.LOAD`."""
        rows = [item for item in self._seen().items.values() if item.sale_id == sale_id and item.version]
        return self.database.oldest(), rows

    async def changes(self, sale_id: int, since: int) -> tuple[int, list[Item]]:
        """`sales.statements.CHANGES`."""
        rows = [item for item in self._seen().items.values() if item.sale_id == sale_id]
        return self.database.oldest(), [item for item in rows if item.xmin >= since]

    async def receipts(self, codes: Collection[UUID]) -> list[Checkout]:
        """`sales.statements.RECEIPT`."""
        seen = self._seen().checkouts
        return [seen[code] for code in codes if code in seen]

    def has_passed(self, checkout: Checkout) -> bool:
        """Whether it is held, and its time is over."""
        return checkout.state == "held" and checkout.expires_at <= self.now

    async def over_limit(self, sale_id: int, users: Collection[int]) -> set[int]:
        """The users whom so many more items would take over their limit."""
        limit, taken = self.database.sales[sale_id].user_limit, self._seen().allowances
        return {
            user for user, count in Counter(users).items() if count + taken.get((sale_id, user), 0) > limit
        }

    async def keyed(self, sale_id: int, keys: Collection[tuple[int, str]]) -> list[tuple[Any, ...]]:
        """`sales.statements.KEYED`."""
        seen = self._seen().keys
        return [(*key, *seen[sale_id, *key]) for key in keys if (sale_id, *key) in seen]

    async def by_code(self, ids: Collection[int | None], codes: Collection[UUID]) -> list[Item]:
        """`sales.statements.HELD`."""
        rows = self._seen().items
        return [rows[id_] for id_ in dict.fromkeys(ids) if id_ in rows and rows[id_].code in codes]

    async def bought(self, ids: Collection[int | None], codes: Collection[UUID], batch: int) -> list[Item]:
        """`sales.statements.BOUGHT`."""
        seen = self._seen()
        found = {
            code for code in codes if code in seen.checkouts and self.is_of_batch(seen.checkouts[code], batch)
        }
        items = [seen.items[id_] for id_ in dict.fromkeys(ids) if id_ in seen.items]
        return [item for item in items if item.state == "sold" and item.code in found]

    # --- writes

    async def hold(self, sale_id: int, seconds: float, wishes: list[Wish]) -> list[Item]:
        """`sales.statements.hold`; ``seconds`` is how long."""
        seen = self._seen().items
        until = self.database.clock() + seconds
        locked = []
        for wish in sorted(wishes, key=lambda wish: wish.id):
            if wish.id in seen and self.is_as_seen(seen[wish.id], wish):
                await self._lock(("item", wish.id))
                if self.is_as_seen(self._item(wish.id), wish):
                    locked.append(wish)
        granted = {
            wish: self._write(
                self._item(wish.id)._replace(
                    state="held", user_id=wish.user_id, code=wish.code, held_until=until
                )
            )
            for wish in locked
            if self.may_be_held(self._item(wish.id))
        }
        await self.database.pace()
        named = {(sale_id, wish.user_id, wish.key.text): wish for wish in granted if wish.key}
        for id_ in sorted(named):
            await self.use_key(id_, named[id_])
        for user, count in sorted(Counter(wish.user_id for wish in granted).items()):
            await self.take(sale_id, user, count)
        for wish, item in granted.items():
            if wish.code in self.database.checkouts:
                raise ConstraintViolated("sales_checkout_pkey")
            self.written.checkouts[wish.code] = Checkout(
                wish.code, sale_id, item.item_id, wish.user_id, until - seconds, until, None, "held"
            )
        return list(granted.values())

    async def purchase(self, wanted: Collection[tuple[int | None, UUID]], batch: int) -> list[Item]:
        """`sales.statements.PURCHASE`."""
        seen = self._seen()
        sold = []
        for item in await self._locked_by_code(seen, wanted, state="held"):
            if item.state != "held":
                continue
            assert item.code is not None
            moment = max(self.now, self.database.checkouts[item.code].created_at)
            if not self.is_still_held(item, moment):
                continue
            if not _after(item.held_until, moment):
                raise ConstraintViolated("item_columns_fit_state")
            sold.append(self._write(item._replace(state="sold", purchased_at=moment)))
            self._close(item, state="purchased", purchased_at=moment, batch=batch)
        await self.database.pace()
        return sold

    async def release(self, wanted: Collection[tuple[int | None, UUID]]) -> list[Item]:
        """`sales.statements.RELEASE`; returns the items as they were."""
        locked = await self._locked_by_code(self._seen(), wanted)
        return await self._give_back(
            [item for item in locked if item.state == "held" and _after(item.held_until, self.now)],
            "released",
        )

    async def try_expire(self, wanted: Collection[tuple[int | None, UUID]]) -> list[Item]:
        """`sales.statements.TRY_EXPIRE`; returns the items as they were."""
        locked = await self._locked_by_code(self._seen(), wanted, skip=True)
        return await self._give_back([item for item in locked if self.is_over(item)], "expired")

    async def sweep(self, sale_id: int) -> list[Item]:
        """`sales.statements.SWEEP`; returns the items as they were."""
        seen = self._seen().items
        over = []
        for id_ in sorted(seen):
            if sale_id != seen[id_].sale_id or not self.is_over(seen[id_]):
                continue
            if await self._lock(("item", id_), skip=True) and self.is_over(self._item(id_)):
                over.append(self._item(id_))
        return await self._give_back(over, "expired")

    async def try_lock(self, sale_id: int) -> bool:
        """``pg_try_advisory_xact_lock`` for the sweep of a sale."""
        return await self._lock(("sweep", sale_id), skip=True)

    # --- the conditions that everything hangs on, to be broken one at a time

    def is_as_seen(self, item: Item, wish: Wish) -> bool:
        """Whether nobody has changed the item since the worker saw it."""
        return item.version == wish.version

    def may_be_held(self, item: Item) -> bool:
        """Whether nobody has it."""
        return item.state == "available"

    def is_still_held(self, item: Item, moment: float) -> bool:
        """Whether the hold is not over at this time."""
        return _after(item.held_until, moment)

    def is_over(self, item: Item) -> bool:
        """Whether a hold is over, and to be swept."""
        return item.state == "held" and not _after(item.held_until, self.now)

    def has_code(self, item: Item, code: UUID) -> bool:
        """Whether it is this code that holds the item."""
        return item.code == code

    def has_checkout(self, seen: Tables, code: UUID, state: str | None) -> bool:
        """Whether the checkout of this code is in this state; ``None`` for any, and for none at all."""
        checkout = seen.checkouts.get(code)
        return state is None or (checkout is not None and checkout.state == state)

    def is_of_batch(self, checkout: Checkout, batch: int) -> bool:
        """Whether it was this batch that bought it."""
        return checkout.batch == batch

    async def use_key(self, id_: tuple[int, int, str], wish: Wish) -> None:
        """Say what a key was used for. Raises `KeyUsed`."""
        assert wish.key is not None
        await self._lock(("key", *id_))
        if id_ in self.written.keys or id_ in self.database.keys:
            raise KeyUsed
        self.written.keys[id_] = wish.key.item_id, wish.code

    async def take(self, sale_id: int, user_id: int, count: int) -> None:
        """Raise an allowance. Raises `LimitExceeded`."""
        await self._lock(("allowance", sale_id, user_id))
        taken = self._allowance(sale_id, user_id) + count
        if taken > self.database.sales[sale_id].user_limit:
            raise LimitExceeded
        self.written.allowances[sale_id, user_id] = taken

    async def give_back(self, sale_id: int, user_id: int, count: int) -> None:
        """Lower an allowance."""
        taken = self._allowance(sale_id, user_id) - count
        if taken < 0:
            raise ConstraintViolated("allowance_taken_not_negative")
        self.written.allowances[sale_id, user_id] = taken

    # ---

    def _close(self, item: Item, **changes: Any) -> None:
        """Say in the checkout of a held item what became of it."""
        assert item.code is not None
        checkout = self.database.checkouts[item.code]
        self.written.checkouts[item.code] = checkout._replace(**changes)

    async def _locked_by_code(
        self,
        seen: Tables,
        wanted: Collection[tuple[int | None, UUID]],
        state: str | None = None,
        *,
        skip: bool = False,
    ) -> list[Item]:
        """Lock the items that hold these codes, those with a checkout in this state; the newest versions.

        With ``skip``, those alone that nobody has locked.
        """
        locked = []
        for id_, code in sorted((id_, code) for id_, code in wanted if id_ is not None and id_ in seen.items):
            if not self.has_code(seen.items[id_], code) or not self.has_checkout(seen, code, state):
                continue
            if await self._lock(("item", id_), skip=skip) and self.has_code(self._item(id_), code):
                locked.append(self._item(id_))
        return locked

    async def _give_back(self, items: list[Item], state: str) -> list[Item]:
        owed: Counter[tuple[int, int]] = Counter()
        for item in items:
            assert item.user_id is not None
            self._close(item, state=state)
            self._write(item._replace(state="available", user_id=None, code=None, held_until=None))
            owed[item.sale_id, item.user_id] += 1
        await self.database.pace()
        for sale_id, user_id in sorted(owed):
            await self._lock(("allowance", sale_id, user_id))
        for (sale_id, user_id), count in owed.items():
            await self.give_back(sale_id, user_id, count)
        return items


def _after(moment: float | None, now: float) -> bool:
    return moment is not None and moment > now
