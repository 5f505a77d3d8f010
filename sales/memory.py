"""What a worker remembers: the sales that are not over, and how far it has read the rows of each."""

import time
from collections.abc import Collection
from uuid import UUID

from sales import limits
from sales.codes import place_of
from sales.inventory import Inventory, SaleFacts
from sales.records import Changed, Mark
from sales.refusals import UNKNOWN_CODE, Refusal
from sales.storage import Storage


class DatabaseClock:
    """The database's time by this process's monotonic clock: steps of the wall clock do not matter."""

    def __init__(self) -> None:
        self.offset = time.time() - time.monotonic()

    def now(self) -> float:
        """Seconds since the epoch, as the database would say."""
        return time.monotonic() + self.offset


class Memory:
    """The inventories of one worker, and the clock by which they are judged.

    It learns what this worker committed at once, and what others did with each `refresh`. Its coroutines
    raise `DatabaseUnavailable`; cancelling them leaves what was known before.
    """

    def __init__(self, storage: Storage) -> None:
        self.clock = DatabaseClock()
        self.inventories: dict[int, Inventory] = {}
        self._storage = storage
        self.unmarked: dict[int, list[UUID]] = {}
        """Codes that this worker has sold items by and whose checkouts do not say so yet, by sale."""
        self._marks: dict[int, Mark] = {}
        self._own: dict[int, list[int]] = {}  # batches of this worker that may be after the mark, by sale
        self._last_selling: Inventory | None = None

    # --- questions

    def selling(self) -> Inventory | None:
        """The inventory of the current sale, if one is known."""
        now = self.clock.now()
        # Nearly always the one of the last question.
        if (last := self._last_selling) is not None and last.sale.starts_at <= now < last.sale.ends_at:
            return last
        for inventory in self.inventories.values():
            if inventory.sale.starts_at <= now < inventory.sale.ends_at:
                self._last_selling = inventory
                return inventory
        return None

    def started(self) -> list[Inventory]:
        """Those of the sales in which something can be held."""
        now = self.clock.now()
        return [inventory for inventory in self.inventories.values() if inventory.sale.starts_at <= now]

    def next_starts_at(self) -> float | None:
        """When the next sale starts, in seconds since the epoch; ``None`` where that is not known."""
        now = self.clock.now()
        starts = [i.sale.starts_at for i in self.inventories.values() if i.sale.starts_at > now]
        current = self.selling()
        return min(starts, default=current.sale.ends_at if current else None)

    def covered_until(self) -> float:
        """The end of the sales that follow each other without a gap from now on."""
        until = self.clock.now()
        for sale in sorted((i.sale for i in self.inventories.values()), key=starts_at):
            if sale.starts_at <= until < sale.ends_at:
                until = sale.ends_at
        return until

    def last_sold_out(self) -> SaleFacts | None:
        """The last sale of which every item is sold; it may be over by now."""
        sold_out = [i.sale for i in self.inventories.values() if i.sold == i.sale.items]
        return max(sold_out, key=starts_at, default=None)

    def sale_of(self, code: UUID) -> int:
        """The id of the sale that a code belongs to; 0 for all that this worker has not loaded.

        Raises `Refusal` (`UNKNOWN_CODE`) for a UUID that cannot be one of our codes.
        """
        if (place := place_of(code)) is None:
            raise Refusal(UNKNOWN_CODE)
        sale_id, item_id = place
        inventory = self.inventories.get(sale_id)
        if inventory is None:
            return 0
        if item_id >= inventory.sale.items:
            raise Refusal(UNKNOWN_CODE)
        return sale_id

    def of_server(self, sale_id: int, server: int) -> Inventory | None:
        """The inventory that may learn rows of this server.

        One that was loaded from another server must not: that may have other rows. The next `refresh`
        finds whatever is left out.
        """
        mark = self._marks.get(sale_id)
        return self.inventories[sale_id] if mark is not None and mark.server == server else None

    # --- learning

    def learn(self, changed: Changed) -> None:
        """Take in what this worker has committed."""
        if changed.rows and (inventory := self.of_server(changed.sale_id, changed.server)) is not None:
            inventory.learn(changed.rows)
            self._own.setdefault(changed.sale_id, []).append(changed.batch)

    def learn_sold(self, changed: Changed) -> None:
        """The same of a purchase."""
        self.learn(changed)
        self.unmarked.setdefault(changed.sale_id, []).extend(changed.codes)

    async def load_sales(self) -> None:
        """Know the sales that are not over, with the database's time, and forget the others."""
        server, self.clock.offset, sales = await self._storage.sales()
        for sale in sales:
            if (mark := self._marks.get(sale.id)) is not None and mark.server == server:
                self.inventories[sale.id].sale = sale
            else:
                await self._load(sale)
        for gone in self.inventories.keys() - {sale.id for sale in sales}:
            del self.inventories[gone], self._marks[gone]
            for others in (self._own, self.unmarked):
                others.pop(gone, None)
        self._last_selling = None  # the sales may have changed

    async def refresh(self, inventory: Inventory, item_ids: Collection[int] = ()) -> None:
        """Learn what was committed since the last time, by anybody; on another server, everything.

        And how these items are: somebody may have changed them without saying so.
        """
        sale_id = inventory.sale.id
        if (since := self._marks.get(sale_id)) is None:
            return  # over, and dropped while a last batch was saved
        own = self._own.setdefault(sale_id, [])
        known = own[:]
        mark, rows = await self._storage.changes(sale_id, since, known=known, item_ids=item_ids)
        if mark.server != since.server:
            await self._load(inventory.sale)
        elif (now := self._marks.get(sale_id)) is not None and now.server == mark.server:
            self.inventories[sale_id].learn(rows)
            self._marks[sale_id] = mark
            del own[: len(known)]  # those after the new mark may be read once more, which does no harm

    async def _load(self, sale: SaleFacts) -> None:
        """Know a sale by its rows alone, whatever was known of it from another server."""
        mark, rows = await self._storage.load(sale.id)
        inventory = Inventory(sale, rows)
        while len(rows) == limits.LOAD_CHUNK:
            # What is changed meanwhile is after the mark, whether it was read in time or not.
            other, rows = await self._storage.load(sale.id, rows[-1].item_id + 1)
            if other.server != mark.server:
                return  # the next look begins again
            inventory.learn(rows)
        if self.of_server(sale.id, mark.server) is not None:
            return  # loaded by somebody else meanwhile, and kept up since
        self.inventories[sale.id] = inventory
        self._marks[sale.id] = mark
        self._last_selling = None


def starts_at(sale: SaleFacts) -> float:
    """By which sales are in order."""
    return sale.starts_at
