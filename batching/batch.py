"""What waits for a batch, and a batch under way: every member ends in exactly one outcome."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from batching.exceptions import BatchError, Undecided
from batching.metrics import BatchMetric, SentBy

Job = tuple[Callable[[Any], Any], "asyncio.Future[Any]", float]
"""An operation, the future of its outcome, and when it was submitted by the loop's clock."""


class Queue:
    """The operations of one key that wait, and the task that will take them."""

    __slots__ = ("_alarm", "_tidied", "has_waited", "jobs", "lane", "task")

    task: "asyncio.Task[None]"

    def __init__(self, lane: asyncio.Lock) -> None:
        self.jobs: deque[Job] = deque()
        self.lane = lane
        self.has_waited = False
        self._alarm: asyncio.Future[None] | None = None
        self._tidied = False

    def has_room(self, limit: int) -> bool:
        """Whether one more may wait. Callers who left hold no place, as far as that is cheap to know."""
        if len(self.jobs) >= limit and not self._tidied:
            # Where most are still there, once for each batch: a crowd would go through them each time.
            self.jobs = deque(job for job in self.jobs if not job[1].done())
            self._tidied = len(self.jobs) > limit // 2
        return len(self.jobs) < limit

    def take(self, size: int | None) -> list[Job]:
        """Take the next operations whose callers are still there."""
        self._tidied = False
        batch: list[Job] = []
        while self.jobs and (size is None or len(batch) < size):
            job = self.jobs.popleft()
            if not job[1].done():
                batch.append(job)
        return batch

    def put_back(self, jobs: list[Job]) -> None:
        """Put operations before all that wait, in their order; they need no room."""
        self.jobs.extendleft(reversed(jobs))

    async def sleep_until(self, due: float, loop: asyncio.AbstractEventLoop) -> None:
        """Wait until a time of the loop's clock, or until `wake`."""
        self._alarm = loop.create_future()
        timer = loop.call_at(due, self.wake)
        try:
            await self._alarm
        finally:
            timer.cancel()
            self._alarm = None

    def note_waited(self) -> None:
        """Others had their turn on the loop."""
        self.has_waited = True

    def wake(self) -> None:
        """End the wait."""
        if self._alarm is not None and not self._alarm.done():
            self._alarm.set_result(None)


class Batch:
    """The members of one batch: their results, their outcomes, and how long it took."""

    def __init__(self, jobs: list[Job]) -> None:
        self.size = len(jobs)
        self.results: list[tuple[Any, asyncio.Future[Any]]] = []
        self.failed = 0
        self._jobs = jobs
        self._undecided: set[asyncio.Future[Any]] = set()
        self._error: BatchError | None = None
        self._clock = asyncio.get_running_loop().time
        self._taken_at = self._clock()
        self._loaded_at: float | None = None
        self._run_at: float | None = None

    def run(self, resource: Any) -> None:
        """Run every operation whose caller is still there; what one raises is its outcome.

        One that is undecided has none yet, if there is a result before it that it can wait for.
        """
        self._loaded_at = self._clock()
        for operation, future, _ in self._jobs:
            if future.done():  # left during the load
                continue
            try:
                self.results.append((operation(resource), future))
            except (Exception, asyncio.CancelledError) as refusal:
                if isinstance(refusal, Undecided) and self.results:
                    self._undecided.add(future)
                    continue
                self.failed += 1
                refuse(future, refusal)
        self._run_at = self._clock()

    def settle(self, failures: Mapping[Any, BaseException]) -> None:
        """Give every member that still waits its result, or its own failure."""
        for result, future in self.results:
            error = _get(failures, result) if failures else None
            if error is None:
                if not future.done():
                    future.set_result(result)
            elif isinstance(error, Undecided):
                self._undecided.add(future)
            else:
                self.failed += 1
                refuse(future, error)

    def fail(self, failure: BatchError, cause: BaseException) -> None:
        """Give every member that still waits its own copy: a shared one would collect their tracebacks.

        What is undecided was not tried: it is no part of the failure.
        """
        self._error = failure
        failure.__cause__ = cause
        for _, future, _ in self._jobs:
            if not future.done() and future not in self._undecided:
                own = type(failure)(*failure.args)
                own.__cause__ = cause
                self.failed += 1
                refuse(future, own)

    def take_undecided(self) -> list[Job]:
        """Take out those who are to be run again, in their order: they belong to the next batch."""
        undecided = [job for job in self._jobs if job[1] in self._undecided] if self._undecided else []
        self.size -= len(undecided)
        return undecided

    def metric(self, key: Any, started_at: float, sent_by: SentBy) -> BatchMetric:
        """What is told to subscribers."""
        now = self._clock()
        loaded_at = now if self._loaded_at is None else self._loaded_at
        run_at = now if self._run_at is None else self._run_at
        return BatchMetric(
            key=key,
            started_at=started_at,
            operations=self.size,
            failed=self.failed,
            load_seconds=loaded_at - self._taken_at,
            save_seconds=now - run_at,
            total_seconds=now - self._taken_at,
            longest_wait=self._taken_at - self._jobs[0][2],
            sent_by=sent_by,
            error=self._error,
        )


def refuse(future: "asyncio.Future[Any]", error: BaseException) -> None:
    """Give a caller an exception, whichever, unless that caller has left or knows already."""
    if future.done():
        return
    if isinstance(error, asyncio.CancelledError):
        future.cancel(*error.args)
    elif isinstance(error, StopIteration):
        # A future cannot carry it: whoever awaits it would seem to have returned.
        wrapped = RuntimeError(f"the operation raised {error!r}")
        wrapped.__cause__ = error
        future.set_exception(wrapped)
    else:
        future.set_exception(error)


def _get(failures: Mapping[Any, BaseException], result: Any) -> BaseException | None:
    try:
        return failures.get(result)
    except TypeError:  # it cannot be hashed, so no failure can have been named for it
        return None
