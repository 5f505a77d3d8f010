"""The tests of `batching` run on a virtual clock, and a blocked loop fails them."""

import asyncio
from collections.abc import Callable, Iterator, Mapping

import pytest
from blockbuster import blockbuster_ctx

from tests.unit.batching.store import Store
from tests.unit.batching.virtual_clock import VirtualClockLoop
from tests.unit.batching.works import Works


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Every asynchronous test of this directory gets a loop of its own."""
    return {"virtual clock": VirtualClockLoop}


@pytest.fixture(autouse=True)
def _blocking_the_loop_fails() -> Iterator[None]:
    with blockbuster_ctx("batching"):
        yield


@pytest.fixture
async def store() -> Store:
    """An empty store whose gate is open."""
    return Store()


@pytest.fixture
async def works() -> Works:
    """Works whose gate is open."""
    return Works()
