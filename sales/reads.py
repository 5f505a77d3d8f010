"""What a worker reads: sales, their items, and what became of what was written.

Rows come out as what the worker remembers (`sales.inventory`, `sales.records`).
"""

import time
from collections.abc import Collection
from typing import Any, Self
from uuid import UUID

from psycopg.rows import namedtuple_row

from sales import limits, statements
from sales.codes import place_of
from sales.connections import Connection, Connections
from sales.inventory import ItemRow, SaleFacts
from sales.models import SaleItem
from sales.records import Counts, KeyUse, Mark, Receipt
from sales.refusals import DatabaseUnavailable


class Reads:
    """The database of one worker, to be read. Use it with ``async with``.

    Every method raises `DatabaseUnavailable` where the database does not answer, with the driver's error
    chained. Cancelling a method cancels its statement.
    """

    def __init__(self, conninfo: str) -> None:
        self._connections = Connections(conninfo)

    async def __aenter__(self) -> Self:
        await self._connections.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._connections.__aexit__(*exc_info)

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

    async def load(self, sale_id: int, first: int = 0) -> tuple[Mark, list[ItemRow]]:
        """Items of a sale that were ever changed, from the first on, in their order; the mark for `changes`.

        `limits.LOAD_CHUNK` of them, or all that are left.
        """
        parameters = {"sale": sale_id, "first": first, "most": limits.LOAD_CHUNK}
        return await self._item_rows(statements.LOAD, parameters, bulk=True)

    async def changes(
        self, sale_id: int, since: Mark, *, known: Collection[int] = (), item_ids: Collection[int] = ()
    ) -> tuple[Mark, list[ItemRow]]:
        """The items changed by what was committed after this mark, but for ``known`` batches; the next mark.

        And these items, whatever became of them.
        Some may be known already: what overlaps is given twice rather than never. Where the next mark is
        of another server than this one, the rows mean nothing, and the sale must be loaded anew.
        """
        parameters = {"sale": sale_id, "since": since.watermark, "known": list(known)}
        parameters["ids"] = [SaleItem.id_of(sale_id, item_id) for item_id in item_ids]
        return await self._item_rows(statements.CHANGES, parameters)

    async def receipts(self, codes: Collection[UUID]) -> dict[UUID, Receipt]:
        """The checkouts of these codes, as far as they exist; see `sales.receipts` for what may be told."""
        places = [(place[0], code) for code in codes if (place := place_of(code))]
        parameters = {"sales": [sale_id for sale_id, _ in places], "codes": [code for _, code in places]}
        rows = await self._rows(statements.RECEIPT, parameters)
        return {row[0]: Receipt(*row[:-1]) for row in rows}

    async def key_uses(
        self, sale_id: int, keys: Collection[tuple[int, str]]
    ) -> dict[tuple[int, str], KeyUse]:
        """What users were granted with these keys before: by user and key, as far as they were used."""
        parameters = {"sale": sale_id, "users": [user for user, _ in keys], "keys": [key for _, key in keys]}
        rows = await self._rows(statements.KEYED, parameters)
        return {(row[0], row[1]): KeyUse(row[2], row[3]) for row in rows}

    async def known_sales(self, sale_ids: Collection[int]) -> set[int]:
        """Those of these sales in which something may be held."""
        return {sale_id for (sale_id,) in await self._rows(statements.NOT_CLOSED, [list(sale_ids)])}

    # ---

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


async def _clock_offset(connection: Connection) -> float:
    """The seconds to add to `time.monotonic` for the database's time; half a round trip may be wrong."""
    before = time.monotonic()
    cursor = await connection.execute(statements.CLOCK)
    after = time.monotonic()
    (now,) = await cursor.fetchone() or (0.0,)
    return float(now) - (before + after) / 2
