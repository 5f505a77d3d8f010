"""The keyed processor: callers who leave, a full queue, and the end."""

import asyncio

import pytest

from batching import (
    KeyedProcessor,
    LoadFailed,
    ProcessorStopped,
    QueueFull,
    SaveFailed,
)
from tests.unit.batching.store import Store, put
from tests.unit.batching.virtual_clock import settle


async def test_a_caller_who_leaves_before_the_batch_is_never_run(store: Store) -> None:
    async with KeyedProcessor(store.load, store.save, min_duration=0) as processor:
        store.gate.clear()
        first = processor.submit("a", put(1))
        await settle()
        leaver = asyncio.create_task(processor.run("a", put(2)))
        stayer = processor.submit("a", put(3))
        await settle()
        leaver.cancel()
        await settle()
        store.gate.set()
        assert (await first, await stayer) == (1, 3)
        assert leaver.cancelled()
    assert store.saved == [("a", [1]), ("a", [3])]


async def test_a_caller_who_leaves_during_the_save_is_saved_all_the_same(store: Store) -> None:
    async with KeyedProcessor(store.load, store.save, min_duration=0) as processor:
        store.gate.clear()
        leaver = asyncio.create_task(processor.run("a", put(1)))
        await asyncio.sleep(0)
        neighbour = processor.submit("a", put(2))
        await settle()
        leaver.cancel()
        await settle()
        store.gate.set()
        assert await neighbour == 2
        assert leaver.cancelled()
    assert store.saved == [("a", [1, 2])]


@pytest.mark.parametrize("min_duration", [0, 10])
async def test_a_batch_that_everybody_left_is_not_even_loaded(store: Store, min_duration: float) -> None:
    async with KeyedProcessor(store.load, store.save, min_duration=min_duration) as processor:
        processor.submit("a", put(1)).cancel()
        await asyncio.sleep(11)
        assert processor.statistics().keys == 0
    assert store.loads == 0


async def test_who_leaves_during_the_load_is_never_run() -> None:
    loading = asyncio.Event()
    gate = asyncio.Event()

    async def load(key: str) -> list[int]:
        loading.set()
        await gate.wait()
        return []

    seen: list[int] = []

    async def save(key: str, resource: list[int]) -> None:
        seen.extend(resource)

    async with KeyedProcessor(load, save, min_duration=0) as processor:
        leaver, stayer = processor.submit("a", put(1)), processor.submit("a", put(2))
        await loading.wait()
        leaver.cancel()
        gate.set()
        assert await stayer == 2
    assert seen == [2]


async def test_a_full_queue_refuses_at_once(store: Store) -> None:
    async with KeyedProcessor(store.load, store.save, min_duration=0, max_pending=2) as processor:
        store.gate.clear()
        futures = [processor.submit("a", put(0))]
        await settle()
        futures += [processor.submit("a", put(n)) for n in (1, 2)]
        with pytest.raises(QueueFull):
            processor.submit("a", put(3))
        futures.append(processor.submit("b", put(4)))
        store.gate.set()
        assert await asyncio.gather(*futures) == [0, 1, 2, 4]


async def test_callers_who_left_hold_no_place_in_a_full_queue(store: Store) -> None:
    async with KeyedProcessor(store.load, store.save, min_duration=0, max_pending=2) as processor:
        store.gate.clear()
        first = processor.submit("a", put(0))
        await settle()
        for _ in range(2):
            processor.submit("a", put("left")).cancel()
        futures = [processor.submit("a", put(n)) for n in (1, 2)]
        with pytest.raises(QueueFull):
            processor.submit("a", put(3))
        store.gate.set()
        assert await asyncio.gather(first, *futures) == [0, 1, 2]
    assert store.saved == [("a", [0]), ("a", [1, 2])]


async def test_stop_finishes_what_was_accepted_and_refuses_more(store: Store) -> None:
    processor = KeyedProcessor(store.load, store.save, min_duration=3600)
    async with processor:
        futures = [processor.submit("a", put(n)) for n in range(3)]
        await settle()
        assert store.loads == 0  # still in its window
        began = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() == began
    assert [future.result() for future in futures] == [0, 1, 2]
    assert store.saved == [("a", [0, 1, 2])]
    with pytest.raises(ProcessorStopped):
        processor.submit("a", put(4))


async def test_stop_can_be_called_again_and_at_the_same_time(store: Store) -> None:
    processor = KeyedProcessor(store.load, store.save, min_duration=0)
    async with processor:
        store.gate.clear()
        future = processor.submit("a", put(1))
        await settle()
        stops = [asyncio.create_task(processor.stop()) for _ in range(2)]
        await settle()
        assert not any(stop.done() for stop in stops)
        store.gate.set()
        await asyncio.gather(*stops)
        assert future.result() == 1
        await processor.stop()


async def test_cancelling_stop_tells_every_waiter(store: Store) -> None:
    processor = KeyedProcessor(store.load, store.save, min_duration=0)
    await processor.__aenter__()
    store.gate.clear()
    taken = processor.submit("a", put(1))
    await settle()
    waiting = processor.submit("a", put(2))
    stop = asyncio.create_task(processor.stop())
    await settle()
    stop.cancel()
    outcomes = await asyncio.gather(stop, taken, waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [
        asyncio.CancelledError,
        ProcessorStopped,
        ProcessorStopped,
    ]


async def test_stopping_from_inside_a_batch_is_refused(store: Store) -> None:
    async def save(key: str, resource: list[int]) -> None:
        await processor.stop()

    async with KeyedProcessor(store.load, save, min_duration=0) as processor:
        with pytest.raises(SaveFailed) as failure:
            await processor.run("a", put(1))
        assert isinstance(failure.value.__cause__, RuntimeError)
        with pytest.raises(SaveFailed):  # and it is still open
            await processor.run("a", put(2))


@pytest.mark.parametrize(("broken", "error"), [("load_error", LoadFailed), ("save_error", SaveFailed)])
async def test_a_cancellation_inside_of_load_or_save_ends_that_batch_alone(
    store: Store, broken: str, error: type[Exception]
) -> None:
    setattr(store, broken, asyncio.CancelledError())
    async with KeyedProcessor(store.load, store.save, min_duration=0) as processor:
        with pytest.raises(error):
            await processor.run("a", put(1))
        setattr(store, broken, None)
        assert await processor.run("a", put(2)) == 2


async def test_an_abort_that_save_mistakes_for_an_error_is_an_abort_all_the_same(store: Store) -> None:
    async def save(key: str, resource: list[int]) -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            raise OSError("connection closed") from None

    processor = KeyedProcessor(store.load, save, min_duration=0)
    await processor.__aenter__()
    taken = processor.submit("a", put(1))
    await settle()
    waiting = processor.submit("a", put(2))
    stop = asyncio.create_task(processor.stop())
    await settle()
    stop.cancel()
    outcomes = await asyncio.gather(taken, waiting, stop, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [
        ProcessorStopped,
        ProcessorStopped,
        asyncio.CancelledError,
    ]
    assert store.loads == 1


async def test_batches_that_are_cancelled_before_they_began_tell_their_callers(store: Store) -> None:
    async with KeyedProcessor(store.load, store.save, min_duration=0) as processor:
        future = processor.submit("a", put(1))
        (task,) = [task for task in asyncio.all_tasks() if task.get_name() == "batches of 'a'"]
        task.cancel()
        with pytest.raises(ProcessorStopped):
            await future
        assert await processor.run("a", put(2)) == 2
    assert store.saved == [("a", [2])]
