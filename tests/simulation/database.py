"""A model of the database: the tables of a sale, and what each statement of `sales.statements` does to them.

Transactions are those of PostgreSQL at READ COMMITTED: a statement sees what was committed when it began,
rows are locked in the order in which the statement locks them, and what it finds behind a lock is looked
at again. `tests.simulation.test_model` compares it with the real one.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

from sales.models import SaleItem
from tests.simulation.replication import Record, Standby

STATES = {"available": 0, "held": 1, "sold": 2}
"""What `sales.statements.ITEM` makes of a state."""

Clock = Callable[[], float]
Pace = Callable[[], Awaitable[None]]


class LimitExceeded(Exception):
    """The constraint ``allowance_within_limit``."""


class KeyUsed(Exception):
    """The primary key of ``sales_idempotencykey``."""


class ConstraintViolated(Exception):
    """Any other constraint; no statement of ours should meet one."""


class Sale(NamedTuple):
    """A row of ``sales_sale``, as `sales.statements.SALE` reads it."""

    id: int
    starts_at: float
    ends_at: float
    items: int
    user_limit: int
    checkout_ttl: int
    paused: bool


class Counts(NamedTuple):
    """A `Sale` and its counts."""

    id: int
    starts_at: float
    ends_at: float
    items: int
    user_limit: int
    checkout_ttl: int
    paused: bool
    sold: int
    held: int


class Item(NamedTuple):
    """A row of ``sales_saleitem``, with the transaction that wrote it."""

    sale_id: int
    item_id: int
    version: int = 0
    state: str = "available"
    user_id: int | None = None
    code: UUID | None = None
    held_until: float | None = None
    purchased_at: float | None = None
    xmin: int = 0

    @property
    def columns(self) -> tuple[int, int, int, int | None, float | None]:
        """`sales.statements.ITEM`."""
        return self.item_id, self.version, STATES[self.state], self.user_id, self.held_until


class Checkout(NamedTuple):
    """A row of ``sales_checkout``."""

    code: UUID
    sale_id: int
    item_id: int
    user_id: int
    created_at: float
    expires_at: float
    purchased_at: float | None
    state: str
    batch: int | None = None
    """The batch that bought it."""


class Key(NamedTuple):
    """An ``Idempotency-Key``, and the item that was asked for with it."""

    text: str
    item_id: int | None


class Wish(NamedTuple):
    """One row of a batch of holds."""

    id: int
    version: int
    user_id: int
    code: UUID
    key: Key | None = None


@dataclass
class Tables:
    """Rows by primary key."""

    items: dict[int, Item]
    checkouts: dict[UUID, Checkout]
    allowances: dict[tuple[int, int], int]
    keys: dict[tuple[int, int, str], tuple[int | None, UUID]]
    """By sale, user and text: the item that was asked for, and the code that was granted."""

    @classmethod
    def empty(cls) -> "Tables":
        """No rows."""
        return cls({}, {}, {}, {})

    def update(self, other: "Tables") -> None:
        """Take over the rows of the other."""
        self.items.update(other.items)
        self.checkouts.update(other.checkouts)
        self.allowances.update(other.allowances)
        self.keys.update(other.keys)

    def copy(self) -> "Tables":
        """A snapshot: rows never change."""
        return Tables(self.items.copy(), self.checkouts.copy(), self.allowances.copy(), self.keys.copy())


class Database:
    """What is committed, and who is at work. ``pace`` is awaited wherever others may come in between."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.server = 1
        """Which server it is on: another one after each restart and failover."""
        self.standby: Standby | None = None
        self.pace: Pace = _at_once
        self.sales: dict[int, Sale] = {}
        self.committed = Tables.empty()
        self.running: list[Transaction] = []
        self.locks: dict[Hashable, Transaction] = {}
        self.on_commit: Callable[[Tables], None] = lambda changed: None
        self.on_renewal: Callable[[int], None] = lambda former: None
        self._xid = 1000

    @property
    def items(self) -> dict[int, Item]:
        """The committed items."""
        return self.committed.items

    @property
    def checkouts(self) -> dict[UUID, Checkout]:
        """The committed checkouts."""
        return self.committed.checkouts

    @property
    def allowances(self) -> dict[tuple[int, int], int]:
        """The committed allowances: how many items a user of a sale has taken."""
        return self.committed.allowances

    @property
    def keys(self) -> dict[tuple[int, int, str], tuple[int | None, UUID]]:
        """The committed keys."""
        return self.committed.keys

    def add_sale(self, sale: Sale) -> None:
        """Insert a sale with its items."""
        self.sales[sale.id] = sale
        for item_id in range(sale.items):
            self.items[SaleItem.id_of(sale.id, item_id)] = Item(sale.id, item_id)

    def live(self, now: float) -> list[Sale]:
        """The sales that are not over at this time, holds included, and of those to come the first."""
        sales = self.sales.values()
        first = min((sale.starts_at for sale in sales if sale.starts_at > now), default=now)
        return [
            sale for sale in sales if sale.ends_at + sale.checkout_ttl + 5 > now and sale.starts_at <= first
        ]

    @property
    def confirmed(self) -> Tables:
        """What no failover can undo."""
        return self.committed if self.standby is None else self.standby.tables

    def fail_over(self) -> None:
        """From now on this is the standby, with all that it has got and nothing else."""
        assert self.standby is not None
        for transaction in list(self.running):
            transaction.rollback()
        for record in self.standby.log[: self.standby.received]:
            if not record.is_seen:  # nobody on the primary saw it yet
                self.see(record)
        self.committed = self.standby.tables.copy()
        self._xid = max(item.xmin for item in self.items.values())  # ids are given again
        self.standby = Standby(self.committed.copy(), self.standby.pass_on)
        self.renew()

    def renew(self) -> None:
        """From now on it is on another server, or the same that was started again."""
        self.server += 1
        self.on_renewal(self.server - 1)

    def see(self, record: Record) -> None:
        """What a transaction has written is there for all."""
        record.is_seen = True
        self.committed.update(record.written)
        if record.written.items:
            self.on_commit(record.written)

    def begin(self) -> "Transaction":
        """Start a transaction."""
        transaction = Transaction(self)
        self.running.append(transaction)
        return transaction

    def next_xid(self) -> int:
        """A new transaction id."""
        self._xid += 1
        return self._xid

    def oldest(self) -> int:
        """``pg_snapshot_xmin``: every transaction below has ended."""
        return min((t.xid for t in self.running if t.xid is not None), default=self._xid + 1)


