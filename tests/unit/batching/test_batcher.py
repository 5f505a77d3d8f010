"""The batcher: when it sends, whose result is whose, and that nobody is forgotten."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batching import (
    Batcher,
    BatcherOptions,
    DuplicateKey,
    NoResult,
    ProcessFailed,
    ProcessorStopped,
    QueueFull,
)
from tests.unit.batching.virtual_clock import VirtualClockLoop, settle


class Works:
    """Doubles numbers, records the batches, and can be held up."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.busy = 0
        self.most_busy = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def double(self, jobs: list[Any]) -> list[Any]:
        """Double them."""
        self.batches.append(jobs)
        self.busy += 1
        self.most_busy = max(self.busy, self.most_busy)
        try:
            await self.gate.wait()
            return [job * 2 for job in jobs]
        finally:
            self.busy -= 1


@pytest.fixture
async def works() -> Works:
    """Works whose gate is open."""
    return Works()


# --- options


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_size", 0),
        ("max_size", 1.5),
        ("max_wait", -1),
        ("max_wait", math.inf),
        ("max_wait", "1"),
        ("max_concurrent", 0),
        ("max_pending", True),
        ("when_full", "block"),
        ("job_key", 3),
        ("result_key", "id"),
    ],
)
def test_a_wrong_option_is_named(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{option} must be .*, not "):
        BatcherOptions(**{"max_size": 1, option: value})


def test_a_batcher_that_would_never_send_is_refused() -> None:
    with pytest.raises(ValueError, match="max_size or max_wait"):
        Batcher(Works.double)  # type: ignore[arg-type]


@pytest.mark.parametrize("given_key", ["job_key", "result_key"])
def test_one_key_function_alone_is_refused(given_key: str) -> None:
    with pytest.raises(ValueError, match="together"):
        BatcherOptions(max_size=1, **{given_key: str})


# --- when it sends


async def test_a_full_batch_is_sent_at_once(works: Works) -> None:
    loop = asyncio.get_running_loop()
    async with Batcher(works.double, max_size=3, max_wait=3600) as batcher:
        began = loop.time()
        assert await asyncio.gather(*[batcher.run(n) for n in range(6)]) == [0, 2, 4, 6, 8, 10]
        assert loop.time() == began
    assert works.batches == [[0, 1, 2], [3, 4, 5]]


async def test_a_batch_that_is_not_full_is_sent_when_its_first_job_has_waited(works: Works) -> None:
    loop = asyncio.get_running_loop()
    async with Batcher(works.double, max_size=3, max_wait=10) as batcher:
        began = loop.time()
        first = batcher.submit(1)
        await asyncio.sleep(9)
        second = batcher.submit(2)
        assert await asyncio.gather(first, second) == [2, 4]
        assert loop.time() - began == pytest.approx(10)
    assert works.batches == [[1, 2]]


async def test_a_batch_sent_for_its_size_leaves_no_timer_for_the_next(works: Works) -> None:
    loop = asyncio.get_running_loop()
    async with Batcher(works.double, max_size=2, max_wait=10) as batcher:
        await asyncio.sleep(0)
        first = batcher.submit(1)
        await asyncio.sleep(9)
        await asyncio.gather(first, batcher.submit(2))
        began = loop.time()
        assert await batcher.submit(3) == 6
        assert loop.time() - began == pytest.approx(10)
    assert works.batches == [[1, 2], [3]]


async def test_what_a_full_batch_leaves_over_waits_from_its_own_beginning(works: Works) -> None:
    loop = asyncio.get_running_loop()
    async with Batcher(works.double, max_size=2, max_wait=10, max_concurrent=1) as batcher:
        works.gate.clear()
        await_first = [batcher.submit(n) for n in (1, 2)]
        await settle()
        began = loop.time()
        rest = [batcher.submit(n) for n in (3, 4, 5)]
        await asyncio.sleep(4)
        works.gate.set()
        await asyncio.gather(*await_first, *rest)
        assert loop.time() - began == pytest.approx(10)
    assert works.batches == [[1, 2], [3, 4], [5]]


async def test_without_a_time_a_batch_waits_until_it_is_full_or_flushed(works: Works) -> None:
    async with Batcher(works.double, max_size=3) as batcher:
        futures = [batcher.submit(1)]
        await asyncio.sleep(1_000_000)
        assert works.batches == []
        batcher.flush()
        assert await futures[0] == 2
        batcher.flush()  # nothing waits: nothing happens
        await settle()
    assert works.batches == [[1]]


async def test_what_was_flushed_while_all_are_busy_is_sent_when_one_ends(works: Works) -> None:
    async with Batcher(works.double, max_size=2, max_concurrent=1) as batcher:
        works.gate.clear()
        futures = [batcher.submit(n) for n in range(5)]
        await settle()
        batcher.flush()
        late = batcher.submit(9)
        works.gate.set()
        await asyncio.gather(*futures)
        await settle()
        assert works.batches == [[0, 1], [2, 3], [4, 9]]
        assert await late == 18


async def test_without_a_size_everything_goes_when_the_time_is_up(works: Works) -> None:
    async with Batcher(works.double, max_wait=1) as batcher:
        assert await asyncio.gather(*[batcher.run(n) for n in range(1000)]) == [2 * n for n in range(1000)]
    assert len(works.batches) == 1


async def test_no_wait_at_all_gathers_what_is_submitted_in_one_turn_of_the_loop(works: Works) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with Batcher(works.double, max_wait=0) as batcher:
        await asyncio.gather(*[batcher.run(n) for n in range(3)])
        await batcher.run(3)
    assert works.batches == [[0, 1, 2], [3]]
    assert loop.time() == began


# --- limits


async def test_no_more_batches_than_allowed_are_processed_at_once(works: Works) -> None:
    async with Batcher(works.double, max_size=1, max_concurrent=2) as batcher:
        works.gate.clear()
        futures = [batcher.submit(n) for n in range(6)]
        await settle()
        assert works.busy == 2
        assert batcher.pending == 4
        works.gate.set()
        assert await asyncio.gather(*futures) == [0, 2, 4, 6, 8, 10]
    assert works.most_busy == 2


async def test_batches_are_not_limited_unless_told(works: Works) -> None:
    async with Batcher(works.double, max_size=1) as batcher:
        works.gate.clear()
        futures = [batcher.submit(n) for n in range(50)]
        await settle()
        assert works.busy == 50
        works.gate.set()
        await asyncio.gather(*futures)


async def test_a_full_line_refuses_when_told_to_and_has_room_again_later(works: Works) -> None:
    async with Batcher(
        works.double, max_size=1, max_concurrent=1, max_pending=2, when_full="raise"
    ) as batcher:
        works.gate.clear()
        futures = [batcher.submit(n) for n in range(3)]
        futures[1].cancel()
        futures.append(batcher.submit(4))  # the place of the one who left
        with pytest.raises(QueueFull):
            batcher.submit(3)
        assert batcher.pending == 2
        with pytest.raises(QueueFull):
            await batcher.run(5)
        works.gate.set()
        outcomes = await asyncio.gather(*futures, return_exceptions=True)
        assert [outcomes[0], outcomes[2], outcomes[3]] == [0, 4, 8]
        assert await batcher.run(6) == 12
    assert works.batches == [[0], [2], [4], [6]]


async def test_a_full_line_makes_wait_otherwise_and_sends_no_more_than_may_wait(works: Works) -> None:
    async with Batcher(works.double, max_wait=0, max_concurrent=1, max_pending=2) as batcher:
        works.gate.clear()
        first = asyncio.create_task(batcher.run(0))
        await settle()
        rest = [asyncio.create_task(batcher.run(n)) for n in range(1, 6)]
        await settle()
        rest[3].cancel()
        works.gate.set()
        await asyncio.gather(first, *rest, return_exceptions=True)
    assert works.batches == [[0], [1, 2], [3, 5]]


# --- whose result is whose


@dataclass
class Job:
    """A job with an id."""

    id: str


@dataclass
class Answer:
    """A result with the id of its job."""

    id: str
    text: str


def by_id(process: Callable[[list[Job]], Awaitable[Iterable[Any]]], size: int = 3) -> Batcher[Job, Answer]:
    """A batcher that matches results by id."""
    return Batcher(process, max_size=size, job_key=lambda job: job.id, result_key=lambda answer: answer.id)


async def test_results_find_their_jobs_by_key_in_any_order() -> None:
    async def process(jobs: list[Job]) -> Iterable[Answer]:
        return (Answer(job.id, job.id.upper()) for job in reversed(jobs))

    async with by_id(process) as batcher:
        answers = await asyncio.gather(*[batcher.run(Job(name)) for name in "abc"])
    assert [answer.text for answer in answers] == ["A", "B", "C"]


async def test_a_job_without_a_result_and_a_result_without_a_job(caplog: pytest.LogCaptureFixture) -> None:
    async def process(jobs: list[Job]) -> list[Answer]:
        return [Answer("a", "1"), Answer("a", "2"), Answer("x", "3")]

    async with by_id(process, 2) as batcher:
        with caplog.at_level(logging.WARNING):
            outcomes = await asyncio.gather(
                batcher.run(Job("a")), batcher.run(Job("b")), return_exceptions=True
            )
    assert outcomes[0] == Answer("a", "1")
    assert isinstance(outcomes[1], NoResult)
    assert ["'a'" in r.getMessage() or "'x'" in r.getMessage() for r in caplog.records] == [True, True]


async def test_a_second_job_with_a_waiting_key_is_refused_and_the_first_is_not_harmed() -> None:
    async def process(jobs: list[Job]) -> list[Answer]:
        return [Answer(job.id, "done") for job in jobs]

    async with by_id(process, 2) as batcher:
        first = batcher.submit(Job("a"))
        with pytest.raises(DuplicateKey):
            batcher.submit(Job("a"))
        assert batcher.pending == 1
        second = batcher.submit(Job("b"))
        again = batcher.submit(Job("a"))  # the first was sent
        batcher.flush()
        assert [(await future).text for future in (first, second, again)] == ["done"] * 3


async def test_the_key_of_a_caller_who_left_is_free() -> None:
    async def process(jobs: list[Job]) -> list[Answer]:
        return [Answer(job.id, str(len(jobs))) for job in jobs]

    async with by_id(process) as batcher:
        batcher.submit(Job("a")).cancel()
        again = batcher.submit(Job("a"))
        batcher.flush()
        assert (await again).text == "1"


async def test_a_key_that_cannot_be_made_reaches_its_caller_alone(works: Works) -> None:
    async def process(jobs: list[Job]) -> list[Answer]:
        return [Answer(job.id, "done") for job in jobs]

    async with by_id(process, 1) as batcher:
        with pytest.raises(AttributeError):
            batcher.submit("no job")  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            batcher.submit(Job([]))  # type: ignore[arg-type]
        assert batcher.pending == 0
        assert (await batcher.run(Job("a"))).text == "done"


async def test_a_result_that_has_no_key_fails_those_who_have_no_result_yet() -> None:
    async def process(jobs: list[Job]) -> list[Any]:
        return [Answer("a", "done"), None]

    async with by_id(process, 2) as batcher:
        outcomes = await asyncio.gather(*[batcher.run(Job(name)) for name in "ab"], return_exceptions=True)
    assert outcomes[0] == Answer("a", "done")
    assert isinstance(outcomes[1], ProcessFailed)
    assert isinstance(outcomes[1].__cause__, AttributeError)


@pytest.mark.parametrize("results", [[1], [1, 2, 3], None, 7])
async def test_a_wrong_number_of_results_fails_that_batch_and_only_it(results: Any) -> None:
    answers = iter([results, [5, 6]])

    async def process(jobs: list[int]) -> Any:
        return next(answers)

    async with Batcher(process, max_size=2, isolate_errors=True) as batcher:
        outcomes = await asyncio.gather(batcher.run(1), batcher.run(2), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ProcessFailed, ProcessFailed]
        assert await asyncio.gather(batcher.run(1), batcher.run(2)) == [5, 6]


async def test_an_exception_among_the_results_is_raised_at_its_own_caller() -> None:
    async def process(jobs: list[int]) -> list[Any]:
        return [1, KeyError("two"), StopIteration("three"), asyncio.CancelledError()]

    async with Batcher(process, max_size=4) as batcher:
        outcomes = await asyncio.gather(*[batcher.submit(n) for n in range(4)], return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [int, KeyError, RuntimeError, asyncio.CancelledError]


@pytest.mark.parametrize("error", [OSError("disk"), asyncio.CancelledError(), StopIteration()])
async def test_a_batch_that_raises_tells_all_its_jobs_and_no_others(error: BaseException) -> None:
    errors: list[BaseException | None] = [error, None]

    async def process(jobs: list[int]) -> list[int]:
        if raised := errors.pop(0):
            raise raised
        return jobs

    async with Batcher(process, max_size=2) as batcher:
        failures = await asyncio.gather(batcher.run(1), batcher.run(2), return_exceptions=True)
        assert [type(failure) for failure in failures] == [ProcessFailed, ProcessFailed]
        assert failures[0] is not failures[1]
        assert await asyncio.gather(batcher.run(3), batcher.run(4)) == [3, 4]


# --- poisoned jobs


@pytest.mark.parametrize("bad", [{7}, {0}, {99}, {3, 4}, {1, 30, 60, 90}])
async def test_bad_jobs_fail_alone_where_errors_are_isolated(bad: set[int]) -> None:
    calls = []

    async def process(jobs: list[int]) -> list[int]:
        calls.append(len(jobs))
        if bad & set(jobs):
            raise ValueError("bad")
        return jobs

    async with Batcher(process, max_size=100, isolate_errors=True) as batcher:
        outcomes = await asyncio.gather(*[batcher.run(n) for n in range(100)], return_exceptions=True)
    assert {n for n, outcome in enumerate(outcomes) if isinstance(outcome, ProcessFailed)} == bad
    assert all(outcome == n for n, outcome in enumerate(outcomes) if n not in bad)
    assert len(calls) <= 1 + 2 * 7 * len(bad)


async def test_the_tries_are_bounded_when_everything_fails() -> None:
    calls = []

    async def process(jobs: list[int]) -> list[int]:
        calls.append(jobs)
        raise OSError("disk")

    async with Batcher(process, max_size=1000, isolate_errors=True) as batcher:
        outcomes = await asyncio.gather(*[batcher.run(n) for n in range(1000)], return_exceptions=True)
        assert len(calls) <= batcher.options.tries(1000) == 81
    assert {type(outcome) for outcome in outcomes} == {ProcessFailed}
    assert {n for jobs in calls for n in jobs} == set(range(1000))


# --- callers who leave


async def test_who_leaves_before_the_batch_is_sent_is_never_processed(works: Works) -> None:
    async with Batcher(works.double, max_size=3, max_wait=10) as batcher:
        leaver = asyncio.create_task(batcher.run(1))
        stayer = batcher.submit(2)
        await settle()
        leaver.cancel()
        assert await stayer == 4
    assert works.batches == [[2]]


async def test_who_leaves_afterwards_does_not_disturb_the_others(works: Works) -> None:
    async with Batcher(works.double, max_size=2) as batcher:
        works.gate.clear()
        leaver, stayer = asyncio.create_task(batcher.run(1)), asyncio.create_task(batcher.run(2))
        await settle()
        leaver.cancel()
        await settle()
        works.gate.set()
        assert await stayer == 4
        assert leaver.cancelled()
    assert works.batches == [[1, 2]]


async def test_a_batch_that_everybody_left_is_not_sent(works: Works) -> None:
    async with Batcher(works.double, max_size=5, max_wait=1) as batcher:
        batcher.submit(1).cancel()
        await asyncio.sleep(2)
        assert batcher.pending == 0
    assert works.batches == []


# --- stopping


async def test_stop_processes_what_was_accepted_at_once_and_refuses_more(works: Works) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with Batcher(works.double, max_size=2, max_wait=3600, max_concurrent=1) as batcher:
        futures = [batcher.submit(n) for n in range(5)]
    assert [future.result() for future in futures] == [0, 2, 4, 6, 8]
    assert loop.time() == began
    with pytest.raises(ProcessorStopped):
        batcher.submit(9)
    with pytest.raises(RuntimeError):
        await batcher.__aenter__()


async def test_stop_can_be_called_again_and_at_the_same_time(works: Works) -> None:
    batcher = Batcher(works.double, max_size=1)
    works.gate.clear()
    future = batcher.submit(1)
    stops = [asyncio.create_task(batcher.stop()) for _ in range(2)]
    await settle()
    assert not any(stop.done() for stop in stops)
    works.gate.set()
    await asyncio.gather(*stops)
    assert future.result() == 2
    await batcher.stop()


async def test_cancelling_stop_tells_every_waiter(works: Works) -> None:
    batcher = Batcher(works.double, max_size=1, max_concurrent=1)
    works.gate.clear()
    futures = [batcher.submit(n) for n in range(3)]
    await settle()
    stop = asyncio.create_task(batcher.stop())
    await settle()
    stop.cancel()
    outcomes = await asyncio.gather(*futures, stop, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ProcessorStopped] * 3 + [asyncio.CancelledError]
    assert works.batches == [[0]]


async def test_stopping_from_inside_a_batch_is_refused() -> None:
    async def process(jobs: list[int]) -> list[int]:
        await batcher.stop()
        return jobs

    async with Batcher(process, max_size=1) as batcher:
        with pytest.raises(ProcessFailed) as failure:
            await batcher.run(1)
    assert isinstance(failure.value.__cause__, RuntimeError)


async def test_a_process_may_submit_more() -> None:
    async def process(jobs: list[int]) -> list[Any]:
        return [batcher.submit(job - 1) if job else None for job in jobs]

    async with Batcher(process, max_wait=0) as batcher:
        inner: Any = await batcher.run(2)
        inner = await inner
        assert await inner is None


async def test_an_idle_batcher_has_neither_task_nor_timer(works: Works) -> None:
    async with Batcher(works.double, max_size=2, max_wait=10) as batcher:
        await batcher.run(1)
        await settle()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert batcher._timer is None


# --- anything in any order

EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.integers(1, 5)),
        st.tuples(st.just("cancel"), st.integers(0, 20)),
        st.tuples(st.just("pass"), st.sampled_from([0, 1, 5, 20])),
        st.tuples(st.just("flush"), st.just(0)),
        st.tuples(st.just("break"), st.integers(0, 1)),
    ),
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(
    events=EVENTS,
    max_size=st.sampled_from([None, 1, 2, 3]),
    max_wait=st.sampled_from([None, 0, 5]),
    max_concurrent=st.sampled_from([None, 1, 2]),
    max_pending=st.sampled_from([None, 1, 3]),
    when_full=st.sampled_from(["wait", "raise"]),
    isolate_errors=st.booleans(),
)
def test_every_job_has_exactly_one_outcome(events: list[tuple[str, int]], **options: Any) -> None:
    if options["max_size"] is None and options["max_wait"] is None:
        options["max_size"] = 4
    seen: list[int] = []
    broken = [0]
    busy = [0]

    async def process(jobs: list[int]) -> list[int]:
        assert jobs
        assert len(jobs) <= min(options["max_size"] or 999, options["max_pending"] or 999)
        busy[0] += 1
        assert busy[0] <= (options["max_concurrent"] or 999)
        try:
            await asyncio.sleep(2)
        finally:
            busy[0] -= 1
        if broken[0]:
            raise OSError("disk")
        seen.extend(jobs)
        return [-job for job in jobs]

    async def main() -> None:
        futures: list[asyncio.Future[int]] = []
        left: set[int] = set()
        async with Batcher(process, **options) as batcher:
            for what, number in events:
                if what == "submit":
                    for _ in range(number):
                        try:
                            futures.append(batcher.submit(len(futures)))
                        except QueueFull:
                            assert options["when_full"] == "raise"
                            assert batcher.pending == options["max_pending"]
                elif what == "cancel" and number < len(futures) and futures[number].cancel():
                    left.add(number)
                elif what == "pass":
                    await asyncio.sleep(number)
                elif what == "flush":
                    batcher.flush()
                elif what == "break":
                    broken[0] = number
        assert batcher.pending == 0
        assert len(seen) == len(set(seen))
        for number, future in enumerate(futures):
            if number in left:
                assert future.cancelled()
            elif future.exception():
                assert isinstance(future.exception(), ProcessFailed)
                assert number not in seen
            else:
                assert future.result() == -number
                assert number in seen

    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        runner.run(main())
