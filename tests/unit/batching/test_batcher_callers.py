"""The batcher: callers who leave, its end, and that nobody is forgotten."""

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batching import (
    Batcher,
    ProcessFailed,
    ProcessorStopped,
    QueueFull,
)
from tests.unit.batching.virtual_clock import VirtualClockLoop, settle
from tests.unit.batching.works import Works

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


class History:
    """What happened to a batcher, job by job. A job is its number, and its result the negative of it."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.futures: list[asyncio.Future[int]] = []
        self.left: set[int] = set()
        self.seen: list[int] = []
        self.busy = 0
        self.broken = False

    async def process(self, jobs: list[int]) -> list[int]:
        """Take two seconds, and no more than was allowed; fail while it is broken."""
        assert jobs
        assert len(jobs) <= min(self.options["max_size"] or 999, self.options["max_pending"] or 999)
        self.busy += 1
        assert self.busy <= (self.options["max_concurrent"] or 999)
        try:
            await asyncio.sleep(2)
        finally:
            self.busy -= 1
        if self.broken:
            raise OSError("disk")
        self.seen.extend(jobs)
        return [-job for job in jobs]

    def submit(self, batcher: Batcher[int, int]) -> None:
        """One more job; only a full batcher that was told to may refuse it."""
        try:
            self.futures.append(batcher.submit(len(self.futures)))
        except QueueFull:
            assert self.options["when_full"] == "raise"
            assert batcher.pending == self.options["max_pending"]

    async def happen(self, batcher: Batcher[int, int], what: str, number: int) -> None:
        """One event."""
        if what == "submit":
            for _ in range(number):
                self.submit(batcher)
        elif what == "cancel" and number < len(self.futures) and self.futures[number].cancel():
            self.left.add(number)
        elif what == "pass":
            await asyncio.sleep(number)
        elif what == "flush":
            batcher.flush()
        elif what == "break":
            self.broken = bool(number)

    def assert_each_job_had_one_outcome(self) -> None:
        """Cancelled by who left, failed and not done, or done once."""
        assert len(self.seen) == len(set(self.seen))
        for number, future in enumerate(self.futures):
            if number in self.left:
                assert future.cancelled()
            elif future.exception():
                assert isinstance(future.exception(), ProcessFailed)
                assert number not in self.seen
            else:
                assert future.result() == -number
                assert number in self.seen


@settings(max_examples=100, deadline=None)
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

    async def main() -> None:
        history = History(options)
        async with Batcher(history.process, **options) as batcher:
            for what, number in events:
                await history.happen(batcher, what, number)
        assert batcher.pending == 0
        history.assert_each_job_had_one_outcome()

    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        runner.run(main())
