"""What a worker saves: its batches of holds, of purchases and of releases, each as one statement.

Batches are clocked by their own commits, by sale: while one is being saved, the next one fills.
"""

import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from batching import KeyedProcessor, Undecided
from batching.processor import Load, Save
from sales import limits, metrics
from sales.codes import place_of
from sales.connections import Deadlocked
from sales.inventory import Hold, HoldBatch
from sales.memory import Memory
from sales.patience import patient
from sales.receipts import settled_receipts
from sales.records import Changed, KeyUse, Receipt
from sales.refusals import (
    ALREADY_PURCHASED,
    CHECKOUT_EXPIRED,
    DATABASE_UNAVAILABLE,
    OUTCOME_UNKNOWN,
    UNKNOWN_CODE,
    DatabaseFailure,
    OutcomeUnknown,
    Reason,
    Refusal,
)
from sales.storage import Storage

logger = logging.getLogger(__name__)

R = TypeVar("R")
W = TypeVar("W", Hold, "Settlement")


@dataclass(eq=False, slots=True)
class Settlement:
    """One caller's wish to buy, or to give back, what a code holds."""

    code: UUID


SettlementBatch = list[Settlement]


@dataclass(frozen=True, slots=True)
class _Settled:
    """Who of a batch did not get what they wanted: why that is may be asked; or the save has failed."""

    left_out: list[Settlement]
    failed: dict[Settlement, Exception]


class Repeated(Exception):
    """A hold was not taken because its key was used before, for this."""

    def __init__(self, use: KeyUse) -> None:
        super().__init__(use)
        self.use = use


class Saving:
    """The batches of one worker, by the id of their sale; `sales.runtime` opens and closes them.

    Closing saves what was accepted. Whoever submits gets `BatchError`, a `Refusal`, or `Repeated`.
    """

    def __init__(self, storage: Storage, memory: Memory) -> None:
        self._storage = storage
        self._memory = memory
        self.checkouts = clocked_by_commits(self._begin_holds, self._save_holds)
        self.purchases = clocked_by_commits(self._begin_settlements, self._save_purchases)
        self.releases = clocked_by_commits(self._begin_settlements, self._save_releases)

    # --- holds

    async def _begin_holds(self, sale_id: int) -> HoldBatch:
        return HoldBatch(self._memory.inventories[sale_id], self._memory.clock.now())

    async def _save_holds(self, sale_id: int, batch: HoldBatch) -> Mapping[Hold, Exception] | None:
        """Save the holds that a batch decided on; returns why some were not, by hold."""
        inventory, holds = batch.inventory, batch.holds.values()
        with _faults_logged():
            with metrics.BATCH_SECONDS.labels("checkout").time():
                if batch.needs_sweep:
                    with contextlib.suppress(Deadlocked):  # holds that count on it are stale then
                        self._memory.learn(await self._storage.sweep(sale_id, inventory.lapsed_of(holds)))
                try:
                    granted = await self._storage.hold(inventory.sale, holds)
                except OutcomeUnknown:
                    return _all_unknown(holds)
            metrics.BATCH_SIZE.labels("checkout").observe(len(batch.holds))
            if granted.saved is not None:
                self._memory.learn(granted.saved)
            failures: dict[Hold, Exception] = {hold: Repeated(use) for hold, use in granted.repeated.items()}
            if granted.stale:
                metrics.STALE.inc(len(granted.stale))
                with contextlib.suppress(DatabaseFailure):  # the batch itself is committed
                    await self._memory.refresh(inventory, [hold.item_id for hold in granted.stale])
                failures |= {hold: Undecided() for hold in granted.stale}
            return failures

    # --- purchases and releases

    async def _begin_settlements(self, sale_id: int) -> SettlementBatch:
        return []

    async def _save_purchases(
        self, sale_id: int, batch: SettlementBatch
    ) -> Mapping[Settlement, Exception] | None:
        """Buy what the codes of a batch hold; returns why some were not bought, by settlement."""
        with _faults_logged():
            settled = await self._settle(
                "purchase", sale_id, batch, self._storage.purchase, self._memory.learn_sold
            )
            try:
                found = await self._receipts(settled.left_out)
            except (DatabaseFailure, TimeoutError):  # the others of the batch are committed all the same
                return settled.failed | {s: Refusal(DATABASE_UNAVAILABLE) for s in settled.left_out}
            return settled.failed | {s: _why(found.get(s.code)) for s in settled.left_out}

    async def _save_releases(
        self, sale_id: int, batch: SettlementBatch
    ) -> Mapping[Settlement, Exception] | None:
        """Give back what the codes of a batch hold; returns why some were not given back, by settlement."""
        with _faults_logged():
            settled = await self._settle("release", sale_id, batch, self._storage.release, self._memory.learn)
            try:
                found = await self._receipts(settled.left_out)
            except (DatabaseFailure, TimeoutError):  # a first try that was lost may have given them back
                return settled.failed | _all_unknown(settled.left_out)
            # Giving back what was given back is no failure: the caller may not have had the first answer.
            return settled.failed | {
                settlement: _why(receipt)
                for settlement in settled.left_out
                if (receipt := found.get(settlement.code)) is None or receipt.state != "released"
            }

    async def _settle(
        self,
        call: str,
        sale_id: int,
        batch: SettlementBatch,
        save: Callable[[int, set[UUID]], Awaitable[Changed]],
        learn: Callable[[Changed], None],
    ) -> _Settled:
        """Save a batch, each sale of it in one statement, and learn what that has changed."""
        done: set[UUID] = set()
        failed: dict[UUID, Reason] = {}
        with metrics.BATCH_SECONDS.labels(call).time():
            for of, codes in (await self._by_sale(sale_id, _codes(batch))).items():
                try:
                    changed = await save(of, codes)
                except DatabaseFailure as failure:
                    failed |= dict.fromkeys(codes, failure.reason)
                else:
                    learn(changed)
                    done |= changed.codes
        metrics.BATCH_SIZE.labels(call).observe(len(batch))
        settled = _Settled([], {})
        if len(done) == len(batch):
            return settled
        for settlement in batch:
            if settlement.code in done:  # a code counts for one of them alone
                done.remove(settlement.code)
            elif (reason := failed.get(settlement.code)) is None:
                settled.left_out.append(settlement)
            else:
                settled.failed[settlement] = _failed(settlement.code, reason)
        return settled

    async def _by_sale(self, sale_id: int, codes: set[UUID]) -> dict[int, set[UUID]]:
        """The codes of a batch by their sale: it is one, but for codes of sales that are not loaded.

        Those may be of any sale that people can think of, so it is asked which of them there are.
        """
        if sale_id:
            return {sale_id: codes}
        by_sale: dict[int, set[UUID]] = {}
        for code in codes:
            if (place := place_of(code)) is not None:
                by_sale.setdefault(place[0], set()).add(code)
        known = await self._storage.known_sales(by_sale)
        return {sale_id: codes for sale_id, codes in by_sale.items() if sale_id in known}

    async def _receipts(self, settlements: list[Settlement]) -> Mapping[UUID, Receipt]:
        if not settlements:
            return {}
        async with patient(limits.WHY_TIMEOUT):
            return await settled_receipts(self._storage, self._memory, _codes(settlements))


