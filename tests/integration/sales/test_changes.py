"""Workers learn what others did from what each batch says that it has changed, and from conflicts."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import psycopg
import pytest

from sales import services, statements
from sales.certificate import certify, issue
from sales.codes import place_of
from sales.connections import connection_info
from sales.models import Change, Checkout, Sale, SaleItem
from sales.refusals import ITEM_HELD
from sales.runtime import Runtime
from tests.integration.sales.services.calls import known
from tests.support.database import Sql
from tests.support.refusals import refuses
from tests.support.shopping import MakeSale, OpenWorker, buy
from tests.support.threads import in_thread

Somebody = psycopg.AsyncConnection[tuple[Any, ...]]


@pytest.fixture
async def somebody(worker: Runtime) -> AsyncIterator[Somebody]:
    """Another worker's connection, on which nothing is committed but by the test."""
    async with await psycopg.AsyncConnection.connect(connection_info()) as connection:
        yield connection


async def read(worker: Runtime) -> list[int]:
    """The items that a look for changes reads, which the worker learns as well."""
    looks: list[list[int]] = []
    changes = worker.storage.changes

    async def noted(*args: Any, **options: Any) -> Any:
        mark, rows = await changes(*args, **options)
        looks.append(sorted(row.item_id for row in rows))
        return mark, rows

    worker.storage.changes = noted  # type: ignore[method-assign]
    try:
        await worker.memory.refresh(worker.current())
    finally:
        worker.storage.changes = changes  # type: ignore[method-assign]
    (look,) = looks
    return look


async def buy_without_commit(somebody: Somebody, code: UUID) -> None:
    place = place_of(code)
    assert place is not None
    parameters = {"sale": place[0], "ids": [SaleItem.id_of(*place)], "codes": [code], "batch": 1}
    assert (await somebody.execute(statements.PURCHASE, parameters)).rowcount == 1


async def test_what_others_did_is_read_once_and_what_the_worker_did_never(
    workers: tuple[Runtime, Runtime],
) -> None:
    a, b = workers
    await buy(a, 1, 3)
    held = await services.checkout(a, user_id=1, item_id=4)
    await services.release(a, code=held)
    assert await read(a) == []
    assert await read(b) == [3, 4]
    assert known(b) == (1, 0, 99)
    assert await read(b) == []
    await services.checkout(b, user_id=2, item_id=5)
    assert await read(b) == []
    assert await read(a) == [5]


async def test_what_began_before_a_look_and_was_committed_after_it_is_learnt(
    worker: Runtime, open_worker: OpenWorker, somebody: Somebody
) -> None:
    code = await services.checkout(worker, user_id=1, item_id=3)
    other = await open_worker()
    await buy_without_commit(somebody, code)
    await buy(other, 2, 4)
    assert await read(worker) == [4]
    assert known(worker) == (1, 1, 98)
    await somebody.commit()
    assert 3 in await read(worker)
    assert known(worker) == (2, 0, 98)
    assert await read(worker) == []


async def test_what_was_changed_without_a_word_is_learnt_at_the_conflict(worker: Runtime, sql: Sql) -> None:
    await asyncio.to_thread(
        sql,
        """UPDATE sales_saleitem SET state = 'held', user_id = 9, code = gen_random_uuid(),
               held_until = now() + interval '1 minute', version = version + 1 WHERE item_id = 5""",
    )
    assert await read(worker) == []
    assert known(worker) == (0, 0, 100)
    with refuses(ITEM_HELD):
        await services.checkout(worker, user_id=1, item_id=5)
    assert known(worker) == (0, 1, 99)


async def test_a_batch_that_changes_nothing_notes_nothing(worker: Runtime, sql: Sql) -> None:
    code = await buy(worker, 1, 3)
    before = await asyncio.to_thread(sql, "SELECT count(*) FROM sales_change")
    assert (await worker.storage.purchase(worker.current().sale.id, [code])).codes == set()
    await worker.housekeeping.do_round()
    assert await asyncio.to_thread(sql, "SELECT count(*) FROM sales_change") == before == [(2,)]


async def test_a_closed_sale_has_no_changes_left_once_the_next_is_closed(
    worker: Runtime, sale: Sale, make_sale: MakeSale
) -> None:
    await buy(worker, 1, 3)
    following = await in_thread(make_sale, starts_at=sale.ends_at)
    assert await in_thread(issue, sale)
    assert await in_thread(Change.objects.filter(sale=sale).count) == 2  # somebody may be looking for theirs
    assert await in_thread(issue, following)
    assert await in_thread(Change.objects.filter(sale=sale).count) == 0


async def states(sql: Sql) -> list[str]:
    """What the rows of checkouts themselves say, by item."""
    return [
        state for (state,) in await asyncio.to_thread(sql, "SELECT state FROM sales_checkout ORDER BY code")
    ]


async def test_checkouts_are_marked_in_a_calm_moment_and_are_right_before(
    worker: Runtime, sale: Sale, sql: Sql
) -> None:
    code = await buy(worker, 1, 3)
    await services.checkout(worker, user_id=1, item_id=4)
    before = await services.receipt(worker, code=code)
    assert await states(sql) == ["held", "held"]
    assert before.state == "purchased"
    assert (await in_thread(certify, sale)).is_valid
    await worker.housekeeping.do_round()  # something was bought since the last one
    assert await states(sql) == ["held", "held"]
    await worker.housekeeping.do_round()
    assert await states(sql) == ["purchased", "held"]
    assert worker.memory.unmarked == {sale.pk: []}
    assert await services.receipt(worker, code=code) == before
    marked = await in_thread(Checkout.objects.get, code=code)
    assert marked.purchased_at == before.purchased_at
    assert (await in_thread(certify, sale)).is_valid


async def test_the_certificate_marks_what_no_worker_has_marked(worker: Runtime, sale: Sale, sql: Sql) -> None:
    codes = [await buy(worker, 1, item) for item in (3, 4)]
    assert await states(sql) == ["held", "held"]
    certificate = await in_thread(issue, sale)
    assert certificate is not None
    assert certificate.holds
    assert await states(sql) == ["purchased", "purchased"]
    assert [(await services.receipt(worker, code=code)).state for code in codes] == ["purchased"] * 2
