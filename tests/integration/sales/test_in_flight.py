"""A hold whose time passes while a purchase that began in time has not committed yet."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID

import psycopg
import pytest

from sales import services, statements
from sales.codes import place_of
from sales.connections import connection_info
from sales.models import Sale, SaleItem
from sales.refusals import CHECKOUT_EXPIRED, Refusal
from sales.runtime import Runtime
from tests.support.refusals import refuses
from tests.support.shopping import counts
from tests.support.waiting import DEADLINE

Buyer = psycopg.AsyncConnection[tuple[Any, ...]]


@pytest.fixture
def sale(make_sale: Callable[..., Sale]) -> Sale:
    """Ten items, each of which is held for a second."""
    return make_sale(items=10, checkout_ttl=1)


@pytest.fixture
async def buyer(worker: Runtime) -> AsyncIterator[Buyer]:
    """Another worker's connection."""
    async with await psycopg.AsyncConnection.connect(connection_info()) as connection:
        yield connection


async def buy_without_commit(buyer: Buyer, code: UUID) -> int:
    """Buy what a code holds; how many items were sold."""
    place = place_of(code)
    assert place is not None
    parameters = {"sale": place[0], "ids": [SaleItem.id_of(*place)], "codes": [code], "batch": 1}
    return (await buyer.execute(statements.PURCHASE, parameters)).rowcount


async def until_over(worker: Runtime, code: UUID) -> None:
    """Wait until the time of the hold of a code has passed, by the database's clock."""
    end = (await services.receipt(worker, code=code)).expires_at.timestamp()

    async with asyncio.timeout(DEADLINE):
        while worker.memory.clock.now() <= end + 0.1:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_it_is_held_until_the_purchase_has_committed(worker: Runtime, buyer: Buyer) -> None:
    code = await services.checkout(worker, user_id=1, item_id=3)
    await buyer.execute("SELECT now()")  # its transaction begins
    assert await buy_without_commit(buyer, code) == 1
    await until_over(worker, code)
    assert (await services.receipt(worker, code=code)).state == "held"
    assert await counts(worker) == (0, 1, 9)
    await buyer.commit()
    assert (await services.receipt(worker, code=code)).state == "purchased"
    assert await counts(worker) == (1, 0, 9)


async def test_what_was_told_to_be_expired_is_not_bought_by_who_began_in_time(
    worker: Runtime, buyer: Buyer
) -> None:
    code = await services.checkout(worker, user_id=1, item_id=3)
    await buyer.execute("SELECT now()")  # its transaction begins
    await until_over(worker, code)
    assert (await services.receipt(worker, code=code)).state == "expired"
    assert await buy_without_commit(buyer, code) == 0
    await buyer.commit()
    assert (await services.receipt(worker, code=code)).state == "expired"


async def test_nobody_waits_for_whoever_has_an_allowance(worker: Runtime, buyer: Buyer) -> None:
    """Neither who asks for a code that cannot be ended now, nor who asks beside them."""
    over = await services.checkout(worker, user_id=1, item_id=3)
    await until_over(worker, over)
    bought = await services.checkout(worker, user_id=2, item_id=4)
    await services.purchase(worker, code=bought)
    another = await services.checkout(worker, user_id=2, item_id=5)
    await buyer.execute("SELECT FROM sales_allowance WHERE user_id = 1 FOR UPDATE")
    states = await asyncio.gather(*(services.receipt(worker, code=code) for code in (over, bought)))
    assert [receipt.state for receipt in states] == ["held", "purchased"]
    ends = await asyncio.gather(
        *(services.purchase(worker, code=code) for code in (over, another)), return_exceptions=True
    )
    assert isinstance(ends[0], Refusal)
    assert ends[1] is None
    await buyer.rollback()
    assert (await services.receipt(worker, code=over)).state == "expired"


async def test_where_a_hold_cannot_be_ended_what_its_row_says_is_told(
    worker: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sales.storage.statements.TRY_EXPIRE", "SELECT 1 / 0")  # as any statement that fails
    over = await services.checkout(worker, user_id=1, item_id=3)
    await until_over(worker, over)
    assert (await services.receipt(worker, code=over)).state == "held"


async def test_who_is_refused_for_an_expired_hold_leaves_it_to_nobody_else(
    worker: Runtime, buyer: Buyer
) -> None:
    code = await services.checkout(worker, user_id=1, item_id=3)
    await buyer.execute("SELECT now()")  # its transaction begins
    await until_over(worker, code)
    with refuses(CHECKOUT_EXPIRED):
        await services.purchase(worker, code=code)
    assert await buy_without_commit(buyer, code) == 0
