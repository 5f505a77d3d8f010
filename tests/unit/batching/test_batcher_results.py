"""The batcher: whose result is whose, and who is harmed by a bad job."""

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

import pytest

from batching import (
    Batcher,
    DuplicateKey,
    NoResult,
    ProcessFailed,
)
from tests.unit.batching.works import Answer, Job, Works, by_id


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
