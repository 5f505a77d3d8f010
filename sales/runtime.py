"""All that one worker process owns: its connections, its inventories, its batches, its housekeeping."""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import UUID

from asgiref.sync import sync_to_async
from django.db import DatabaseError, connection

from batching import Batcher, BatchError, KeyedProcessor, Undecided
from batching.processor import Load, Save
from sales import metrics
from sales.admission import Admission
from sales.certifier import Certifier
from sales.codes import place_of
from sales.conf import SaleOptions
from sales.exceptions import (
    AlreadyPurchased,
    CheckoutExpired,
    DatabaseUnavailable,
    NoSale,
    OutcomeUnknown,
    Overloaded,
    Refusal,
    UnknownCode,
)
from sales.inventory import Hold, HoldBatch, Inventory, ItemRow, SaleFacts
from sales.rotation import log_created, rotate
from sales.storage import Changed, Counts, Keyed, Mark, Receipt, Storage

logger = logging.getLogger(__name__)

J = TypeVar("J")
R = TypeVar("R")

TICK = 0.5
"""Seconds between two rounds of housekeeping: what other workers did is known after one of them."""

LOOK_INTERVAL = 0.05
"""Seconds at least between two looks at the database for those who ask for the counts of a sale."""

LOOK_TIMEOUT = 1.0
"""Seconds that they wait for it at most, before they get the counts as this worker knows them."""

ROTATION_MARGIN = 2.0
"""Seconds before the end of the last known sale when the next one must exist at the latest."""

SAVE_TIMEOUT = 15.0
"""Seconds after which the saving of a batch is cancelled, should all time limits of the storage fail."""

MAX_PENDING = 10_000
"""Calls of one kind that may wait in a worker before more are refused."""

MAX_BATCH = 1_000
"""Operations saved in one statement."""


class DatabaseClock:
    """The database's time by this process's monotonic clock: steps of the wall clock do not matter."""

    def __init__(self) -> None:
        self.offset = time.time() - time.monotonic()

    def now(self) -> float:
        """Seconds since the epoch, as the database would say."""
        return time.monotonic() + self.offset


@dataclass(eq=False, slots=True)
class Settlement:
    """One caller's wish to buy, or to give back, what a code holds."""

    code: UUID


SettlementBatch = list[Settlement]


class Repeated(Exception):
    """A hold was not taken because its key was used before, for this."""

    def __init__(self, keyed: Keyed) -> None:
        super().__init__(keyed)
        self.keyed = keyed


