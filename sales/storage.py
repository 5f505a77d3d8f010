"""Rows to inventory, and changes to SQL: the only place that knows both.

Every change is one statement (`sales.statements`) for a whole batch, on an asynchronous connection.
"""

import random
import time
from collections.abc import Collection
from typing import Any
from uuid import UUID

from psycopg.rows import namedtuple_row

from sales import statements
from sales.codes import place_of
from sales.connections import Connection, Connections, KeyTaken, Lost, OverLimit
from sales.inventory import AVAILABLE, Hold, ItemRow, SaleFacts
from sales.models import SaleItem
from sales.records import Changed, Counts, Granted, KeyUse, Mark, Receipt
from sales.refusals import DatabaseUnavailable


class Storage:
    """The database of one worker. Use it with ``async with``.

    Every method raises `DatabaseUnavailable` where the database does not answer or refuses, with the
    driver's error chained; then nothing was changed, or what may be done twice. Where a connection breaks
    under the write of a batch, what became of it is asked, and what was not done is done again, once; where
    that cannot be told it raises `OutcomeUnknown`. Cancelling a method cancels its statement; a write may
    have been committed all the same.
    """

    def __init__(self, conninfo: str) -> None:
        self._connections = Connections(conninfo)

    async def __aenter__(self) -> "Storage":
        await self._connections.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._connections.__aexit__(*exc_info)

    # --- reads

    async def sales(self) -> tuple[int, float, list[SaleFacts]]:
        """The server, the seconds to add to `time.monotonic` for its time, and the sales to be known.

        Those are the sales that are not over, holds included, and of those to come the first. Raises
        `DatabaseUnavailable` also where the database takes no writes: nothing can be sold then.
        """

        async def look(connection: Connection) -> tuple[int, float, list[SaleFacts]]:
            cursor = await connection.execute(statements.READ_ONLY)
            read_only, server, pid = await cursor.fetchone() or (True, 0, 0)
            self._connections.check_session(connection, pid)
            if read_only:
                await self._connections.renew()
                raise DatabaseUnavailable("The database takes no writes.")
            offset = await _clock_offset(connection)
            facts = connection.cursor(row_factory=namedtuple_row)
            await facts.execute(statements.LIVE_SALES)
            return server, offset, [SaleFacts(**row._asdict()) for row in await facts.fetchall()]

        return await self._connections.read(look)

    async def counts(self, sale_ids: Collection[int]) -> dict[int, Counts]:
        """Any sales and how much of them is sold and held, as far as they exist."""

        async def look(connection: Connection) -> list[dict[str, Any]]:
            cursor = connection.cursor(row_factory=namedtuple_row)
            await cursor.execute(statements.COUNTS, [list(sale_ids)])
            return [row._asdict() for row in await cursor.fetchall()]

        return {
            row["id"]: Counts(sold=row.pop("sold"), held=row.pop("held"), sale=SaleFacts(**row))
            for row in await self._connections.read(look)
        }

    async def uncertified(self) -> list[int]:
        """The sales of which nothing can change any more and that have no certificate."""
        return [sale_id for (sale_id,) in await self._rows(statements.UNCERTIFIED)]

    async def certificates(self, sale_ids: Collection[int]) -> dict[int, tuple[float, str | None]]:
        """When nothing of these sales can change any more, in seconds since the epoch, and what they proved.

        A certificate is JSON, or ``None`` as long as it is not written. Sales that do not exist are left out.
        """
        rows = await self._rows(statements.CERTIFICATES, [list(sale_ids)])
        return {row[0]: (row[1], row[2]) for row in rows}

    async def load(self, sale_id: int) -> tuple[Mark, list[ItemRow]]:
        """All items of a sale that were ever changed, and the mark for `changes`."""
        return await self._item_rows(statements.LOAD, {"sale": sale_id}, bulk=True)

    async def changes(self, sale_id: int, since: Mark) -> tuple[Mark, list[ItemRow]]:
        """The items changed by what was committed after this mark, and the next mark.

        Some may be known already: what overlaps is given twice rather than never. Where the next mark is
        of another server than this one, the rows mean nothing, and the sale must be loaded anew.
        """
        return await self._item_rows(statements.CHANGES, {"sale": sale_id, "since": since.watermark})

    async def receipts(self, codes: Collection[UUID]) -> dict[UUID, Receipt]:
        """The checkouts of these codes, as far as they exist; see `sales.receipts` for what may be told."""
        rows = await self._rows(statements.RECEIPT, [list(codes)])
        return {row[0]: Receipt(*row[:-1]) for row in rows}

    async def key_uses(
        self, sale_id: int, keys: Collection[tuple[int, str]]
    ) -> dict[tuple[int, str], KeyUse]:
        """What users were granted with these keys before: by user and key, as far as they were used."""
        parameters = {"sale": sale_id, "users": [user for user, _ in keys], "keys": [key for _, key in keys]}
        rows = await self._rows(statements.KEYED, parameters)
        return {(row[0], row[1]): KeyUse(row[2], row[3]) for row in rows}

    # --- writes

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
                server, rows = await self._hold(sale, wanted)
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
            granted = {row.item_id for row in rows}
            missing = [hold for hold in wanted if hold.item_id not in granted]
            return Granted(server, rows, stale + missing, repeated)
        return Granted(0, [], stale, repeated)

    async def purchase(self, codes: Collection[UUID]) -> Changed:
        """Sell the items that these codes hold, where the hold is not over, in one statement.

        A code that is not among those returned was not bought now: `sales.receipts` tells why.
        """
        parameters = _ids_and_codes(list(codes)) | {"batch": random.getrandbits(63)}
        server, rows = await self._settled(statements.PURCHASE, parameters, done=statements.BOUGHT)
        return Changed(server, {row[0] for row in rows}, [(row[1], ItemRow(*row[2:7])) for row in rows])

    async def release(self, codes: Collection[UUID]) -> Changed:
        """Give back the items that these codes hold, and close their checkouts as released."""
        return _freed(*await self._settled(statements.RELEASE, _ids_and_codes(list(codes))))

    # What is swept twice is swept once: these go as reads do.

    async def sweep(self, sale_id: int, *, bulk: bool = False) -> Changed:
        """Give back the items of a sale whose hold is over, and close their checkouts.

        ``bulk``: nobody waits for it, so that it may take as long as a load.
        """

        async def sweep(connection: Connection) -> Changed:
            cursor = await connection.execute(statements.SWEEP, {"sale": sale_id})
            return _freed(self._connections.server(connection), await cursor.fetchall())

        return await self._connections.read(sweep, bulk=bulk)

    async def expire(self, codes: Collection[UUID]) -> Changed:
        """Give back the items of those of these holds that are over and that nobody is at."""

        async def expire(connection: Connection) -> Changed:
            cursor = await connection.execute(statements.TRY_EXPIRE, _ids_and_codes(list(codes)))
            return _freed(self._connections.server(connection), await cursor.fetchall())

        return await self._connections.read(expire)

    async def sweep_all(self) -> list[Changed]:
        """`sweep` each sale in which something can be held."""
        sale_ids = [sale_id for (sale_id,) in await self._rows(statements.STARTED)]
        return [await self.sweep(sale_id, bulk=True) for sale_id in sale_ids]

    async def try_sweep(self, sale_id: int) -> Changed:
        """`sweep`, unless another worker is at it just now."""

        async def sweep(connection: Connection) -> Changed:
            rows: list[tuple[Any, ...]] = []
            async with connection.transaction():
                cursor = await connection.execute(statements.TRY_LOCK_SWEEP, [sale_id])
                if await cursor.fetchone() == (True,):
                    cursor = await connection.execute(statements.SWEEP, {"sale": sale_id})
                    rows = await cursor.fetchall()
            return _freed(self._connections.server(connection), rows)

        return await self._connections.read(sweep)

    # ---

    async def _hold(self, sale: SaleFacts, wanted: list[Hold]) -> tuple[int, list[ItemRow]]:
        """The server, and the items of these holds that were held there now."""
        keyed = [(hold.code, hold.key) for hold in wanted if hold.key is not None]
        update, statement = statements.hold(sale.checkout_ttl, keyed=bool(keyed))
        ids = [SaleItem.id_of(sale.id, hold.item_id) for hold in wanted]
        parameters = [
            *update.parameters((pk, h.version, h.user_id, h.code) for pk, h in zip(ids, wanted, strict=True)),
            sale.id,
            sale.id,
        ]
        if keyed:
            parameters += [
                sale.id,
                [code for code, _ in keyed],
                [key.text for _, key in keyed],
                [key.item_id for _, key in keyed],
            ]
        try:
            async with self._connections.lend() as connection:
                return self._connections.server(connection), await _items(connection, statement, parameters)
        except Lost as lost:
            # A batch is committed as a whole: what is missing beside others was stale, not lost.
            async with self._connections.second_try(lost) as connection:
                codes = [hold.code for hold in wanted]
                held = await _items(connection, statements.HELD, {"ids": ids, "codes": codes})
                return self._connections.server(connection), held or await _items(
                    connection, statement, parameters
                )

    async def _settled(
        self, statement: str, parameters: dict[str, Any], *, done: str | None = None
    ) -> tuple[int, list[tuple[Any, ...]]]:
        """The server, and the rows that a purchase or release changed; ``done`` finds those of a lost one."""
        try:
            async with self._connections.lend() as connection:
                rows = await (await connection.execute(statement, parameters)).fetchall()
                return self._connections.server(connection), rows
        except Lost as lost:
            async with self._connections.second_try(lost) as connection:
                rows = await (await connection.execute(done, parameters)).fetchall() if done else []
                rows += await (await connection.execute(statement, parameters)).fetchall()
                return self._connections.server(connection), rows

    async def _rows(self, statement: str, parameters: Any = None) -> list[tuple[Any, ...]]:
        """What a statement finds."""

        async def look(connection: Connection) -> list[tuple[Any, ...]]:
            return await (await connection.execute(statement, parameters)).fetchall()

        return await self._connections.read(look)

    async def _item_rows(
        self, statement: str, parameters: dict[str, Any], *, bulk: bool = False
    ) -> tuple[Mark, list[ItemRow]]:
        async def look(connection: Connection) -> tuple[Mark, list[ItemRow]]:
            cursor = await connection.execute(statement, parameters, binary=True)
            rows = await cursor.fetchall()
            return Mark(*rows[0][:2]), [ItemRow(*row[2:]) for row in rows if row[2] is not None]

        return await self._connections.read(look, bulk=bulk)

    async def _over_limit(self, sale_id: int, wanted: list[Hold]) -> set[int]:
        """The users whom these holds would take over their limit."""
        rows = await self._rows(
            statements.OVER_LIMIT,
            [[hold.user_id for hold in wanted], sale_id, sale_id],
        )
        return {user_id for (user_id,) in rows}


async def _clock_offset(connection: Connection) -> float:
    """The seconds to add to `time.monotonic` for the database's time; half a round trip may be wrong."""
    before = time.monotonic()
    cursor = await connection.execute(statements.CLOCK)
    after = time.monotonic()
    (now,) = await cursor.fetchone() or (0.0,)
    return float(now) - (before + after) / 2


async def _items(connection: Connection, statement: str, parameters: Any) -> list[ItemRow]:
    cursor = await connection.execute(statement, parameters)
    return [ItemRow(*row[:5]) for row in await cursor.fetchall()]


def _ids_and_codes(codes: list[UUID]) -> dict[str, Any]:
    places = [place_of(code) for code in codes]
    return {"ids": [SaleItem.id_of(*place) if place else None for place in places], "codes": codes}


def _freed(server: int, rows: list[tuple[Any, ...]]) -> Changed:
    """Rows of code, sale, item and version, of items that are available again."""
    return Changed(
        server,
        {row[0] for row in rows},
        [(row[1], ItemRow(row[2], row[3], AVAILABLE, None, None)) for row in rows],
    )
