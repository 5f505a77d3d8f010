"""All that one worker process owns, put together: its connections, its memory, its batches, its housekeeping.

And what it reads for who asks: each kind of question is batched, so that whoever only reads shares a
connection, and the others are for the sale.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Self, TypeVar
from uuid import UUID

from batching import Batcher, BatchError
from sales import limits
from sales.admission import Admission
from sales.conf import SaleOptions
from sales.housekeeping import Housekeeping
from sales.inventory import Inventory
from sales.memory import Memory
from sales.receipts import receipts
from sales.records import Counts, KeyUse, Receipt
from sales.refusals import DATABASE_UNAVAILABLE, NO_SALE, Reason, Refusal, refusal_of
from sales.saving import Saving, clocked_by_commits
from sales.storage import Storage

J = TypeVar("J")
R = TypeVar("R")


class Runtime:
    """One worker's share of the service. Use it with ``async with``, in one event loop.

    Opening it loads the sales where the database answers; where it does not, opening succeeds all the
    same, and the sales are loaded as soon as it does (see `ready`). Closing it saves what was accepted.
    """

    def __init__(self, conninfo: str, options: SaleOptions) -> None:
        self.draining = False
        self.admission = Admission(limits.MAX_PENDING)
        self.storage = Storage(conninfo)
        self.memory = Memory(self.storage)
        self.saving = Saving(self.storage, self.memory)
        self.housekeeping = Housekeeping(self.storage, self.memory, options)
        self._stack = AsyncExitStack()
        self._looked_at = 0.0
        self._looks = clocked_by_commits(self._look)
        self._receipts = _reader(self._read_receipts)
        self._key_uses = _reader(self._read_key_uses)
        self._counts = _reader(self._read_counts)
        self._certificates = _reader(self._read_certificates)

    async def __aenter__(self) -> Self:
        for part in (self.storage, self.housekeeping):
            await self._stack.enter_async_context(part)
        for processor in (self.saving.checkouts, self.saving.purchases, self.saving.releases, self._looks):
            await self._stack.enter_async_context(processor)
        for reader in (self._receipts, self._key_uses, self._counts, self._certificates):
            await self._stack.enter_async_context(reader)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.draining = True
        await self._stack.aclose()
        self.housekeeping.note_what_lasts()

    @property
    def ready(self) -> bool:
        """Whether this worker can sell: the current sale is loaded, the database answers, no drain."""
        return not self.draining and self.housekeeping.database_answers and self.memory.selling() is not None

    def current(self) -> Inventory:
        """The inventory of the current sale. Raises `Refusal` (`why_no_sale`)."""
        if (inventory := self.memory.selling()) is not None:
            return inventory
        raise Refusal(self.why_no_sale())

    def why_no_sale(self) -> Reason:
        """What it means that no sale is known: there is none, or it could not be loaded."""
        return NO_SALE if self.housekeeping.database_answers else DATABASE_UNAVAILABLE

    # --- what is read for who asks. Who leaves is not read for any more.

    async def look(self, inventory: Inventory) -> Inventory:
        """Learn what any worker committed before this call, unless the database does not answer in time.

        Returns the inventory that knows it, which is a new one where the server is another one now.

        All who ask at the same time share one look, and looks keep `limits.LOOK_INTERVAL` between them.
        Where too many ask, the others do without.
        """
        if self.housekeeping.database_answers:
            with contextlib.suppress(BatchError, TimeoutError, Refusal), self.admission.entered("look"):
                async with asyncio.timeout(limits.LOOK_TIMEOUT):
                    await self._looks.run(inventory.sale.id, _nothing_to_do)
        return self.memory.inventories.get(inventory.sale.id, inventory)

    async def receipt(self, code: UUID) -> Receipt | None:
        """What became of a checkout, from the database. Raises `Refusal`."""
        with self._reading():
            return await self._receipts.run(code)

    async def key_use(self, sale_id: int, user_id: int, key: str) -> KeyUse | None:
        """What this user was granted with this key before, from the database. Raises `Refusal`."""
        with self._reading():
            return await self._key_uses.run((sale_id, user_id, key))

    async def counts(self, sale_id: int) -> Counts | None:
        """Any sale and its counts, from the database. Raises `Refusal`."""
        with self._reading():
            return await self._counts.run(sale_id)

    async def certificate(self, sale_id: int) -> tuple[float, str | None] | None:
        """When a sale is over and its certificate, from the database. Raises `Refusal`."""
        with self._reading():
            return await self._certificates.run(sale_id)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """One read more, for as long as it is waited for. Raises the `Refusal` that a failure means."""
        with self.admission.entered("read"):
            try:
                yield
            except BatchError as error:
                raise refusal_of(error) from error

    async def _look(self, sale_id: int) -> None:
        await asyncio.sleep(self._looked_at + limits.LOOK_INTERVAL - time.monotonic())
        self._looked_at = time.monotonic()
        if (inventory := self.memory.inventories.get(sale_id)) is not None:
            await self.memory.refresh(inventory)

    async def _read_receipts(self, codes: list[UUID]) -> list[Receipt | None]:
        found = await receipts(self.storage, self.memory, set(codes))
        return [found.get(code) for code in codes]

    async def _read_key_uses(self, asked: list[tuple[int, int, str]]) -> list[KeyUse | None]:
        found: dict[tuple[int, int, str], KeyUse] = {}
        for sale_id in {sale_id for sale_id, _, _ in asked}:  # two, at a boundary
            keys = [(user_id, key) for of, user_id, key in asked if of == sale_id]
            found |= {
                (sale_id, *key): use for key, use in (await self.storage.key_uses(sale_id, keys)).items()
            }
        return [found.get(key) for key in asked]

    async def _read_counts(self, sale_ids: list[int]) -> list[Counts | None]:
        counts = await self.storage.counts(set(sale_ids))
        return [counts.get(sale_id) for sale_id in sale_ids]

    async def _read_certificates(self, sale_ids: list[int]) -> list[tuple[float, str | None] | None]:
        certificates = await self.storage.certificates(set(sale_ids))
        return [certificates.get(sale_id) for sale_id in sale_ids]


def _reader(read: Callable[[list[J]], Awaitable[list[R]]]) -> Batcher[J, R]:
    """Reads for all who ask at the same time, whatever each asks for, with one statement after the other."""
    return Batcher(
        read,
        max_size=limits.MAX_BATCH,
        max_wait=0,
        max_concurrent=1,
        max_pending=limits.MAX_PENDING,  # so that those who left are dropped, should the database be silent
        when_full="raise",
    )


def _nothing_to_do(resource: None) -> None:
    """The operation of those who only want the load."""
