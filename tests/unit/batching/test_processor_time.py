"""The keyed processor: how long a batch gathers, and how long it may take."""

import asyncio

import pytest

from batching import (
    BatchTimeout,
    KeyedProcessor,
    SaveFailed,
)
from tests.unit.batching.store import Store, put
from tests.unit.batching.virtual_clock import settle


async def test_a_full_batch_does_not_wait_for_its_time(store: Store) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with KeyedProcessor(store.load, store.save, min_duration=3600, max_size=2) as processor:
        first = processor.submit("a", put(1))
        await settle()
        assert await asyncio.gather(first, processor.submit("a", put(2))) == [1, 2]
    assert loop.time() == began


async def test_a_window_gathers_what_comes_within_it(store: Store) -> None:
    async with KeyedProcessor(store.load, store.save, min_duration=3600) as processor:
        first = processor.submit("a", put(1))
        await settle()
        assert store.loads == 0
        second = processor.submit("a", put(2))
        assert await asyncio.gather(first, second) == [1, 2]
    assert store.saved == [("a", [1, 2])]


async def test_a_batch_that_takes_too_long_fails(store: Store) -> None:
    async with KeyedProcessor(store.load, store.save, min_duration=0, max_duration=0.01) as processor:
        store.gate.clear()
        with pytest.raises(BatchTimeout):
            await processor.run("a", put(1))
        store.gate.set()
        assert await processor.run("a", put(2)) == 2
    assert store.saved == [("a", [2])]


async def test_a_batch_gathers_for_its_whole_window_and_no_longer(store: Store) -> None:
    loop = asyncio.get_running_loop()
    async with KeyedProcessor(store.load, store.save, min_duration=10) as processor:
        began = loop.time()
        first = processor.submit("a", put(1))
        await asyncio.sleep(9)
        late = processor.submit("a", put(2))
        await asyncio.gather(first, late)
        assert loop.time() - began == pytest.approx(10)
        began = loop.time()
        await processor.run("a", put(3))
        assert loop.time() - began == pytest.approx(10)
    assert store.saved == [("a", [1, 2]), ("a", [3])]


async def test_the_window_is_100_ms_by_default(store: Store) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with KeyedProcessor(store.load, store.save) as processor:
        await processor.run("a", put(1))
    assert loop.time() - began == pytest.approx(0.1)


async def test_the_window_counts_from_the_first_operation_not_from_the_batch_before(store: Store) -> None:
    loop = asyncio.get_running_loop()

    async def slow_save(key: str, resource: list[int]) -> None:
        await asyncio.sleep(30)

    async with KeyedProcessor(store.load, slow_save, min_duration=10, max_duration=60) as processor:
        began = loop.time()
        first = processor.submit("a", put(1))
        await asyncio.sleep(35)  # it is saved from 10 to 40
        second = processor.submit("a", put(2))
        await first
        assert loop.time() - began == pytest.approx(40)
        await second
        assert loop.time() - began == pytest.approx(45 + 30)
        first = processor.submit("a", put(3))
        await asyncio.sleep(11)
        second = processor.submit("a", put(4))  # has waited its window when the first is saved
        began = loop.time()
        await asyncio.gather(first, second)
        assert loop.time() - began == pytest.approx(29 + 30)


async def test_the_window_of_those_who_stay_does_not_begin_with_one_who_left(store: Store) -> None:
    loop = asyncio.get_running_loop()
    async with KeyedProcessor(store.load, store.save, min_duration=10) as processor:
        leaver = processor.submit("a", put(1))
        await asyncio.sleep(5)
        began = loop.time()
        stayer = processor.submit("a", put(2))
        leaver.cancel()
        await stayer
        assert loop.time() - began == pytest.approx(10)
    assert store.saved == [("a", [2])]


async def test_a_slow_load_fails_the_batch_by_default_after_twice_the_window(store: Store) -> None:
    loop = asyncio.get_running_loop()

    async def slow(key: str) -> list[int]:
        await asyncio.sleep(3600)
        return []

    async with KeyedProcessor(slow, store.save, min_duration=10) as processor:
        began = loop.time()
        with pytest.raises(BatchTimeout, match="loading 'a' took too long"):
            await processor.run("a", put(1))
        assert loop.time() - began == pytest.approx(10 + 20)
    assert store.saved == []


async def test_save_can_have_less_time_than_the_batch(store: Store) -> None:
    loop = asyncio.get_running_loop()
    async with KeyedProcessor(store.load, store.save, min_duration=10, save_timeout=1) as processor:
        store.gate.clear()
        began = loop.time()
        with pytest.raises(BatchTimeout, match="saving 'a' took too long"):
            await processor.run("a", put(1))
        assert loop.time() - began == pytest.approx(11)


async def test_a_time_out_inside_of_save_is_a_failure_of_its_own(store: Store) -> None:
    store.save_error = TimeoutError("of the driver")
    async with KeyedProcessor(store.load, store.save, min_duration=0, max_duration=9) as processor:
        with pytest.raises(SaveFailed) as failure:
            await processor.run("a", put(1))
    assert not isinstance(failure.value, BatchTimeout)


async def test_a_save_that_was_not_cancelled_in_time_counts(store: Store) -> None:
    async def stubborn(key: str, resource: list[int]) -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            store.saved.append((key, resource))

    async with KeyedProcessor(store.load, stubborn, min_duration=0, max_duration=1) as processor:
        assert await processor.run("a", put(1)) == 1
