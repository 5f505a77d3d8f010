"""Transactions of the model database: what each statement of `sales.statements` does to its tables.

A statement sees what was committed when it began, rows are locked one by one as the statement comes to them,
and what it finds behind a lock is looked at again. `tests.simulation.test_model` compares it with
PostgreSQL.
"""

from collections import Counter
from collections.abc import Callable, Collection
from typing import Any
from uuid import UUID

from sales.models import SaleItem
from tests.simulation.database import OpenTransaction
from tests.simulation.rows import Checkout, Counts, Item, Sale, Tables, Wish

Wanted = Collection[tuple[int | None, UUID]]
"""Items by their ids, and the codes that should hold them."""


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

    async def not_closed(self, sale_ids: Collection[int]) -> list[int]:
        """`sales.statements.NOT_CLOSED`."""
        return [sale_id for sale_id in await self.started() if sale_id in sale_ids]

    async def counts(self, sale_id: int) -> Counts | None:
        """`sales.statements.COUNTS`, of one sale."""
        if (sale := self.database.sales.get(sale_id)) is None:
            return None
        items = self._seen().items.values() if sale.starts_at <= self.now else ()
        rows = [item for item in items if item.sale_id == sale_id]
        states = Counter(item.state for item in rows)
        return Counts(*sale, sold=states["sold"], held=states["held"])

    async def load(self, sale_id: int, first: int, most: int) -> tuple[int, list[Item]]:
        """`sales.statements.LOAD`."""
        rows = [item for _, item in sorted(self._seen().items.items()) if item.sale_id == sale_id]
        changed = [item for item in rows if item.item_id >= first and item.version]
        return self.database.oldest(), changed[:most]

    async def changes(
        self, sale_id: int, since: int, known: Collection[int], ids: Collection[int]
    ) -> tuple[int, list[Item]]:
        """`sales.statements.CHANGES`."""
        seen = self._seen()
        changed = {
            SaleItem.id_of(sale_id, item_id)
            for (sale, xid, batch), item_ids in seen.changes.items()
            if sale == sale_id and self.is_new(xid, since) and batch not in known
            for item_id in item_ids
        }
        rows = [seen.items[id_] for id_ in sorted(changed.union(ids)) if id_ in seen.items]
        return self.database.oldest(), [item for item in rows if item.sale_id == sale_id]

    async def receipts(self, wanted: Collection[tuple[int, UUID]]) -> list[Checkout]:
        """`sales.statements.RECEIPT`."""
        seen = self._seen()
        found = [(sale_id, self.told(seen, code)) for sale_id, code in wanted]
        return [row for sale_id, row in found if row is not None and row.sale_id == sale_id]

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

    async def by_code(self, sale_id: int, ids: Collection[int | None], codes: Collection[UUID]) -> list[Item]:
        """`sales.statements.HELD`."""
        rows = self._seen().items
        items = [rows[id_] for id_ in dict.fromkeys(ids) if id_ in rows]
        return [item for item in items if item.sale_id == sale_id and item.code in codes]

    async def bought(
        self, sale: int, ids: Collection[int | None], codes: Collection[UUID], batch: int
    ) -> list[Item]:
        """`sales.statements.BOUGHT`."""
        seen = self._seen()
        items = [seen.items[id_] for id_ in dict.fromkeys(ids) if id_ in seen.items]
        return [
            item
            for item in items
            if (item.sale_id, item.state) == (sale, "sold")
            and item.code in codes
            and self.is_of_batch(seen, item, batch)
        ]

    # --- writes

    async def hold(self, sale_id: int, seconds: float, wishes: list[Wish], batch: int) -> list[Item]:
        """`sales.statements.hold`; ``seconds`` is how long."""
        seen = self._seen().items
        until = self.database.clock() + seconds
        granted: dict[Wish, Item] = {}
        for wish in wishes:
            if wish.id in seen and self._can_be_held(sale_id, seen[wish.id], wish):
                await self._lock(("item", wish.id))
                if self._can_be_held(sale_id, item := self._item(wish.id), wish):
                    granted[wish] = self._write(
                        item._replace(state="held", user_id=wish.user_id, code=wish.code, held_until=until)
                    )
        await self.database.pace()
        named = {(sale_id, wish.user_id, wish.key.text): wish for wish in granted if wish.key}
        for id_ in sorted(named):
            await self.use_key(id_, named[id_])
        self.note(sale_id, batch, granted.values())
        for user, count in sorted(Counter(wish.user_id for wish in granted).items()):
            await self.take(sale_id, user, count)
        for wish, item in granted.items():
            if wish.code in self.database.checkouts:
                raise ConstraintViolated("sales_checkout_pkey")
            self.written.checkouts[wish.code] = Checkout(
                wish.code, sale_id, item.item_id, wish.user_id, until - seconds, until, None, "held"
            )
        return list(granted.values())

    async def purchase(self, sale_id: int, wanted: Wanted, batch: int) -> list[Item]:
        """`sales.statements.PURCHASE`."""
        sold = []
        for item in await self._locked(sale_id, wanted, self.may_be_sold):
            if not _after(item.held_until, self.now):
                raise ConstraintViolated("item_columns_fit_state")
            sold.append(self._write(item._replace(state="sold", purchased_at=self.now)))
        await self.database.pace()
        self.note(sale_id, batch, sold)
        return sold

    async def mark(self, sale_id: int, wanted: Wanted) -> None:
        """`sales.statements.MARK`."""
        seen = self._seen()
        for id_, code in wanted:
            item, checkout = seen.items.get(id_ or 0), seen.checkouts.get(code)
            if item is None or checkout is None or (item.sale_id, item.code) != (sale_id, code):
                continue
            if not self.is_bought(item) or checkout.state != "held":
                continue
            await self._lock(("checkout", code))
            moment = max(item.purchased_at or 0.0, checkout.created_at)
            if self._checkout(code).state == "held" and checkout.expires_at > moment:
                self._close(code, state="purchased", purchased_at=moment)

    async def release(self, sale_id: int, wanted: Wanted, batch: int) -> list[Item]:
        """`sales.statements.RELEASE`; returns the items as they were."""
        locked = await self._locked(sale_id, wanted, self.may_be_released)
        return await self._give_back(sale_id, locked, "released", batch)

    async def sweep(self, sale_id: int, batch: int) -> list[Item]:
        """`sales.statements.SWEEP`; returns the items as they were."""
        wanted = [(id_, item.code) for id_, item in self._seen().items.items() if item.code]
        return await self.try_expire(sale_id, wanted, batch)

    async def sweep_known(self, sale_id: int, ids: Collection[int], batch: int) -> list[Item]:
        """`sales.statements.SWEEP_KNOWN`; returns the items as they were."""
        seen = self._seen().items
        wanted = [(id_, code) for id_ in ids if id_ in seen and (code := seen[id_].code)]
        return await self.try_expire(sale_id, wanted, batch)

    async def try_expire(self, sale_id: int, wanted: Wanted, batch: int) -> list[Item]:
        """`sales.statements.TRY_EXPIRE`; returns the items as they were."""
        ordered = sorted((id_, code) for id_, code in wanted if id_ is not None)
        locked = await self._locked(sale_id, ordered, self.is_over, skip=True)
        return await self._give_back(sale_id, locked, "expired", batch)

    async def lock_item(self, id_: int) -> None:
        """What an operator may do: ``SELECT … FOR UPDATE``."""
        await self._lock(("item", id_))

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

    def may_be_sold(self, item: Item) -> bool:
        """Whether it is held, and the hold is not over."""
        return item.state == "held" and _after(item.held_until, self.now)

    def may_be_released(self, item: Item) -> bool:
        """Whether there is a hold to be given back."""
        return item.state == "held" and _after(item.held_until, self.now)

    def is_over(self, item: Item) -> bool:
        """Whether a hold is over, and to be swept."""
        return item.state == "held" and not _after(item.held_until, self.now)

    def is_bought(self, item: Item) -> bool:
        """Whether its checkout is to be marked."""
        return item.state == "sold"

    def has_code(self, item: Item, code: UUID) -> bool:
        """Whether it is this code that holds the item."""
        return item.code == code

    def is_of_batch(self, seen: Tables, item: Item, batch: int) -> bool:
        """Whether this batch has changed the item."""
        return any(
            (sale_id, by) == (item.sale_id, batch) and item.item_id in item_ids
            for (sale_id, _, by), item_ids in seen.changes.items()
        )

    def is_new(self, xid: int, since: int) -> bool:
        """Whether a transaction may not have ended at this watermark."""
        return xid >= since

    def told(self, seen: Tables, code: UUID) -> Checkout | None:
        """What is told of a checkout."""
        return seen.told(code)

    def note(self, sale_id: int, batch: int, items: Collection[Item]) -> None:
        """Say which items a batch has changed."""
        if items:
            assert self.xid is not None
            self.written.changes[sale_id, self.xid, batch] = tuple(item.item_id for item in items)

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

    def _can_be_held(self, sale_id: int, item: Item, wish: Wish) -> bool:
        return item.sale_id == sale_id and self.is_as_seen(item, wish) and self.may_be_held(item)

    def _checkout(self, code: UUID) -> Checkout:
        """The newest version of a row."""
        return self.written.checkouts.get(code) or self.database.checkouts[code]

    def _close(self, code: UUID, **changes: Any) -> None:
        """Say in a checkout what became of it."""
        self.written.checkouts[code] = self._checkout(code)._replace(**changes)

    async def _locked(
        self, sale_id: int, wanted: Wanted, fits: Callable[[Item], bool], *, skip: bool = False
    ) -> list[Item]:
        """Lock the items that hold these codes and fit, one after the other; the newest versions.

        With ``skip``, those alone that nobody has locked.
        """
        seen, locked = self._seen(), []
        for id_, code in wanted:
            if id_ is None or id_ not in seen.items or seen.items[id_].sale_id != sale_id:
                continue
            if not self.has_code(seen.items[id_], code) or not fits(seen.items[id_]):
                continue
            if await self._lock(("item", id_), skip=skip):
                item = self._item(id_)  # somebody may have been faster
                if self.has_code(item, code) and fits(item):
                    locked.append(item)
        return locked

    async def _give_back(self, sale_id: int, items: list[Item], state: str, batch: int) -> list[Item]:
        owed: Counter[int] = Counter()
        for item in items:
            assert item.user_id is not None
            assert item.code is not None
            self._close(item.code, state=state)
            self._write(
                item._replace(state="available", user_id=None, code=None, held_until=None, purchased_at=None)
            )
            owed[item.user_id] += 1
        await self.database.pace()
        self.note(sale_id, batch, items)
        for user_id in sorted(owed):
            await self._lock(("allowance", sale_id, user_id))
        for user_id, count in owed.items():
            await self.give_back(sale_id, user_id, count)
        return items


def _after(moment: float | None, now: float) -> bool:
    return moment is not None and moment > now
