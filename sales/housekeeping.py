"""The housekeeping of a worker: a round twice a second, and one before it serves.

A round learns what others did, makes the next sale, sweeps what is over, marks what is bought, and notes how
it stands.
"""

import asyncio
import contextlib
import logging
import os
import time
from typing import Self

from asgiref.sync import sync_to_async
from django.db import DatabaseError, connection

from sales import limits, metrics
from sales.certifier import Certifier
from sales.conf import SaleOptions
from sales.connections import Deadlocked
from sales.inventory import Inventory
from sales.memory import Memory
from sales.refusals import DatabaseFailure
from sales.rotation import log_created, rotate
from sales.storage import Storage

logger = logging.getLogger(__name__)


class Housekeeping:
    """Keeps what one worker remembers true. Use it with ``async with``: opening it does the first round.

    ``database_answers``: whether the last round found a database that takes writes. Where it did not, each
    round tries again. Nothing is raised; what went wrong is logged.
    """

    def __init__(self, storage: Storage, memory: Memory, options: SaleOptions) -> None:
        self.database_answers = False
        self._storage = storage
        self._memory = memory
        self._options = options
        self._certifier = Certifier(storage)
        self._lost_at: float | None = None
        self._swept_at = 0.0
        self._unmarked: dict[int, int] = {}  # codes that the last round has left to be marked, by sale
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.do_round()
        if self.database_answers:
            with contextlib.suppress(DatabaseFailure):
                # What a service that is gone has left behind, in sales that nobody watches any more.
                for swept in await self._storage.sweep_all():
                    self._memory.learn(swept)
                for inventory in self._memory.started():
                    await self._storage.warm_up(inventory.sale)
        self._task = asyncio.create_task(self._go_on(), name="housekeeping")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._task is not None
        self._task.cancel()
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        finally:
            await self._certifier.close()

    async def _go_on(self) -> None:
        while True:
            await asyncio.sleep(limits.TICK)
            await self.do_round()

    async def do_round(self) -> None:
        """Do one round."""
        try:
            await self._memory.load_sales()
            await self._rotate()
            for inventory in self._memory.started():
                await self._memory.refresh(inventory)
            await self._sweep()
            await self._mark()
        except (DatabaseFailure, DatabaseError) as error:
            self._database_is_lost(str(error.__cause__ or error))
        except Exception:
            # This task must not die: the worker would grow stale without a word.
            logger.exception("housekeeping failed")
        else:
            self._database_is_back()
            self._certifier.look()
        self._note_figures()

    async def _rotate(self) -> None:
        """Have the next sale made by the middle of a period, or `limits.ROTATION_MARGIN` before it starts."""
        covered = self._memory.covered_until() - self._memory.clock.now()
        if covered < max(self._options.period / 2, limits.ROTATION_MARGIN):
            await sync_to_async(_rotate)(self._options)
            await self._memory.load_sales()

    async def _sweep(self) -> None:
        """Give back what is over, in this memory and in the database, in the sales that have begun."""
        now = self._memory.clock.now()
        if now - self._swept_at < limits.SWEEP_INTERVAL:
            return
        self._swept_at = now
        for inventory in self._memory.started():
            await self._sweep_sale(inventory)

    async def _sweep_sale(self, inventory: Inventory) -> None:
        inventory.expire(self._memory.clock.now())
        while inventory.unswept and (lapsed := inventory.lapsed(limits.SWEEP_BATCH)):
            before = inventory.unswept
            with contextlib.suppress(Deadlocked):  # the next one will do it
                self._memory.learn(await self._storage.try_sweep(inventory.sale.id, lapsed))
            if inventory.unswept == before:
                break  # somebody else is at it

    async def _mark(self) -> None:
        """Have some checkouts say that they are purchased, if this is a calm moment.

        What cannot be marked now, and what is too much to wait, is left to the certificate.
        """
        for sale_id, codes in list(self._memory.unmarked.items()):
            if codes and len(codes) == self._unmarked.get(sale_id):
                marked = codes[: limits.MARK_BATCH]
                with contextlib.suppress(DatabaseFailure):
                    await self._storage.mark(sale_id, marked)
                del codes[: len(marked)]
            del codes[: -limits.MAX_UNMARKED]
            self._unmarked[sale_id] = len(codes)
            if not codes and sale_id not in self._memory.inventories:
                del self._memory.unmarked[sale_id], self._unmarked[sale_id]

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

    def _note_figures(self) -> None:
        metrics.DATABASE.set(self.database_answers)
        if (current := self._memory.selling()) is not None:
            metrics.ITEMS.labels("sold").set(current.sold)
            metrics.ITEMS.labels("held").set(current.held + current.unswept)
            metrics.ITEMS.labels("available").set(current.available - current.unswept)
            metrics.SALE.set(current.sale.id)  # last: who reads it new finds its items
        self.note_what_lasts()

    def note_what_lasts(self) -> None:
        """Put into the metrics what stays true when this worker is gone."""
        metrics.flush_answers()
        if (sold_out := self._memory.last_sold_out()) is not None:
            metrics.SOLD_OUT.set(sold_out.id)


def _rotate(options: SaleOptions) -> None:
    try:
        log_created(rotate(options))
    finally:
        connection.close()
