"""What waits in a worker has a bound, whatever is asked for, and whoever is refused harms no neighbour."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import psycopg
import pytest

from sales import services
from sales.codes import new_code
from sales.connections import connection_info
from sales.models import Sale
from sales.refusals import NO_CERTIFICATE, NO_SALE, OVERLOADED, UNKNOWN_CODE, Refusal
from sales.runtime import Runtime
from tests.support.shopping import OpenWorker
from tests.support.waiting import eventually

FEW = 20
"""Calls of one kind that may wait in these tests."""

Read = Callable[[Runtime], Coroutine[Any, Any, object]]


def some_id() -> int:
    """That of a sale which does not exist."""
    return random.randrange(2**40, 2**62)


READS: dict[str, tuple[Read, str]] = {
    "a sale": (lambda worker: services.status(worker, sale_id=some_id()), "sales_salecertificate"),
    "a certificate": (
        lambda worker: services.certificate(worker, sale_id=some_id()),
        "sales_salecertificate",
    ),
    "a receipt": (lambda worker: services.receipt(worker, code=new_code(7, 7)), "sales_checkout"),
    "a key": (
        lambda worker: services.checkout(worker, user_id=1, key=str(some_id())),
        "sales_idempotencykey",
    ),
}
"""Reads of what clients can make up, and a table that each of them needs."""


@pytest.fixture(params=READS.values(), ids=[name.replace(" ", "-") for name in READS])
def read(request: pytest.FixtureRequest) -> Read:
    """One of them."""
    return request.param[0]  # type: ignore[no-any-return]


@pytest.fixture
def table(request: pytest.FixtureRequest, read: Read) -> str:
    """Its table."""
    return next(table for other, table in READS.values() if other is read)


@pytest.fixture
async def narrow(sale: Sale, open_worker: OpenWorker, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    """A worker in which few may wait."""
    monkeypatch.setattr("sales.limits.MAX_PENDING", FEW)
    return await open_worker()


@asynccontextmanager
async def locked(table: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Meanwhile nobody can read a table, for as long as it takes."""
    monkeypatch.setattr("sales.limits.STATEMENT_TIMEOUT", 3600)
    async with await psycopg.AsyncConnection.connect(connection_info()) as connection:
        await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        yield
        await connection.rollback()


async def reason(call: Awaitable[object]) -> str:
    """How a call ended."""
    try:
        await call
    except Refusal as refusal:
        return refusal.reason.name
    return "ok"


async def test_what_is_asked_for_leaves_nothing_behind(worker: Runtime, read: Read) -> None:
    await reason(read(worker))
    tasks = len(asyncio.all_tasks())
    expected = {NO_SALE.name, NO_CERTIFICATE.name, UNKNOWN_CODE.name, "ok"}
    assert set(await asyncio.gather(*(reason(read(worker)) for _ in range(500)))) <= expected | {"user_limit"}
    await eventually(lambda: len(asyncio.all_tasks()) <= tasks)
    assert worker.admission.waiting("read") == worker.admission.waiting("checkout") == 0


async def test_one_too_many_is_refused_at_once_and_the_others_are_answered(
    narrow: Runtime, read: Read, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with locked(table, monkeypatch):
        tasks = len(asyncio.all_tasks())
        waiting = [asyncio.create_task(reason(read(narrow))) for _ in range(FEW)]
        await eventually(lambda: narrow.admission.waiting("read") == FEW)
        for _ in range(3 * FEW):
            assert await reason(read(narrow)) == OVERLOADED.name
        assert len(asyncio.all_tasks()) <= tasks + FEW + 5
    assert OVERLOADED.name not in await asyncio.gather(*waiting)
    assert await reason(read(narrow)) != OVERLOADED.name


async def test_who_leaves_makes_room(
    narrow: Runtime, read: Read, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with locked(table, monkeypatch):
        for _ in range(5):
            waiting = [asyncio.create_task(reason(read(narrow))) for _ in range(FEW)]
            await eventually(lambda: narrow.admission.waiting("read") == FEW)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            assert narrow.admission.waiting("read") == 0
        for reader in (narrow._counts, narrow._certificates, narrow._receipts, narrow._key_uses):
            assert reader.pending <= FEW
        last = asyncio.create_task(reason(read(narrow)))
        await eventually(lambda: narrow.admission.waiting("read") == 1)
    assert await last != OVERLOADED.name


async def test_readers_do_not_keep_the_sale_waiting(narrow: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    async with locked("sales_salecertificate", monkeypatch):
        waiting = [
            asyncio.create_task(reason(services.status(narrow, sale_id=some_id()))) for _ in range(FEW)
        ]
        await eventually(lambda: narrow.admission.waiting("read") == FEW)
        code = await services.checkout(narrow, user_id=1, item_id=1)
        await services.purchase(narrow, code=code)
    assert await asyncio.gather(*waiting) == [NO_SALE.name] * FEW


async def test_a_sale_is_counted_before_it_starts_while_it_runs_and_when_it_is_closed(
    sale: Sale, make_sale: Callable[..., Sale], open_worker: OpenWorker, sql: Callable[..., Any]
) -> None:
    async def counts(sale_id: int) -> tuple[int, int, int]:
        found = await worker.counts(sale_id)
        assert found is not None
        return found.sold, found.held, found.sale.items

    worker = await open_worker()
    codes: list[UUID] = [await services.checkout(worker, user_id=1) for _ in range(3)]
    await services.purchase(worker, code=codes[0])
    assert await counts(sale.pk) == (1, 2, 100)
    later = "UPDATE sales_sale SET starts_at = ends_at - interval '1 s', id = id RETURNING id"
    await asyncio.to_thread(sql, later)
    assert await counts(sale.pk) == (0, 0, 100)
    await asyncio.to_thread(
        sql,
        """INSERT INTO sales_salecertificate (sale_id, issued_at, version, holds, document)
           VALUES (%s, now(), '1', true, '{"sold": 42}')""",
        sale.pk,
    )
    assert await counts(sale.pk) == (42, 0, 100)
    assert await worker.counts(some_id()) is None
