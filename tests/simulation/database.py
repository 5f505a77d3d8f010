"""A model of the database: what is committed, who is at work, and who has locked what.

Transactions are those of PostgreSQL at READ COMMITTED. `tests.simulation.transaction` has their statements.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from uuid import UUID

from sales.models import SaleItem
from tests.simulation.replication import Record, Standby
from tests.simulation.rows import Checkout, Item, Sale, Tables

DEADLOCK_TIMEOUT = 0.1
"""Seconds for which a transaction waits for another before it looks whether they wait for each other."""

Clock = Callable[[], float]
Pace = Callable[[], Awaitable[None]]


class Deadlock(Exception):
    """Transactions wait for each other in a circle; this one is given up for the others."""


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
        self.running: list[OpenTransaction] = []
        self.locks: dict[Hashable, OpenTransaction] = {}
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
        self._xid = max((xid for _, xid, _ in self.committed.changes), default=1000)  # given again
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
        if record.written.items or record.written.checkouts:
            self.on_commit(record.written)

    def next_xid(self) -> int:
        """A new transaction id."""
        self._xid += 1
        return self._xid

    def oldest(self) -> int:
        """``pg_snapshot_xmin``: every transaction below has ended."""
        return min((t.xid for t in self.running if t.xid is not None), default=self._xid + 1)


class OpenTransaction:
    """What the database knows of a transaction: what it has written and locked, and when it has ended.

    It begins when it is made, and ends with `commit` or `rollback`, once.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        database.running.append(self)
        self.now = database.clock()
        self.xid: int | None = None
        self.written = Tables.empty()
        self._locks: list[Hashable] = []
        self._waiters: list[asyncio.Future[None]] = []
        self._ended = False
        self._record: Record | None = None
        self.waits_for: OpenTransaction | None = None

    @property
    def is_blocked(self) -> bool:
        """Whether it waits for another one."""
        return self.waits_for is not None

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
        item = item._replace(version=item.version + 1)
        self.written.items[SaleItem.id_of(item.sale_id, item.item_id)] = item
        return item

    async def _lock(self, key: Hashable, *, skip: bool = False) -> bool:
        """Lock a row, once its present owner has ended; with ``skip``, return whether that was possible.

        Raises `Deadlock`.
        """
        locks = self.database.locks
        await self.database.pace()
        while (owner := locks.get(key)) is not None and owner is not self:
            if skip:
                return False
            self.waits_for = owner
            try:
                await self._wait_for(owner)
            finally:
                self.waits_for = None
        assert not self._ended, f"a transaction that has ended wants to lock {key}"
        if owner is None:
            locks[key] = self
            self._locks.append(key)
        if self.xid is None:
            self.xid = self.database.next_xid()
        return True

    async def _wait_for(self, owner: "OpenTransaction") -> None:
        """Wait until the owner of a row has ended. Looks once, as PostgreSQL does, whether it ever will."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        owner._waiters.append(waiter)
        await asyncio.wait([waiter], timeout=DEADLOCK_TIMEOUT)
        if not waiter.done():
            found: list[OpenTransaction] = []
            other = self.waits_for
            while other is not None and other not in found:  # it may be a circle of others
                found.append(other)
                other = other.waits_for
            if self in found:
                raise Deadlock
            await waiter

    def _end(self) -> None:
        self._ended = True
        self.database.running.remove(self)
        for key in self._locks:
            del self.database.locks[key]
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)


async def _at_once() -> None:
    """Nobody comes in between."""
