"""The keyed processor, without I/O: what is waited for are states, never durations."""

import asyncio
import contextvars
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from batching import (
    BatchTimeout,
    KeyedProcessor,
    LoadFailed,
    ProcessorStopped,
    QueueFull,
    SaveFailed,
)


class Store:
    """Resources are lists of what was done; loads and saves are recorded and can be held up."""

    def __init__(self) -> None:
        self.saved: list[tuple[str, list[Any]]] = []
        self.loads = 0
        self.saving = 0
        self.most_saving = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.load_error: Exception | None = None
        self.save_error: Exception | None = None
        self.failures: dict[Any, BaseException] = {}

    async def load(self, key: str) -> list[Any]:
        self.loads += 1
        if self.load_error:
            raise self.load_error
        return []

    async def save(self, key: str, resource: list[Any]) -> Mapping[Any, BaseException] | None:
        self.saving += 1
        self.most_saving = max(self.saving, self.most_saving)
        try:
            await self.gate.wait()
            if self.save_error:
                raise self.save_error
            self.saved.append((key, list(resource)))
            return self.failures
        finally:
            self.saving -= 1


def put(value: Any) -> Callable[[list[Any]], Any]:
    def operation(resource: list[Any]) -> Any:
        resource.append(value)
        return value

    return operation


def refuse(resource: list[Any]) -> None:
    raise PermissionError("no")


