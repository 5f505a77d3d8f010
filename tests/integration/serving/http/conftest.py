"""Connections to both lanes, and what was done by them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

import pytest

from sales.models import Sale
from sales.runtime import Runtime
from tests.support.lanes import LANES, Lane, connected
from tests.support.outcomes import CHECKOUTS

Connect = Callable[[], AbstractAsyncContextManager[Lane]]


@pytest.fixture(params=LANES, ids=lambda kind: kind.__name__.lower())
async def lane(worker: Runtime, request: pytest.FixtureRequest) -> AsyncIterator[Lane]:
    """A connection to each of the lanes."""
    async with connected(request.param, worker) as connection:
        yield connection


@pytest.fixture(params=LANES, ids=lambda kind: kind.__name__.lower())
def connect(worker: Runtime, request: pytest.FixtureRequest) -> Connect:
    """Connect to each of the lanes, as often as one likes."""
    return partial(connected, request.param, worker)


@pytest.fixture
def rows(sql: Callable[..., Any], sale: Sale) -> Callable[[], Any]:
    """What the database says that was done: holds, purchases, keys, and how many items are still free."""

    async def look() -> tuple[int, ...]:
        found = await asyncio.to_thread(
            sql,
            f"SELECT (SELECT count(*) FROM {CHECKOUTS} WHERE state = 'held'),"
            f" (SELECT count(*) FROM {CHECKOUTS} WHERE state = 'purchased'),"
            " (SELECT count(*) FROM sales_idempotencykey),"
            " (SELECT count(*) FROM sales_saleitem WHERE code IS NULL)",
        )
        return tuple(found[0])

    return look
