"""What a worker saves: its batches of holds, of purchases and of releases, each as one statement.

Batches are clocked by their own commits, by sale: while one is being saved, the next one fills.
"""

import contextlib
import logging
from collections.abc import Awaitable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from batching import KeyedProcessor, Undecided
from batching.processor import Load, Save
from sales import limits, metrics
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
                    self._memory.learn(await self._storage.sweep(sale_id))
                try:
                    granted = await self._storage.hold(inventory.sale, holds)
                except OutcomeUnknown:
                    return _all_unknown(holds)
            metrics.BATCH_SIZE.labels("checkout").observe(len(batch.holds))
            if (known := self._memory.of_server(sale_id, granted.server)) is not None:
                known.learn(granted.rows)
            failures: dict[Hold, Exception] = {hold: Repeated(use) for hold, use in granted.repeated.items()}
            if granted.stale:
                metrics.STALE.inc(len(granted.stale))
                with contextlib.suppress(DatabaseFailure):  # the batch itself is committed
                    await self._memory.refresh(inventory)
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
            try:
                left_out = await self._settle("purchase", batch, self._storage.purchase(_codes(batch)))
            except OutcomeUnknown:
                return _all_unknown(batch)
            try:
                found = await self._receipts(left_out)
            except (DatabaseFailure, TimeoutError):  # the others of the batch are committed all the same
                return {settlement: Refusal(DATABASE_UNAVAILABLE) for settlement in left_out}
            return {settlement: _why(found.get(settlement.code)) for settlement in left_out}

    async def _save_releases(
        self, sale_id: int, batch: SettlementBatch
    ) -> Mapping[Settlement, Exception] | None:
        """Give back what the codes of a batch hold; returns why some were not given back, by settlement."""
        with _faults_logged():
            try:
                left_out = await self._settle("release", batch, self._storage.release(_codes(batch)))
            except OutcomeUnknown:
                return _all_unknown(batch)
            try:
                found = await self._receipts(left_out)
            except (DatabaseFailure, TimeoutError):  # a first try that was lost may have given them back
                return _all_unknown(left_out)
            # Giving back what was given back is no failure: the caller may not have had the first answer.
            return {
                settlement: _why(receipt)
                for settlement in left_out
                if (receipt := found.get(settlement.code)) is None or receipt.state != "released"
            }

    async def _settle(self, call: str, batch: SettlementBatch, saved: Awaitable[Changed]) -> list[Settlement]:
        """Wait for the save of a batch, and learn what it has changed.

        Returns who did not get what they wanted: a code counts for one of them alone.
        """
        with metrics.BATCH_SECONDS.labels(call).time():
            changed = await saved
        metrics.BATCH_SIZE.labels(call).observe(len(batch))
        self._memory.learn(changed)
        done, left_out = set(changed.codes), []
        for settlement in batch:
            if settlement.code in done:
                done.remove(settlement.code)
            else:
                left_out.append(settlement)
        return left_out

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