async def settle() -> None:
    """Let every task that can go on do so."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
async def store() -> Store:
    return Store()


async def test_a_lone_operation_leaves_at_once(store: Store) -> None:
    async with KeyedProcessor(store.load, store.save, min_duration=0) as processor:
        assert await processor.run("a", put(1)) == 1
    assert store.saved == [("a", [1])]


async def test_the_next_batch_gathers_while_the_last_one_is_saved(store: Store) -> None:
    async with KeyedProcessor(store.load, store.save, min_duration=0) as processor:
        store.gate.clear()
        first = processor.submit("a", put(0))
        await settle()
        rest = [processor.submit("a", put(n)) for n in range(1, 6)]
        await settle()
        assert not first.done()
        assert processor.pending("a") == 5
        store.gate.set()
        assert await asyncio.gather(first, *rest) == [0, 1, 2, 3, 4, 5]
    assert store.saved == [("a", [0]), ("a", [1, 2, 3, 4, 5])]
    assert store.loads == 2


async def test_nothing_is_answered_before_the_save(store: Store) -> None:
    async with KeyedProcessor(store.load, store.save, min_duration=0) as processor:
        store.gate.clear()
        future = processor.submit("a", put(1))
        await settle()
        assert store.saving == 1
        assert not future.done()
        store.gate.set()
        await future


async def test_keys_run_side_by_side_and_one_key_never_twice(store: Store) -> None:
    async with KeyedProcessor(store.load, store.save, min_duration=0) as processor:
        store.gate.clear()
        futures = [processor.submit(key, put(key)) for key in "abc"]
        await settle()
        assert store.saving == 3
        futures += [processor.submit("a", put(n)) for n in range(3)]
        await settle()
        assert store.saving == 3
        store.gate.set()
        await asyncio.gather(*futures)
    assert store.most_saving == 3


async def test_an_operation_that_raises_fails_alone_and_at_once(store: Store) -> None:
    async with KeyedProcessor(store.load, store.save, min_duration=0) as processor:
        store.gate.clear()
        before, bad, after = (processor.submit("a", op) for op in (put(1), refuse, put(2)))
        await settle()
        assert isinstance(bad.exception(), PermissionError)
        assert not before.done()
        store.gate.set()
        assert (await before, await after) == (1, 2)
    assert store.saved == [("a", [1, 2])]


async def test_a_batch_of_refusals_is_not_saved(store: Store) -> None:
    async with KeyedProcessor(store.load, store.save, min_duration=0) as processor:
        with pytest.raises(PermissionError):
            await processor.run("a", refuse)
    assert store.saved == []
    assert store.loads == 1


async def test_save_can_fail_some_members(store: Store) -> None:
    store.failures = {2: KeyError("two")}
    async with KeyedProcessor(store.load, store.save, min_duration=0) as processor:
        futures = [processor.submit("a", put(n)) for n in (1, 2, 3)]
        results = await asyncio.gather(*futures, return_exceptions=True)
    assert results[0] == 1
    assert isinstance(results[1], KeyError)
    assert results[2] == 3


@pytest.mark.parametrize(("broken", "error"), [("load_error", LoadFailed), ("save_error", SaveFailed)])
async def test_a_failed_batch_tells_every_member_the_cause_and_the_next_works(
    store: Store, broken: str, error: type[Exception]
) -> None:
    cause = OSError("disk")
    setattr(store, broken, cause)
    async with KeyedProcessor(store.load, store.save, min_duration=0) as processor:
        futures = [processor.submit("a", put(n)) for n in range(3)]
        failures = await asyncio.gather(*futures, return_exceptions=True)
        assert [type(failure) for failure in failures] == [error] * 3
        assert all(failure.__cause__ is cause for failure in failures)  # type: ignore[union-attr]
        assert len({id(failure) for failure in failures}) == 3
        setattr(store, broken, None)
        assert await processor.run("a", put(9)) == 9
    assert store.saved == [("a", [9])]


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


async def test_max_size_cuts_a_batch(store: Store) -> None:
    async with KeyedProcessor(store.load, store.save, min_duration=0, max_size=2) as processor:
        await asyncio.gather(*[processor.submit("a", put(n)) for n in range(5)])
    assert store.saved == [("a", [0, 1]), ("a", [2, 3]), ("a", [4])]


async def test_a_full_batch_does_not_wait_for_its_time(store: Store) -> None:
    async with KeyedProcessor(store.load, store.save, min_duration=3600, max_size=2) as processor:
        assert await asyncio.gather(processor.submit("a", put(1)), processor.submit("a", put(2))) == [1, 2]


async def test_a_window_gathers_what_comes_within_it(store: Store) -> None:
    async with KeyedProcessor(store.load, store.save, min_duration=0.05) as processor:
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


async def test_stop_finishes_what_was_accepted_and_refuses_more(store: Store) -> None:
    processor = KeyedProcessor(store.load, store.save, min_duration=3600)
    async with processor:
        futures = [processor.submit("a", put(n)) for n in range(3)]
        await settle()
        assert store.loads == 0  # still in its window
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


async def test_it_is_opened_once(store: Store) -> None:
    processor = KeyedProcessor(store.load, store.save)
    with pytest.raises(ProcessorStopped):
        processor.submit("a", put(1))
    async with processor:
        with pytest.raises(RuntimeError):
            await processor.__aenter__()
    with pytest.raises(RuntimeError):
        await processor.__aenter__()


async def test_an_idle_key_leaves_nothing_behind(store: Store) -> None:
    async with KeyedProcessor(store.load, store.save, min_duration=0) as processor:
        await asyncio.gather(*[processor.submit(f"key {n}", put(n)) for n in range(1000)])
        await settle()
        assert processor._queues == {}
        assert processor._tasks == {}


async def test_batches_do_not_run_in_the_context_of_a_request(store: Store) -> None:
    variable = contextvars.ContextVar("variable", default="outside")
    seen = []
    async with KeyedProcessor(store.load, store.save, min_duration=0) as processor:
        token = variable.set("request")
        await processor.run("a", lambda resource: seen.append(variable.get()))
        variable.reset(token)
    assert seen == ["outside"]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("min_duration", -1),
        ("max_duration", 0),
        ("max_size", 0),
        ("max_pending", -5),
    ],
)
def test_a_wrong_option_is_named(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=option):
        KeyedProcessor(Store.load, Store.save, **{option: value})  # type: ignore[arg-type]