def clocked_by_commits(load: Load[int, R], save: Save[int, R] | None = None) -> KeyedProcessor[int, R]:
    """Batches by sale, each sent when the one before is done; sales that follow each other never wait for
    each other."""
    return KeyedProcessor(
        load,
        save,
        min_duration=0,
        max_duration=limits.SAVE_TIMEOUT,
        max_size=limits.MAX_BATCH,
        max_pending=limits.MAX_PENDING,
        lane_for_key=_lane_for_sale,
    )


def _lane_for_sale(sale_id: int, lanes: int) -> int:
    return sale_id % lanes


@contextlib.contextmanager
def _faults_logged() -> Iterator[None]:
    """Log what is no refusal: a fault of ours, of which callers are only told what it may mean."""
    try:
        yield
    except Refusal:
        raise
    except Exception:
        logger.exception("a batch failed")
        raise


def _codes(settlements: Iterable[Settlement]) -> set[UUID]:
    return {settlement.code for settlement in settlements}


def _all_unknown(wishes: Iterable[W]) -> dict[W, Exception]:
    return {wish: _unknown(wish.code) for wish in wishes}


def _failed(code: UUID, reason: Reason) -> Refusal:
    return _unknown(code) if reason is OUTCOME_UNKNOWN else Refusal(reason)


def _unknown(code: UUID) -> Refusal:
    return Refusal(OUTCOME_UNKNOWN.having(code=str(code)))


def _why(receipt: Receipt | None) -> Refusal:
    """Why a code could not be settled."""
    return Refusal(_reason(receipt))


def _reason(receipt: Receipt | None) -> Reason:
    if receipt is None:
        return UNKNOWN_CODE
    if receipt.state == "purchased":
        return ALREADY_PURCHASED.having(receipt=receipt)
    if receipt.state == "held":
        # It could have been: the statement was lost, and so was what it would have done. Or somebody who
        # came in time is still at it.
        return DATABASE_UNAVAILABLE
    return CHECKOUT_EXPIRED.having(state=receipt.state)
