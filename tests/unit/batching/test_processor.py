"""The keyed processor, without I/O: what is waited for are states, never durations."""

import asyncio
import contextvars

import pytest

from batching import (
    BatchTimeout,
    KeyedProcessor,
    LoadFailed,
    ProcessorStopped,
    QueueFull,
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


async def test_a_save_that_was_not_cancelled_in_time_counts(store: Store) -> None:
    async def stubborn(key: str, resource: list[int]) -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            store.saved.append((key, resource))

    async with KeyedProcessor(store.load, stubborn, min_duration=0, max_duration=1) as processor:
        assert await processor.run("a", put(1)) == 1


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


async def test_an_operation_may_submit_another(store: Store) -> None:
    inner: list[asyncio.Future[int]] = []
    async with KeyedProcessor(store.load, store.save, min_duration=0) as processor:
        await processor.run("a", lambda resource: inner.append(processor.submit("a", put(2))))
        assert await inner[0] == 2


async def test_stopping_from_inside_a_batch_is_refused(store: Store) -> None:
    async def save(key: str, resource: list[int]) -> None:
        await processor.stop()

    async with KeyedProcessor(store.load, save, min_duration=0) as processor:
        with pytest.raises(SaveFailed) as failure:
            await processor.run("a", put(1))
        assert isinstance(failure.value.__cause__, RuntimeError)
        with pytest.raises(SaveFailed):  # and it is still open
            await processor.run("a", put(2))


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


@pytest.mark.skipif(not hasattr(asyncio, "eager_task_factory"), reason="Python 3.12 has it")
async def test_an_eager_task_factory_changes_nothing(store: Store) -> None:
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
    async with KeyedProcessor(store.load, store.save, min_duration=0) as processor:
        assert await asyncio.gather(processor.submit("a", put(1)), processor.submit("a", put(2))) == [1, 2]
    assert store.saved == [("a", [1, 2])]
