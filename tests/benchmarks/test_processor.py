"""What the processor costs without I/O, beside what asyncio itself costs in the same run."""

import asyncio
import gc
import time
import tracemalloc
from collections.abc import Callable, Coroutine
from statistics import median
from typing import Any

import pytest

from batching import KeyedProcessor

pytestmark = pytest.mark.benchmark

BATCH = 100
BATCHES = 300
ROUNDS = 7


def nothing(resource: None) -> int:
    """The least that can be done."""
    return 1


async def load(key: str) -> None:
    """Load nothing."""


async def save(key: str, resource: None) -> None:
    """Save nothing."""


async def bare_round_trip() -> None:
    """A future that the loop resolves, awaited by whoever made it, one after another."""
    loop = asyncio.get_running_loop()
    for _ in range(BATCHES * BATCH):
        future = loop.create_future()
        loop.call_soon(future.set_result, 1)
        await future


async def through_the_processor() -> None:
    """The same number of operations, submitted and awaited in batches."""
    async with KeyedProcessor(load, save, min_duration=0) as processor:
        for _ in range(BATCHES):
            for future in [processor.submit("key", nothing) for _ in range(BATCH)]:
                await future


async def callers_of_the_processor() -> None:
    """The same with a task for each caller, as a server has them."""
    async with KeyedProcessor(load, save, min_duration=0) as processor:
        for _ in range(BATCHES):
            await asyncio.gather(*[processor.run("key", nothing) for _ in range(BATCH)])


def cpu_microseconds(work: Callable[[], Coroutine[Any, Any, None]]) -> float:
    """CPU time of one operation."""
    began = time.process_time()
    asyncio.run(work())
    return (time.process_time() - began) / (BATCHES * BATCH) * 1e6


def test_the_overhead_of_an_operation() -> None:
    works = (bare_round_trip, through_the_processor, callers_of_the_processor)
    rounds = [[cpu_microseconds(work) for work in works] for _ in range(ROUNDS)]
    bare, submitted, called = (median(column) for column in zip(*rounds, strict=True))
    print(f"\nbare future {bare:.2f} us, submit to result {submitted:.2f} us, task for each {called:.2f} us")
    assert submitted <= 5
    assert submitted <= 4 * bare
    assert called <= 4 * bare


def test_100_000_keys_leave_nothing_behind() -> None:
    async def ask_for(processor: KeyedProcessor[str, None], start: int) -> None:
        await asyncio.gather(*[processor.submit(f"key {n}", nothing) for n in range(start, start + 1000)])

    async def work() -> tuple[float, int]:
        async with KeyedProcessor(load, save, min_duration=0) as processor:
            tracemalloc.start()
            await ask_for(processor, 0)
            gc.collect()
            before, _ = tracemalloc.get_traced_memory()
            for start in range(1000, 101_000, 1000):
                await ask_for(processor, start)
            await asyncio.sleep(0)
            gc.collect()
            after, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert processor.statistics().keys == 0
            return (peak - before) / 1e6, after - before

    peak, left = asyncio.run(work())
    print(f"\n100,000 keys, 1,000 at a time: peak {peak:.1f} MB, left {left:,} bytes")
    assert left < 10_000
