"""The certificates in the database, and who is in the way of those who write them."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from sales.connections import connection_info
from sales.models import Sale
from tests.support.database import Sql
from tests.support.waiting import DEADLINE

BROKEN = "each user's allowance is what they hold and have bought"


def damage(sql: Sql, sale: Sale) -> None:
    """Give a user an allowance without an item."""
    sql(
        "INSERT INTO sales_allowance (sale_id, user_id, taken, user_limit) VALUES (%s, 99, 1, 10)",
        sale.pk,
    )


def written(sql: Sql) -> list[tuple[Any, ...]]:
    """All certificates, with their transactions: one that was only written anew differs too."""
    return sql("SELECT xmin::text, sale_id, holds FROM sales_salecertificate ORDER BY sale_id")


@contextmanager
def elsewhere(statement: str, *parameters: Any) -> Iterator[psycopg.Connection[Any]]:
    """A transaction of somebody else, that has run this statement and goes on meanwhile."""
    with psycopg.connect(connection_info()) as somebody:
        somebody.execute(statement, parameters or None)
        yield somebody
        somebody.rollback()


async def until(check: Callable[[], bool]) -> None:
    """Wait until a check is true that asks the database."""
    async with asyncio.timeout(DEADLINE):
        while not await asyncio.to_thread(check):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def until_written(sql: Sql, *sales: Sale) -> None:
    """Wait until just these sales have a certificate."""
    wanted = sorted(sale.pk for sale in sales)
    await until(lambda: [row[1] for row in written(sql)] == wanted)