class Runtime:
    """One worker's share of the service. Use it with ``async with``, in one event loop.

    Opening it loads the sales where the database answers; where it does not, opening succeeds all the
    same, and the sales are loaded as soon as it does (see `ready`). Closing it flushes what was accepted.
    """

    def __init__(self, conninfo: str, options: SaleOptions) -> None:
        self.options = options
        self.storage = Storage(conninfo)
        self.clock = DatabaseClock()
        self.inventories: dict[int, Inventory] = {}
        self._selling: Inventory | None = None
        self.admission = Admission(MAX_PENDING)
        self.draining = False
        self.database_answers = False
        self._lost_at: float | None = None
        self._marks: dict[int, Mark] = {}
        self._swept_at = 0.0
        self._looked_at = 0.0
        self._certifier = Certifier(self.storage)
        self._stack = contextlib.AsyncExitStack()
        self.checkouts = _processor(self._load_holds, self._save_holds)
        self.purchases = _processor(self._load_settlements, self._save_purchases)
        self.releases = _processor(self._load_settlements, self._save_releases)
        self._looks = _processor(self._look)
        # Whoever only reads shares one connection: the others are for the sale.
        self._receipts = _reader(self._load_receipts)
        self._keys = _reader(self._load_keyed)
        self._sales = _reader(self._load_counts)
        self._certificates = _reader(self._load_certificates)

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self.storage)
        self._stack.push_async_callback(self._certifier.close)
        await self._keep_house()
        if self.database_answers:
            with contextlib.suppress(DatabaseUnavailable):
                # What a service that is gone has left behind, in sales that nobody watches any more.
                for changed in await self.storage.sweep_all():
                    self._learn(changed.server, changed.rows)
        housekeeping = asyncio.create_task(self._housekeeping(), name="housekeeping")
        self._stack.push_async_callback(_cancelled, housekeeping)
        for processor in (self.checkouts, self.purchases, self.releases, self._looks):
            await self._stack.enter_async_context(processor)
        for reader in (self._receipts, self._keys, self._sales, self._certificates):
            await self._stack.enter_async_context(reader)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.draining = True
        await self._stack.aclose()
        metrics.flush_answers()
        self._tell_what_is_sold_out()

    # --- what services ask

    @property
    def ready(self) -> bool:
        """Whether this worker can sell: the current sale is loaded, the database answers, no drain."""
        return not self.draining and self.database_answers and self.selling() is not None

    def current(self) -> Inventory:
        """The inventory of the current sale.

        Raises `NoSale`, or `DatabaseUnavailable` where it may only be that it could not be loaded.
        """
        if (inventory := self.selling()) is not None:
            return inventory
        raise self.no_sale()

    def no_sale(self) -> type[Refusal]:
        """What it means that no sale is known."""
        return NoSale if self.database_answers else DatabaseUnavailable

    def selling(self) -> Inventory | None:
        """The inventory of the current sale, if one is known."""
        now = self.clock.now()
        # Nearly always the one of the last question.
        if (selling := self._selling) is not None and selling.sale.starts_at <= now < selling.sale.ends_at:
            return selling
        for inventory in self.inventories.values():
            if inventory.sale.starts_at <= now < inventory.sale.ends_at:
                self._selling = inventory
                return inventory
        return None

    async def look(self, inventory: Inventory) -> Inventory:
        """Learn what any worker committed before this call, unless the database does not answer in time.

        Returns the inventory that knows it, which is a new one where the server is another one now.

        All who ask at the same time share one look, and looks keep `LOOK_INTERVAL` between them. Where too
        many ask, the others do without.
        """
        if self.database_answers:
            with contextlib.suppress(BatchError, TimeoutError, Overloaded), self.admission.entered("look"):
                async with asyncio.timeout(LOOK_TIMEOUT):
                    await self._looks.run(inventory.sale.id, _nothing_to_do)
        return self.inventories.get(inventory.sale.id, inventory)

    # Each of these raises `BatchError`, or `Overloaded`. Who leaves is not read for any more.

    async def receipt(self, code: UUID) -> Receipt | None:
        """What became of a checkout, from the database."""
        with self.admission.entered("read"):
            return await self._receipts.run(code)

    async def keyed(self, sale_id: int, user_id: int, key: str) -> Keyed | None:
        """What this user was granted with this key before, from the database."""
        with self.admission.entered("read"):
            return await self._keys.run((sale_id, user_id, key))

    async def counts(self, sale_id: int) -> Counts | None:
        """Any sale and its counts, from the database."""
        with self.admission.entered("read"):
            return await self._sales.run(sale_id)

    async def certificate(self, sale_id: int) -> tuple[float, str | None] | None:
        """When a sale is over and its certificate, from the database."""
        with self.admission.entered("read"):
            return await self._certificates.run(sale_id)

    def next_starts_at(self) -> float | None:
        """When the next sale starts, in seconds since the epoch; ``None`` where that is not known."""
        now = self.clock.now()
        starts = [i.sale.starts_at for i in self.inventories.values() if i.sale.starts_at > now]
        current = self.selling()
        return min(starts, default=current.sale.ends_at if current else None)

    def key_of(self, code: UUID) -> int:
        """The sale whose batches a code belongs to; 0 for all that this worker has not loaded.

        Raises `UnknownCode` for a UUID that cannot be one of our codes.
        """
        if (place := place_of(code)) is None:
            raise UnknownCode
        inventory = self.inventories.get(place[0])
        if inventory is None:
            return 0
        if place[1] >= inventory.sale.items:
            raise UnknownCode
        return place[0]

    # --- batches

    async def _load_holds(self, sale_id: int) -> HoldBatch:
        return HoldBatch(self.inventories[sale_id], self.clock.now())

    async def _save_holds(self, sale_id: int, batch: HoldBatch) -> Mapping[Hold, Exception] | None:
        inventory = batch.inventory
        with metrics.BATCH_SECONDS.labels("checkout").time():
            if batch.needs_sweep:
                swept = await self.storage.sweep(sale_id)
                self._learn(swept.server, swept.rows)
            try:
                granted = await self.storage.hold(inventory.sale, batch.holds.values())
            except OutcomeUnknown:
                return {hold: OutcomeUnknown(code=str(hold.code)) for hold in batch.holds.values()}
        metrics.BATCH_SIZE.labels("checkout").observe(len(batch.holds))
        if (known := self._known(sale_id, granted.server)) is not None:
            known.learn(granted.rows)
        failures: dict[Hold, Exception] = {hold: Repeated(keyed) for hold, keyed in granted.repeated.items()}
        if granted.stale:
            metrics.STALE.inc(len(granted.stale))
            with contextlib.suppress(DatabaseUnavailable):  # the batch itself is committed
                await self._refresh(inventory)
            failures |= {hold: Undecided() for hold in granted.stale}
        return failures

    async def _look(self, sale_id: int) -> None:
        await asyncio.sleep(self._looked_at + LOOK_INTERVAL - time.monotonic())
        self._looked_at = time.monotonic()
        if (inventory := self.inventories.get(sale_id)) is not None:
            await self._refresh(inventory)

    async def _load_receipts(self, codes: list[UUID]) -> list[Receipt | None]:
        receipts = await self.storage.receipts(set(codes))
        return [receipts.get(code) for code in codes]

    async def _load_counts(self, sale_ids: list[int]) -> list[Counts | None]:
        counts = await self.storage.counts(set(sale_ids))
        return [counts.get(sale_id) for sale_id in sale_ids]

    async def _load_certificates(self, sale_ids: list[int]) -> list[tuple[float, str | None] | None]:
        certificates = await self.storage.certificates(set(sale_ids))
        return [certificates.get(sale_id) for sale_id in sale_ids]

    async def _load_keyed(self, jobs: list[tuple[int, int, str]]) -> list[Keyed | None]:
        found: dict[tuple[int, int, str], Keyed] = {}
        for sale_id in {job[0] for job in jobs}:  # two, at a boundary
            keys = [job[1:] for job in jobs if job[0] == sale_id]
            found |= {
                (sale_id, *key): keyed for key, keyed in (await self.storage.keyed(sale_id, keys)).items()
            }
        return [found.get(job) for job in jobs]

    async def _load_settlements(self, key: int) -> SettlementBatch:
        return []

    async def _save_purchases(
        self, key: int, batch: SettlementBatch
    ) -> Mapping[Settlement, Exception] | None:
        return await self._settle("purchase", self.storage.purchase, batch)

    async def _save_releases(self, key: int, batch: SettlementBatch) -> Mapping[Settlement, Exception] | None:
        failures = await self._settle("release", self.storage.release, batch)
        # Giving back what was given back is no failure: the caller may not have had the first answer.
        return {s: f for s, f in failures.items() if f.members.get("state") != "released"}

    async def _settle(
        self, kind: str, save: Callable[[Collection[UUID]], Awaitable[Changed]], batch: SettlementBatch
    ) -> dict[Settlement, Refusal]:
        with metrics.BATCH_SECONDS.labels(kind).time():
            try:
                changed = await save({settlement.code for settlement in batch})
            except OutcomeUnknown:
                return {wish: OutcomeUnknown(code=str(wish.code)) for wish in batch}
        metrics.BATCH_SIZE.labels(kind).observe(len(batch))
        self._learn(changed.server, changed.rows)
        return await self._failures(kind, batch, changed.codes)

    async def _failures(
        self, kind: str, batch: SettlementBatch, done: Collection[UUID]
    ) -> dict[Settlement, Refusal]:
        """Why members of a batch did not get what they wanted: one code counts for one of them only."""
        left = set(done)
        failed = []
        for settlement in batch:
            if settlement.code in left:
                left.remove(settlement.code)
            else:
                failed.append(settlement)
        if not failed:
            return {}
        try:
            receipts = await self.storage.receipts({settlement.code for settlement in failed})
        except DatabaseUnavailable:  # the others of the batch are committed all the same
            if kind == "purchase":
                return {settlement: DatabaseUnavailable() for settlement in failed}
            # A first try that was lost may have given it back.
            return {settlement: OutcomeUnknown(code=str(settlement.code)) for settlement in failed}
        return {settlement: _why(receipts.get(settlement.code)) for settlement in failed}

    def _learn(self, server: int, rows: Iterable[tuple[int, ItemRow]]) -> None:
        """Take in what was committed on this server."""
        for sale_id, row in rows:
            if (inventory := self._known(sale_id, server)) is not None:
                inventory.learn([row])

    def _known(self, sale_id: int, server: int) -> Inventory | None:
        """The inventory that may learn rows of this server.

        One that was loaded from another server must not: that may have other rows. The next look there
        finds whatever is left out.
        """
        mark = self._marks.get(sale_id)
        return self.inventories[sale_id] if mark is not None and mark.server == server else None

    # --- housekeeping

    async def _housekeeping(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            await self._keep_house()

    async def _keep_house(self) -> None:
        """One round: the sales and the clock, the next sale, what others did, what is over."""
        try:
            await self._load_sales()
            if self._covered_until() - self.clock.now() < max(self.options.period / 2, ROTATION_MARGIN):
                await sync_to_async(_rotate)(self.options)
                await self._load_sales()
            now = self.clock.now()
            started = [i for i in self.inventories.values() if i.sale.starts_at <= now]
            for inventory in started:
                await self._refresh(inventory)
            if now - self._swept_at >= 1:
                self._swept_at = now
                for inventory in started:
                    await self._sweep(inventory)
        except (DatabaseUnavailable, DatabaseError) as error:
            self._database_is_lost(str(error.__cause__ or error))
        except Exception:
            # This task must not die: the worker would grow stale without a word.
            logger.exception("housekeeping failed")
        else:
            self._database_is_back()
            self._certifier.look()
        metrics.flush_answers()
        metrics.DATABASE.set(self.database_answers)
        if (current := self.selling()) is not None:
            for state in ("sold", "held", "available"):
                metrics.ITEMS.labels(state).set(getattr(current, state))
            metrics.SALE.set(current.sale.id)  # last: who reads it new finds its items
        self._tell_what_is_sold_out()

    def _database_is_lost(self, reason: str) -> None:
        if self._lost_at is None:
            self._lost_at = time.monotonic()
            fields = {"pid": os.getpid(), "reason": reason.strip()}
            logger.error("database.lost", extra={"fields": fields})
        self.database_answers = False

    def _database_is_back(self) -> None:
        if self._lost_at is not None:
            fields = {"pid": os.getpid(), "seconds": round(time.monotonic() - self._lost_at, 1)}
            logger.info("database.back", extra={"fields": fields})
            self._lost_at = None
        self.database_answers = True

    def _tell_what_is_sold_out(self) -> None:
        # The last one sold out may be over by now.
        sold_out = [i.sale for i in self.inventories.values() if i.sold == i.sale.items]
        if sold_out:
            metrics.SOLD_OUT.set(max(sold_out, key=_start).id)

    async def _load_sales(self) -> None:
        server, self.clock.offset, sales = await self.storage.sales()
        for sale in sales:
            if (mark := self._marks.get(sale.id)) is not None and mark.server == server:
                self.inventories[sale.id].sale = sale
            else:
                await self._load(sale)
        for gone in self.inventories.keys() - {sale.id for sale in sales}:
            del self.inventories[gone], self._marks[gone]
        self._selling = None  # the sales may have changed

    async def _load(self, sale: SaleFacts) -> None:
        """Know a sale by its rows alone, whatever was known of it from another server."""
        mark, rows = await self.storage.load(sale.id)
        if (known := self._known(sale.id, mark.server)) is not None:
            known.learn(rows)  # loaded by somebody else meanwhile: it may know more already
            return
        self.inventories[sale.id] = Inventory(sale, rows)
        self._marks[sale.id] = mark
        self._selling = None

    async def _refresh(self, inventory: Inventory) -> None:
        """Learn what was committed since the last time, by anybody; on another server, everything."""
        sale_id = inventory.sale.id
        if (since := self._marks.get(sale_id)) is None:
            return  # over, and dropped while a last batch was saved
        mark, rows = await self.storage.changes(sale_id, since)
        if mark.server != since.server:
            await self._load(inventory.sale)
        elif (now := self._marks.get(sale_id)) is not None and now.server == mark.server:
            self.inventories[sale_id].learn(rows)
            self._marks[sale_id] = mark

    async def _sweep(self, inventory: Inventory) -> None:
        inventory.expire(self.clock.now())
        if inventory.has_expired:
            swept = await self.storage.try_sweep(inventory.sale.id)
            self._learn(swept.server, swept.rows)

    def _covered_until(self) -> float:
        """The end of the sales that follow each other without a gap from now on."""
        until = self.clock.now()
        for sale in sorted((i.sale for i in self.inventories.values()), key=_start):
            if sale.starts_at <= until < sale.ends_at:
                until = sale.ends_at
        return until


def _processor(load: Load[int, R], save: Save[int, R] | None = None) -> KeyedProcessor[int, R]:
    """Batches clocked by their own commits, by sale; sales that follow each other never share a lane."""

    async def saved(key: int, resource: R) -> Mapping[Any, BaseException] | None:
        assert save is not None
        try:
            return await save(key, resource)
        except Refusal:
            raise
        except Exception:
            logger.exception("a batch failed")  # a fault of ours; its callers are told what it may mean
            raise

    return KeyedProcessor(
        load,
        saved if save is not None else None,
        min_duration=0,
        max_duration=SAVE_TIMEOUT,
        max_size=MAX_BATCH,
        max_pending=MAX_PENDING,  # as in `_reader`
        lane_for_key=_lane_for_sale,
    )


def _reader(load: Callable[[list[J]], Awaitable[list[R]]]) -> Batcher[J, R]:
    """Reads for all who ask at the same time, whatever each asks for, with one statement after the other."""
    return Batcher(
        load,
        max_size=MAX_BATCH,
        max_wait=0,
        max_concurrent=1,
        max_pending=MAX_PENDING,  # so that those who left are dropped, should the database be silent
        when_full="raise",
    )


def _nothing_to_do(resource: None) -> None:
    """The operation of those who only want the load."""


def _lane_for_sale(sale_id: int, lanes: int) -> int:
    return sale_id % lanes


def _start(sale: SaleFacts) -> float:
    return sale.starts_at


def _rotate(options: SaleOptions) -> None:
    try:
        log_created(rotate(options))
    finally:
        connection.close()


def _why(receipt: Receipt | None) -> Refusal:
    """Why a code could not be settled."""
    if receipt is None:
        return UnknownCode()
    if receipt.state == "purchased":
        return AlreadyPurchased(receipt=receipt)
    if receipt.state == "held":
        # It could have been: the statement was lost, and so was what it would have done.
        return DatabaseUnavailable()
    return CheckoutExpired(state=receipt.state)


async def _cancelled(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
