"""An operation that depends on its batch is run again in the next one, before all who came later."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from batching import KeyedProcessor, ProcessorStopped, SaveFailed, Undecided
from tests.unit.batching.store import Store, put
from tests.unit.batching.virtual_clock import settle


def put_alone(value: Any) -> Callable[[list[Any]], Any]:
    """Put a value in a list that must be empty; where it is not, wait for what becomes of that."""

    def operation(resource: list[Any]) -> Any:
        if resource:
            raise Undecided
        return put(value)(resource)

    return operation


async def test_it_is_run_again_once_its_batch_is_saved(store: Store) -> None:
    async with KeyedProcessor(store.load, store.save, min_duration=0) as processor:
        store.gate.clear()
        first, second = processor.submit("a", put(1)), processor.submit("a", put_alone(2))
        await settle()
        assert processor.statistics().running == 2
        store.gate.set()
        assert await asyncio.gather(first, second) == [1, 2]
    assert store.saved == [("a", [1]), ("a", [2])]


async def test_it_keeps_its_place_before_those_who_came_later(store: Store) -> None:
    """Even where the queue is full and a batch is small."""
    options = {"min_duration": 0, "max_size": 3, "max_pending": 3}
    async with KeyedProcessor(store.load, store.save, **options) as processor:  # type: ignore[arg-type]
        store.gate.clear()
        operations = [put(1), put_alone(2), put_alone(3)]
        futures = [processor.submit("a", operation) for operation in operations]
        await settle()
        futures += [processor.submit("a", put(n)) for n in (4, 5, 6)]
        store.gate.set()
        assert await asyncio.gather(*futures) == [1, 2, 3, 4, 5, 6]
    assert store.saved == [("a", [1]), ("a", [2, 4]), ("a", [3, 5, 6])]


def mend(store: Store, value: Any) -> Callable[[list[Any]], Any]:
    """`put_alone`, and from then on nothing fails."""

    def operation(resource: list[Any]) -> Any:
        result = put_alone(value)(resource)
        store.failures, store.save_error = {}, None
        return result

    return operation


async def test_save_can_leave_members_undecided(store: Store) -> None:
    store.failures = {2: Undecided(), 3: KeyError("three")}
    async with KeyedProcessor(store.load, store.save, min_duration=0) as processor:
        store.gate.clear()
        operations = [put(1), mend(store, 9), put(2), put(3)]
        futures = [processor.submit("a", operation) for operation in operations]
        await settle()
        futures.append(processor.submit("a", put(4)))
        store.gate.set()
        results = await asyncio.gather(*futures, return_exceptions=True)
    assert isinstance(results.pop(3), KeyError)
    assert results == [1, 9, 2, 4]
    assert store.saved == [("a", [1, 2, 3]), ("a", [9, 2, 4])]


async def test_a_save_that_fails_does_not_fail_who_waits_for_it(store: Store) -> None:
    store.save_error = OSError("disk")
    async with KeyedProcessor(store.load, store.save, min_duration=0) as processor:
        first, second = processor.submit("a", put(1)), processor.submit("a", mend(store, 2))
        with pytest.raises(SaveFailed):
            await first
        assert await second == 2
    assert store.saved == [("a", [2])]


async def test_where_there_is_nothing_to_wait_for_its_caller_hears_of_it(store: Store) -> None:
    """It would be run again for ever."""

    def never(resource: list[Any]) -> None:
        raise Undecided

    async with KeyedProcessor(store.load, store.save, min_duration=0) as processor:
        with pytest.raises(Undecided):
            await processor.run("a", never)
        first, second = processor.submit("a", put(1)), processor.submit("a", never)
        assert await first == 1
        with pytest.raises(Undecided):
            await second
    assert store.saved == [("a", [1])]


async def test_who_leaves_meanwhile_is_not_run_again(store: Store) -> None:
    async with KeyedProcessor(store.load, store.save, min_duration=0) as processor:
        store.gate.clear()
        first, second = processor.submit("a", put(1)), processor.submit("a", put_alone(2))
        await settle()
        second.cancel()
        store.gate.set()
        await first
    assert store.saved == [("a", [1])]


async def test_stop_decides_what_was_accepted(store: Store) -> None:
    processor = KeyedProcessor(store.load, store.save, min_duration=0)
    async with processor:
        store.gate.clear()
        futures = [processor.submit("a", operation) for operation in (put(1), put_alone(2), put_alone(3))]
        await settle()
        stopping = asyncio.create_task(processor.stop())
        await settle()
        store.gate.set()
        await stopping
        assert [future.result() for future in futures] == [1, 2, 3]


async def test_an_abort_tells_them_too(store: Store) -> None:
    processor = KeyedProcessor(store.load, store.save, min_duration=0)
    async with processor:
        store.gate.clear()
        futures = [processor.submit("a", operation) for operation in (put(1), put_alone(2))]
        await settle()
        stopping = asyncio.create_task(processor.stop())
        await settle()
        stopping.cancel()
        results = await asyncio.gather(*futures, return_exceptions=True)
    assert [type(result) for result in results] == [ProcessorStopped, ProcessorStopped]
    assert processor.statistics().keys == 0


async def test_a_window_that_has_passed_is_not_waited_for_again(store: Store) -> None:
    loop = asyncio.get_running_loop()
    async with KeyedProcessor(store.load, store.save, min_duration=10) as processor:
        began = loop.time()
        futures = [processor.submit("a", operation) for operation in (put(1), put_alone(2))]
        assert await asyncio.gather(*futures) == [1, 2]
        assert loop.time() == began + 10


async def test_an_operation_counts_in_the_batch_that_decides_it(store: Store) -> None:
    async with KeyedProcessor(store.load, store.save, min_duration=0) as processor:
        metrics = processor.subscribe()
        futures = [processor.submit("a", operation) for operation in (put(1), put_alone(2), put_alone(3))]
        await asyncio.gather(*futures)
        await settle()
        after = processor.statistics()
    assert [metric.operations async for metric in metrics] == [1, 1, 1]
    assert (after.operations, after.failed, after.running, after.waiting) == (3, 0, 0, 0)
