"""Changes to SQL, and what they did to inventory: with `sales.reads` the only place that knows both.

Every change is one statement (`sales.statements`) for a whole batch, on an asynchronous connection.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Collection
from operator import attrgetter
from typing import Any, TypeVar
from uuid import UUID

from sales import limits, statements
from sales.codes import place_of
from sales.connections import Connection, Deadlocked, KeyTaken, Lost, OverLimit
from sales.inventory import AVAILABLE, Hold, ItemRow, SaleFacts
from sales.models import SaleItem
from sales.reads import Reads
from sales.records import Changed, Granted, KeyUse

WARM = 3
"""How often a connection has a statement until it is prepared and planned."""

S = TypeVar("S")
W = TypeVar("W")


class Storage(Reads):
    """The database of one worker, to be read and written. Use it with ``async with``.

    Every method raises `DatabaseUnavailable` where the database does not answer or refuses, with the
    driver's error chained; then nothing was changed, or what may be done twice. Where a connection breaks
    under the write of a batch, what became of it is asked, and what was not done is done again, once; where
    that cannot be told it raises `OutcomeUnknown`. Cancelling a method cancels its statement; a write may
    have been committed all the same.
    """

    async def hold(self, sale: SaleFacts, holds: Collection[Hold]) -> Granted:
        """Save holds in one transaction: items at the version seen, allowances, checkouts.

        A hold is stale where its item was changed since, or where its user has reached the limit by
        what other workers granted; it is repeated where its key was used before; the others are saved.
        """
        wanted = sorted(holds, key=lambda hold: hold.item_id)
        stale: list[Hold] = []
        repeated: dict[Hold, KeyUse] = {}
        while wanted:
            try:
                saved = await _decided_again(self._hold, sale, wanted)
            except OverLimit:
                # Rare: memory knows most of what users have. Once more without theirs.
                over = await self._over_limit(sale.id, wanted)
                stale += [hold for hold in wanted if hold.user_id in over]
                wanted = [hold for hold in wanted if hold.user_id not in over]
                continue
            except KeyTaken:
                # As rare: whoever repeats a request is answered before it joins a batch.
                earlier = await self.key_uses(sale.id, [(h.user_id, h.key.text) for h in wanted if h.key])
                repeated |= {
                    h: earlier[h.user_id, h.key.text]
                    for h in wanted
                    if h.key and (h.user_id, h.key.text) in earlier
                }
                wanted = [hold for hold in wanted if hold not in repeated]
                continue
            granted = {row.item_id for row in saved.rows}
            stale += [hold for hold in wanted if hold.item_id not in granted]
            return Granted(saved, stale, repeated)
        return Granted(None, stale, repeated)

    async def purchase(self, sale_id: int, codes: Collection[UUID]) -> Changed:
        """Sell the items of a sale that these codes hold, where the hold is not over, in one statement.

        A code that is not among those returned was not bought now: `sales.receipts` tells why.
        """
        return await _decided_again(self._purchase, sale_id, codes)

    async def release(self, sale_id: int, codes: Collection[UUID]) -> Changed:
        """Give back the items of a sale that these codes hold, and close their checkouts as released."""
        return await _decided_again(self._release, sale_id, codes)

    async def warm_up(self, sale: SaleFacts) -> None:
        """Have two connections know the statements of batches, and the server plan them; changes nothing.

        The first batches of a sale would wait for that, and they have more callers than any other.
        """
        nothing = _of_batch(sale.id, _ids_and_codes([]))

        async def save_nothing() -> None:
            async with self._connections.lend() as connection:
                for _ in range(WARM):
                    await _fetched(connection, *_of_holds(sale, [], 0))
                    await _fetched(connection, statements.PURCHASE, nothing)

        await asyncio.gather(save_nothing(), save_nothing())

    # What is swept, or marked, twice is so once: these go as reads do.

    async def sweep(self, sale_id: int, item_ids: Collection[int]) -> Changed:
        """Give back those of these items whose hold is over, and close their checkouts."""
        return await self._swept(statements.SWEEP_KNOWN, sale_id, _ids(sale_id, item_ids))

    async def expire(self, sale_id: int, codes: Collection[UUID]) -> Changed:
        """Give back the items of those of these holds that are over and that nobody is at."""
        return await self._swept(statements.TRY_EXPIRE, sale_id, _ids_and_codes(codes))

    async def sweep_all(self) -> list[Changed]:
        """Give back all that is over in any sale that has begun. May take as long as a load."""
        sale_ids = [sale_id for (sale_id,) in await self._rows(statements.STARTED)]
        return [await self._swept(statements.SWEEP, sale_id, {}, bulk=True) for sale_id in sale_ids]

    async def try_sweep(self, sale_id: int, item_ids: Collection[int]) -> Changed:
        """`sweep`, unless another worker is at it just now."""
        known = _ids(sale_id, item_ids)

        async def sweep(connection: Connection) -> Changed:
            parameters = _of_batch(sale_id, known)  # of each try, see `_swept`
            rows: list[tuple[Any, ...]] = []
            async with connection.transaction():
                cursor = await connection.execute(statements.TRY_LOCK_SWEEP, [sale_id])
                if await cursor.fetchone() == (True,):
                    cursor = await connection.execute(statements.SWEEP_KNOWN, parameters)
                    rows = await cursor.fetchall()
            return _freed(self._connections.server(connection), parameters, rows)

        return await self._connections.read(sweep)

    async def mark(self, sale_id: int, codes: Collection[UUID]) -> None:
        """Say in the rows of these checkouts what their items say: that they are purchased."""
        parameters = _of_batch(sale_id, _ids_and_codes(codes))

        async def mark(connection: Connection) -> None:
            await connection.execute(statements.MARK, parameters)

        await self._connections.read(mark)

    # ---

    async def _hold(self, sale: SaleFacts, wanted: list[Hold]) -> Changed:
        """Save holds in one statement: the items of these holds that were held now."""
        batch = random.getrandbits(63)
        statement, parameters = _of_holds(sale, wanted, batch)
        codes = [hold.code for hold in wanted]
        try:
            async with self._connections.lend() as connection:
                server = self._connections.server(connection)
                rows = await _items(connection, statement, parameters)
        except Lost as lost:
            # A batch is committed as a whole: what is missing beside others was stale, not lost.
            async with self._connections.second_try(lost) as connection:
                server = self._connections.server(connection)
                done = {"sale": sale.id, **_ids_and_codes(codes)}
                rows = await _items(connection, statements.HELD, done) or await _items(
                    connection, statement, parameters
                )
        return Changed(server, sale.id, batch, set(codes), rows)

    async def _purchase(self, sale_id: int, codes: Collection[UUID]) -> Changed:
        parameters = _of_batch(sale_id, _ids_and_codes(codes))
        try:
            async with self._connections.lend() as connection:
                server = self._connections.server(connection)
                rows = await _fetched(connection, statements.PURCHASE, parameters)
        except Lost as lost:
            async with self._connections.second_try(lost) as connection:
                server = self._connections.server(connection)
                rows = await _fetched(connection, statements.BOUGHT, parameters)
                rows += await _fetched(connection, statements.PURCHASE, parameters)
        items = [ItemRow(*row[1:6]) for row in rows]
        return Changed(server, sale_id, parameters["batch"], {row[0] for row in rows}, items)

    async def _release(self, sale_id: int, codes: Collection[UUID]) -> Changed:
        which = _ids_and_codes(codes)
        parameters = _of_batch(sale_id, which)
        try:
            async with self._connections.lend() as connection:
                server = self._connections.server(connection)
                rows = await _fetched(connection, statements.RELEASE, parameters)
        except Lost as lost:
            parameters = _of_batch(sale_id, which)  # see `_swept`
            async with self._connections.second_try(lost) as connection:
                server = self._connections.server(connection)
                rows = await _fetched(connection, statements.RELEASE, parameters)
        return _freed(server, parameters, rows)

    async def _swept(
        self, statement: str, sale_id: int, which: dict[str, Any], *, bulk: bool = False
    ) -> Changed:
        async def sweep(connection: Connection) -> Changed:
            # What a lost try has freed is known to nobody here, so its number must not be taken for ours.
            parameters = _of_batch(sale_id, which)
            cursor = await connection.execute(statement, parameters)
            return _freed(self._connections.server(connection), parameters, await cursor.fetchall())

        return await self._connections.read(sweep, bulk=bulk)

    async def _over_limit(self, sale_id: int, wanted: list[Hold]) -> set[int]:
        """The users whom these holds would take over their limit."""
        rows = await self._rows(
            statements.OVER_LIMIT,
            [[hold.user_id for hold in wanted], sale_id, sale_id],
        )
        return {user_id for (user_id,) in rows}


async def _items(connection: Connection, statement: str, parameters: Any) -> list[ItemRow]:
    return [ItemRow(*row[:5]) for row in await _fetched(connection, statement, parameters)]


async def _fetched(connection: Connection, statement: str, parameters: Any) -> list[tuple[Any, ...]]:
    return await (await connection.execute(statement, parameters)).fetchall()


async def _decided_again(save: Callable[[S, W], Awaitable[Changed]], sale: S, wanted: W) -> Changed:
    """Save a batch, and again where it and another one waited for each other."""
    for _ in range(limits.MAX_DEADLOCKS):
        with contextlib.suppress(Deadlocked):
            return await save(sale, wanted)
    return await save(sale, wanted)


def _of_holds(sale: SaleFacts, wanted: list[Hold], batch: int) -> tuple[str, list[Any]]:
    """The statement that saves these holds, and its parameters."""
    keyed = [(hold.code, hold.key) for hold in wanted if hold.key is not None]
    update, statement = statements.hold(sale.id, sale.checkout_ttl, keyed=bool(keyed))
    rows = [(SaleItem.id_of(sale.id, hold.item_id), hold.version, hold.user_id, hold.code) for hold in wanted]
    parameters = [*update.parameters(rows), sale.id, sale.id, sale.id, batch]
    if keyed:
        parameters += [
            sale.id,
            [code for code, _ in keyed],
            [key.text for _, key in keyed],
            [key.item_id for _, key in keyed],
        ]
    return statement, parameters


def _of_batch(sale_id: int, which: dict[str, Any]) -> dict[str, Any]:
    return {"sale": sale_id, "batch": random.getrandbits(63), **which}


def _ids(sale_id: int, item_ids: Collection[int]) -> dict[str, Any]:
    return {"ids": [SaleItem.id_of(sale_id, item_id) for item_id in sorted(item_ids)]}


def _ids_and_codes(codes: Collection[UUID]) -> dict[str, Any]:
    """In the order of items, which is that of codes and of locks."""
    ordered = sorted(codes, key=_number)
    return {
        "ids": [SaleItem.id_of(*place) if (place := place_of(code)) else None for code in ordered],
        "codes": ordered,
    }


_number = attrgetter("int")  # that of a UUID, which compares itself at more cost


def _freed(server: int, parameters: dict[str, Any], rows: list[tuple[Any, ...]]) -> Changed:
    """Rows of code, item and version, of items that are available again."""
    return Changed(
        server,
        parameters["sale"],
        parameters["batch"],
        {row[0] for row in rows},
        [ItemRow(row[1], row[2], AVAILABLE, None, None) for row in rows],
    )
