"""How many keys load and save side by side, and which never do."""

import asyncio
from typing import Any

import pytest

from batching import KeyedProcessor
from tests.unit.batching.store import Store, put
from tests.unit.batching.virtual_clock import settle


async def test_no_more_keys_than_lanes_load_or_save_at_once(store: Store) -> None:
    async with KeyedProcessor(store.load, store.save, min_duration=0, lanes=3) as processor:
        store.gate.clear()
        futures = [processor.submit(f"key {n}", put(n)) for n in range(50)]
        await settle()
        assert store.saving == 3
        assert store.loads == 3
        store.gate.set()
        assert await asyncio.gather(*futures) == list(range(50))
    assert store.most_saving == 3


async def test_keys_of_one_lane_wait_for_each_other_and_take_turns(store: Store) -> None:
    async with KeyedProcessor(
        store.load,
        store.save,
        min_duration=0,
        max_size=1,
        lanes=2,
        lane_for_key=lambda key, lanes: len(key) % 2,
    ) as processor:
        futures = [processor.submit(key, put(n)) for n in range(2) for key in ("a", "b", "cc")]
        await asyncio.gather(*futures)
    odd = [key for key, _ in store.saved if key != "cc"]
    assert odd == ["a", "b", "a", "b"]
    assert store.most_saving <= 2


async def test_what_comes_while_a_key_waits_for_its_lane_joins_its_batch(store: Store) -> None:
    async with KeyedProcessor(store.load, store.save, min_duration=0, lanes=1) as processor:
        store.gate.clear()
        first = processor.submit("a", put(1))
        await settle()
        second = processor.submit("b", put(2))
        await settle()
        third = processor.submit("b", put(3))
        leaver = processor.submit("b", put(4))
        leaver.cancel()
        store.gate.set()
        assert await asyncio.gather(first, second, third) == [1, 2, 3]
    assert store.saved == [("a", [1]), ("b", [2, 3])]


async def test_a_lane_whose_load_fails_is_free_again(store: Store) -> None:
    async with KeyedProcessor(store.load, store.save, min_duration=0, lanes=1) as processor:
        store.load_error = OSError("disk")
        await asyncio.gather(processor.run("a", put(1)), return_exceptions=True)
        store.load_error = None
        assert await processor.run("b", put(2)) == 2


@pytest.mark.parametrize("lane", [-1, 2])
async def test_a_lane_that_does_not_exist_is_refused_before_anything_is_queued(
    store: Store, lane: int
) -> None:
    async with KeyedProcessor(
        store.load, store.save, min_duration=0, lanes=2, lane_for_key=lambda key, lanes: lane
    ) as processor:
        with pytest.raises(ValueError, match="lane_for_key"):
            processor.submit("a", put(1))
        assert processor.statistics().keys == 0
    assert store.loads == 0


async def test_an_error_of_lane_for_key_reaches_the_caller(store: Store) -> None:
    def broken(key: Any, lanes: int) -> int:
        raise LookupError(key)

    async with KeyedProcessor(store.load, store.save, min_duration=0, lane_for_key=broken) as processor:
        with pytest.raises(LookupError):
            await processor.run("a", put(1))
        assert processor.statistics().keys == 0


async def test_idle_lanes_leave_nothing_behind(store: Store) -> None:
    async with KeyedProcessor(store.load, store.save, min_duration=0, lanes=10_000) as processor:
        await asyncio.gather(*[processor.submit(f"key {n}", put(n)) for n in range(1000)])
        await settle()
        assert len(processor._lanes) == 0