class Transaction:
    """One transaction; its methods are the statements. It ends with `commit` or `rollback`, once."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.now = database.clock()
        self.xid: int | None = None
        self.written = Tables.empty()
        self._locks: list[Hashable] = []
        self._waiters: list[asyncio.Future[None]] = []
        self._ended = False
        self._record: Record | None = None
        self.is_blocked = False
        """Whether it waits for another one."""

    def write_down(self) -> Record:
        """Put what was written into the log: it is committed, whoever sees it."""
        if self._record is None:
            standby = self.database.standby
            self._record = Record(self.written) if standby is None else standby.send(self.written)
        return self._record

    def commit(self) -> None:
        """What was written is there for all."""
        if self._ended:
            return
        record = self.write_down()
        self._end()
        self.database.see(record)

    def rollback(self) -> None:
        """Nothing happened."""
        if not self._ended:
            self._end()

    # --- reads

    async def sales(self) -> list[Sale]:
        """`sales.statements.LIVE`."""
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
        held = [item for item in rows if item.state == "held" and _after(item.held_until, self.now)]
        return Counts(*sale, sold=sum(item.state == "sold" for item in rows), held=len(held))

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
        found = [seen[code] for code in codes if code in seen]
        return [
            row._replace(state="expired") if row.state == "held" and row.expires_at <= self.now else row
            for row in found
        ]

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

    def _seen(self) -> Tables:
        """What a statement that begins now sees."""
        seen = self.database.committed.copy()
        seen.update(self.written)
        return seen

    def _item(self, id_: int) -> Item:
        """The newest version of a row that is locked by us."""
        return self.written.items.get(id_) or self.database.items[id_]

    def _allowance(self, sale_id: int, user_id: int) -> int:
        key = sale_id, user_id
        return self.written.allowances.get(key, self.database.allowances.get(key, 0))

    def _write(self, item: Item) -> Item:
        assert self.xid is not None
        item = item._replace(version=item.version + 1, xmin=self.xid)
        self.written.items[SaleItem.id_of(item.sale_id, item.item_id)] = item
        return item

    def _close(self, item: Item, **changes: Any) -> None:
        """Say in the checkout of a held item what became of it."""
        assert item.code is not None
        checkout = self.database.checkouts[item.code]
        self.written.checkouts[item.code] = checkout._replace(**changes)

    async def _locked_by_code(
        self, seen: Tables, wanted: Collection[tuple[int | None, UUID]], state: str | None = None
    ) -> list[Item]:
        """Lock the items that hold these codes, those with a checkout in this state; the newest versions."""
        locked = []
        for id_, code in sorted((id_, code) for id_, code in wanted if id_ is not None and id_ in seen.items):
            if not self.has_code(seen.items[id_], code) or not self.has_checkout(seen, code, state):
                continue
            await self._lock(("item", id_))
            if self.has_code(self._item(id_), code):
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

    async def _lock(self, key: Hashable, *, skip: bool = False) -> bool:
        """Lock a row, once its present owner has ended; with ``skip``, return whether that was possible."""
        locks = self.database.locks
        if not skip:
            await self.database.pace()
        while (owner := locks.get(key)) is not None and owner is not self:
            if skip:
                return False
            self.is_blocked = True
            try:
                await owner.wait()
            finally:
                self.is_blocked = False
        assert not self._ended, f"a transaction that has ended wants to lock {key}"
        if owner is None:
            locks[key] = self
            self._locks.append(key)
        if self.xid is None:
            self.xid = self.database.next_xid()
        return True

    async def wait(self) -> None:
        """Wait until this transaction has ended."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    def _end(self) -> None:
        self._ended = True
        self.database.running.remove(self)
        for key in self._locks:
            del self.database.locks[key]
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)


def _after(moment: float | None, now: float) -> bool:
    return moment is not None and moment > now


async def _at_once() -> None:
    """Nobody comes in between."""
