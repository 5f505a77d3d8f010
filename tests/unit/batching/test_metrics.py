"""What a processor tells about its batches, and that nobody who listens can hold it up."""

import asyncio
import gc
import time

import pytest

from batching import BatchMetric, KeyedProcessor, LoadFailed, SaveFailed, SentBy
from tests.unit.batching.store import Store, put, refuse
from tests.unit.batching.virtual_clock import settle


async def test_a_batch_is_measured(store: Store) -> None:
    async def load(key: str) -> list[int]:
        await asyncio.sleep(2)
        return []

    async def save(key: str, resource: list[int]) -> dict[int, BaseException]:
        await asyncio.sleep(3)
        return {2: KeyError("two")}

    before = time.time()
    async with KeyedProcessor(load, save, min_duration=10, max_duration=60) as processor:
        metrics = processor.subscribe()
        futures = [processor.submit("a", put(1)), processor.submit("a", put(2))]
        await asyncio.sleep(4)
        futures += [processor.submit("a", put(3)), processor.submit("a", refuse)]
        await asyncio.gather(*futures, return_exceptions=True)
        metric = await anext(metrics)
    assert metric == BatchMetric(
        key="a",
        started_at=metric.started_at,
        operations=4,
        failed=2,
        load_seconds=pytest.approx(2),
        save_seconds=pytest.approx(3),
        total_seconds=pytest.approx(5),
        longest_wait=pytest.approx(10),
        sent_by=SentBy.TIME,
        error=None,
    )
    assert before <= metric.started_at <= time.time()


async def test_why_a_batch_was_sent(store: Store) -> None:
    async with KeyedProcessor(store.load, store.save, min_duration=0, max_size=2) as clocked:
        metrics = clocked.subscribe()
        await asyncio.gather(*[clocked.submit("a", put(n)) for n in range(3)])
    assert [(metric.operations, metric.sent_by) async for metric in metrics] == [
        (2, SentBy.SIZE),
        (1, SentBy.CLOCK),
    ]
    async with KeyedProcessor(store.load, store.save, min_duration=9, max_size=2) as windowed:
        metrics = windowed.subscribe()
        await asyncio.gather(*[windowed.submit("a", put(n)) for n in range(3)])
        windowed.submit("a", put(4))
    assert [(metric.operations, metric.sent_by) async for metric in metrics] == [
        (2, SentBy.SIZE),
        (1, SentBy.TIME),
        (1, SentBy.STOP),
    ]


async def test_a_failed_batch_says_what_failed_it(store: Store) -> None:
    async with KeyedProcessor(store.load, store.save, min_duration=0) as processor:
        metrics = processor.subscribe()
        store.load_error = OSError("load")
        await asyncio.gather(processor.submit("a", put(1)), return_exceptions=True)
        store.load_error, store.save_error = None, OSError("save")
        await asyncio.gather(*[processor.submit("a", put(n)) for n in (2, 3)], return_exceptions=True)
    load, save = [metric async for metric in metrics]
    assert isinstance(load.error, LoadFailed)
    assert isinstance(save.error, SaveFailed)
    assert (load.operations, load.failed) == (1, 1)
    assert (save.operations, save.failed) == (2, 2)


async def test_every_subscriber_gets_every_batch(store: Store) -> None:
    async with KeyedProcessor(store.load, store.save, min_duration=0) as processor:
        first, second = processor.subscribe(), processor.subscribe()
        for key in "abc":
            await processor.run(key, put(1))
    for subscription in (first, second):
        assert [metric.key async for metric in subscription] == ["a", "b", "c"]
        assert subscription.lost == 0


async def test_a_slow_subscriber_loses_the_oldest_and_learns_how_many(store: Store) -> None:
    async with KeyedProcessor(store.load, store.save, min_duration=0) as processor:
        slow, quick = processor.subscribe(capacity=2), processor.subscribe()
        for key in "abcde":
            await processor.run(key, put(1))
        assert (await anext(slow)).key == "d"
        assert slow.lost == 3
    assert [metric.key async for metric in slow] == ["e"]
    assert slow.lost == 3
    assert len([metric async for metric in quick]) == 5


async def test_a_subscriber_waits_for_the_next_batch_and_may_give_up(store: Store) -> None:
    async with KeyedProcessor(store.load, store.save, min_duration=0) as processor:
        metrics = processor.subscribe()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(metrics), 1)
        waiting = asyncio.ensure_future(anext(metrics))
        await settle()
        assert not waiting.done()
        with pytest.raises(RuntimeError, match="one consumer"):
            await anext(metrics)
        await processor.run("a", put(1))
        assert (await waiting).key == "a"


async def test_subscribing_after_stop_ends_at_once(store: Store) -> None:
    processor = KeyedProcessor(store.load, store.save, min_duration=0)
    async with processor:
        waiting = asyncio.ensure_future(anext(processor.subscribe(), None))
        await settle()
    assert await waiting is None
    assert [metric async for metric in processor.subscribe()] == []


async def test_a_subscription_during_the_stop_sees_the_last_batches(store: Store) -> None:
    processor = KeyedProcessor(store.load, store.save, min_duration=0)
    async with processor:
        store.gate.clear()
        processor.submit("a", put(1))
        await settle()
        stop = asyncio.create_task(processor.stop())
        await settle()
        metrics = processor.subscribe()
        store.gate.set()
        await stop
    assert [metric.key async for metric in metrics] == ["a"]


async def test_a_subscription_that_is_closed_or_forgotten_costs_nothing(store: Store) -> None:
    async with KeyedProcessor(store.load, store.save, min_duration=0) as processor:
        with processor.subscribe() as closed:
            assert processor.statistics().subscribers == 1
        processor.subscribe()
        gc.collect()
        assert processor.statistics().subscribers == 0
        await processor.run("a", put(1))
        assert [metric async for metric in closed] == []
    with pytest.raises(ValueError, match="capacity"):
        processor.subscribe(capacity=0)


async def test_statistics_are_of_this_moment(store: Store) -> None:
    async with KeyedProcessor(store.load, store.save, min_duration=0, max_pending=1) as processor:
        store.gate.clear()
        futures = [processor.submit("a", put(1))]
        await settle()
        futures.append(processor.submit("a", refuse))
        with pytest.raises(Exception, match="waiting"):
            processor.submit("a", put(3))
        now = processor.statistics()
        assert (now.open, now.keys, now.waiting, now.running) == (True, 1, 1, 1)
        assert (now.batches, now.operations, now.failed, now.refused) == (0, 0, 0, 1)
        store.gate.set()
        await asyncio.gather(*futures, return_exceptions=True)
    after = processor.statistics()
    assert (after.open, after.keys, after.waiting, after.running) == (False, 0, 0, 0)
    assert (after.batches, after.operations, after.failed, after.refused) == (2, 2, 1, 1)
