"""The keyed processor, without I/O: what is waited for are states, never durations."""

import asyncio
import contextvars

import pytest

from batching import (
    KeyedProcessor,
    LoadFailed,
    ProcessorStopped,
    SaveFailed,
)
from tests.unit.batching.store import Store, put, refuse
from tests.unit.batching.virtual_clock import settle


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


async def test_a_caller_who_comes_right_back_never_meets_a_second_batch_of_the_key(store: Store) -> None:
    async with KeyedProcessor(store.load, store.save, min_duration=0) as processor:
        store.gate.clear()
        first = processor.submit("a", put(1))
        await settle()
        store.gate.set()
        await first  # the task that saved it ends in this very turn of the loop
        store.gate.clear()
        futures = [processor.submit("a", put(2))]
        await settle()
        futures.append(processor.submit("a", put(3)))
        await settle()
        assert store.saving == 1
        assert processor.pending("a") == 1
        store.gate.set()
        await asyncio.gather(*futures)
    assert store.most_saving == 1


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


async def test_max_size_cuts_a_batch(store: Store) -> None:
    async with KeyedProcessor(store.load, store.save, min_duration=0, max_size=2) as processor:
        await asyncio.gather(*[processor.submit("a", put(n)) for n in range(5)])
    assert store.saved == [("a", [0, 1]), ("a", [2, 3]), ("a", [4])]


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


async def test_batches_do_not_run_in_the_context_of_a_request(store: Store) -> None:
    variable = contextvars.ContextVar("variable", default="outside")
    seen = []
    async with KeyedProcessor(store.load, store.save, min_duration=0) as processor:
        token = variable.set("request")
        await processor.run("a", lambda resource: seen.append(variable.get()))
        variable.reset(token)
    assert seen == ["outside"]


async def test_without_load_the_resource_is_none_and_without_save_nothing_is_saved() -> None:
    async with KeyedProcessor[str, None](min_duration=0) as processor:
        assert await processor.run("a", lambda resource: ("it was", resource)) == ("it was", None)


async def test_any_exception_of_an_operation_is_its_own(store: Store) -> None:
    def stop_iteration(resource: list[int]) -> int:
        return next(iter(()))

    def cancelled(resource: list[int]) -> None:
        raise asyncio.CancelledError

    async with KeyedProcessor(store.load, store.save, min_duration=0) as processor:
        futures = [processor.submit("a", op) for op in (put(1), stop_iteration, cancelled, put(2))]
        outcomes = await asyncio.gather(*futures, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [int, RuntimeError, asyncio.CancelledError, int]
    assert isinstance(outcomes[1].__cause__, StopIteration)
    assert store.saved == [("a", [1, 2])]


async def test_results_that_cannot_be_hashed_are_results(store: Store) -> None:
    store.failures = {3: KeyError("three")}
    async with KeyedProcessor(store.load, store.save, min_duration=0) as processor:
        futures = [processor.submit("a", put(value)) for value in ([1], {}, 3)]
        outcomes = await asyncio.gather(*futures, return_exceptions=True)
    assert outcomes[:2] == [[1], {}]
    assert isinstance(outcomes[2], KeyError)


async def test_a_save_that_returns_nonsense_failed(store: Store) -> None:
    async def save(key: str, resource: list[int]) -> bool:
        return True

    async with KeyedProcessor(store.load, save, min_duration=0) as processor:  # type: ignore[arg-type]
        with pytest.raises(SaveFailed) as failure:
            await processor.run("a", put(1))
    assert isinstance(failure.value.__cause__, TypeError)


async def test_an_operation_may_submit_another(store: Store) -> None:
    inner: list[asyncio.Future[int]] = []
    async with KeyedProcessor(store.load, store.save, min_duration=0) as processor:
        await processor.run("a", lambda resource: inner.append(processor.submit("a", put(2))))
        assert await inner[0] == 2


@pytest.mark.skipif(not hasattr(asyncio, "eager_task_factory"), reason="Python 3.12 has it")
async def test_an_eager_task_factory_changes_nothing(store: Store) -> None:
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
    async with KeyedProcessor(store.load, store.save, min_duration=0) as processor:
        assert await asyncio.gather(processor.submit("a", put(1)), processor.submit("a", put(2))) == [1, 2]
    assert store.saved == [("a", [1, 2])]
