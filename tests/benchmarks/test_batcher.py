"""Jobs a second through the batcher and the data loader, beside libraries that do the same, in one run."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from statistics import median
from typing import Any

import pytest

from batching import Batcher, DataLoader

pytestmark = pytest.mark.benchmark

BATCH = 100
BATCHES = 100
ROUNDS = 5


async def echo(jobs: list[int]) -> list[int]:
    """The least that can be done."""
    return jobs


async def rate_of(submit: Callable[[int], Awaitable[Any]]) -> float:
    """Jobs a CPU second: so many callers at a time, each awaiting its own result."""
    began = time.process_time()
    for start in range(0, BATCH * BATCHES, BATCH):
        await asyncio.gather(*[submit(n) for n in range(start, start + BATCH)])
    return BATCH * BATCHES / (time.process_time() - began)


async def batcher() -> float:
    """`Batcher`, futures awaited together."""
    async with Batcher(echo, max_size=BATCH, max_wait=1) as ours:
        return await rate_of(ours.submit)


async def batcher_tasks() -> float:
    """`Batcher.run`, a task for each caller."""
    async with Batcher(echo, max_size=BATCH, max_wait=1) as ours:
        return await rate_of(ours.run)


async def data_loader() -> float:
    """`DataLoader` with its cache."""
    async with DataLoader(echo, max_size=BATCH) as ours:
        return await rate_of(ours.load)


async def async_batcher() -> float:
    """async-batcher, a task for each caller as it demands."""
    package = pytest.importorskip("async_batcher.batcher")

    class Echo(package.AsyncBatcher):  # type: ignore[misc]
        async def process_batch(self, batch: list[int]) -> list[int]:
            return batch

    theirs = Echo(max_batch_size=BATCH, max_queue_time=1)
    try:
        return await rate_of(theirs.process)
    finally:
        await theirs.stop(force=True)


async def aio_data_loader() -> float:
    """aiodataloader with its cache."""
    package = pytest.importorskip("aiodataloader")
    return await rate_of(package.DataLoader(echo, max_batch_size=BATCH).load)


def test_jobs_a_second() -> None:
    works = (batcher, batcher_tasks, data_loader, aio_data_loader, async_batcher)
    rounds = [[asyncio.run(work()) for work in works] for _ in range(ROUNDS)]
    print()
    for work, rates in zip(works, zip(*rounds, strict=True), strict=True):
        print(f"{work.__name__:.<20} {median(rates):>10,.0f} jobs a CPU second (best {max(rates):,.0f})")
    assert max(rates[0] for rates in rounds) >= 150_000
