"""The batcher: single jobs from many callers, processed many at a time, a result for each."""

import asyncio
import contextvars
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar

from batching.batch import refuse
from batching.exceptions import DuplicateKey, NoResult, ProcessFailed, ProcessorStopped, QueueFull
from batching.options import check, is_count, is_number

J = TypeVar("J")
R = TypeVar("R")

Process = Callable[[list[J]], Awaitable[Iterable[R | BaseException]]]
JobKey = Callable[[Any], Hashable]
Waiting = tuple[Any, "asyncio.Future[Any]", Hashable, float]
"""A job, the future of its result, its key (``None`` without keys), and when it was submitted."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class BatcherOptions:
    """What `Batcher` can be told. Raises `ValueError` that names the option which is wrong."""

    max_size: int | None = None
    """Jobs in a batch at most; a full one is sent at once."""

    max_wait: float | None = None
    """Seconds that a job waits for others at most, unless all batches are busy. 0: until the loop's next
    turn, so that what is submitted in one turn goes together. ``None``: until the batch is full."""

    max_concurrent: int | None = None
    """Batches processed at the same time, at most."""

    max_pending: int | None = None
    """Jobs that may wait to be sent."""

    when_full: Literal["wait", "raise"] = "wait"
    """What happens to more of them: they stand in line until there is room, or are refused."""

    job_key: JobKey | None = None
    result_key: JobKey | None = None
    """Functions that tell which result is whose. Without them results come in the order of the jobs."""

    isolate_errors: bool = False
    """Whether a batch that raised is tried again in halves, so that one bad job fails alone."""

    def __post_init__(self) -> None:
        for name in ("max_size", "max_concurrent", "max_pending"):
            limit = getattr(self, name)
            check(name, limit, limit is None or is_count(limit), "a positive whole number or None")
        check(
            "max_wait",
            self.max_wait,
            self.max_wait is None or is_number(self.max_wait, 0),
            "0 or more, or None",
        )
        check("when_full", self.when_full, self.when_full in ("wait", "raise"), "'wait' or 'raise'")
        for name in ("job_key", "result_key"):
            function = getattr(self, name)
            check(name, function, function is None or callable(function), "a function or None")
        if self.max_size is None and self.max_wait is None:
            raise ValueError("max_size or max_wait must be given: no batch would ever be sent")
        if (self.job_key is None) != (self.result_key is None):
            raise ValueError("job_key and result_key must be given together")

    def tries(self, size: int) -> int:
        """How often ``process`` may be called for a batch of so many jobs.

        One bad job costs two calls for each time the batch can be halved; this is enough for four.
        """
        return 1 + 8 * math.ceil(math.log2(size)) if self.isolate_errors and size > 1 else 1


class Batcher(Generic[J, R]):
    """Collects jobs and processes them in batches; after fillmore-labs/microbatch and facebookgo/muster.

    ``await process(jobs)`` gives the results: in the order of the jobs, or in any order where
    ``job_key`` and ``result_key`` tell whose they are. A result that is an exception is raised at its
    own caller. When ``process`` raises, every job of that batch gets `ProcessFailed`.

    The options are those of `BatcherOptions`, which says what they mean and what is refused. With
    ``isolate_errors``, ``process`` may see a job again that it has seen in a batch that raised, so it
    must be harmless to repeat or undo what it did before it raises.

    Use it with ``async with``, or `stop` it, in one event loop.
    """

    def __init__(
        self,
        process: Process[J, R],
        *,
        max_size: int | None = None,
        max_wait: float | None = None,
        max_concurrent: int | None = None,
        max_pending: int | None = None,
        when_full: Literal["wait", "raise"] = "wait",
        job_key: Callable[[J], Hashable] | None = None,
        result_key: Callable[[R], Hashable] | None = None,
        isolate_errors: bool = False,
    ) -> None:
        self.options = BatcherOptions(
            max_size=max_size,
            max_wait=max_wait,
            max_concurrent=max_concurrent,
            max_pending=max_pending,
            when_full=when_full,
            job_key=job_key,
            result_key=result_key,
            isolate_errors=isolate_errors,
        )
        self._process = process
        self._line: deque[Waiting] = deque()
        self._keys: dict[Hashable, asyncio.Future[Any]] = {}
        self._due = 0  # so many at the head of the line must not wait any longer
        self._tidied = False
        self._timer: asyncio.Handle | None = None
        self._batches: dict[asyncio.Task[None], list[Waiting]] = {}
        self._stopped = False
        self._context = contextvars.copy_context()

    async def __aenter__(self) -> Self:
        if self._stopped:
            raise RuntimeError("a batcher that was stopped stays so")
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    @property
    def pending(self) -> int:
        """How many jobs wait to be sent."""
        return len(self._line)

    def submit(self, job: J) -> "asyncio.Future[R]":
        """Queue a job for the next batch and return the future of its result.

        Cancelling the future before the batch is sent means that the job is never processed;
        afterwards it is processed all the same. Where ``max_pending`` jobs wait already, one more
        stands in line behind them: whoever does not await the futures is not held back (see `run`).

        Raises `ProcessorStopped`, `DuplicateKey`, `QueueFull` (only with ``when_full="raise"``), or what
        ``job_key`` raised; nothing was queued then.
        """
        if self._stopped:
            raise ProcessorStopped("the batcher is stopped")
        options = self.options
        loop = asyncio.get_running_loop()
        if options.max_pending is not None and options.when_full == "raise" and not self._has_room():
            raise QueueFull(f"{len(self._line)} jobs are waiting")
        key = None
        future: asyncio.Future[R] = loop.create_future()
        if options.job_key is not None:
            key = options.job_key(job)
            if (other := self._keys.get(key)) is not None and not other.done():
                raise DuplicateKey(f"a job with the key {key!r} is waiting")
            self._keys[key] = future
        self._line.append((job, future, key, loop.time()))
        if len(self._line) == options.max_size:
            self._send(loop)
        elif self._timer is None and not self._due and options.max_wait is not None:
            self._set_timer(loop)
        return future

    async def run(self, job: J) -> R:
        """`submit` and wait for the result.

        Raises what `submit` raises, the exception that is the job's result, `ProcessFailed`, `NoResult`
        or `ProcessorStopped`. Cancelling it ends only this wait (see `submit`).
        """
        return await self.submit(job)

    def flush(self) -> None:
        """Send what waits, without waiting for more; as soon as a batch may run, where all are busy."""
        self._due = len(self._line)
        if self._line:
            self._send(asyncio.get_running_loop())

    async def stop(self) -> None:
        """Refuse new jobs, process what was accepted, at once, and return.

        Safe to call again, also at the same time. Cancelling it aborts: batches under way are cancelled
        and every caller still waiting gets `ProcessorStopped`. Raises `RuntimeError` where ``process`` of
        this batcher calls it: it would wait for itself.
        """
        if asyncio.current_task() in self._batches:
            raise RuntimeError("a batch cannot stop its own batcher")
        self._stopped = True
        self.flush()
        try:
            while self._batches:
                await asyncio.wait(self._batches)
        except asyncio.CancelledError:
            self._abort()
            while self._batches:
                await asyncio.wait(self._batches)
            raise

    # --- when to send

    def _has_room(self) -> bool:
        limit = self.options.max_pending
        assert limit is not None
        if len(self._line) >= limit and not self._tidied:
            # Callers who left hold no place. Where most are still there, once for each batch: going through
            # the line for each of a crowd would cost too much.
            self._line = deque(waiting for waiting in self._line if not waiting[1].done())
            self._tidied = len(self._line) > limit // 2
        return len(self._line) < limit

    def _set_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        assert self.options.max_wait is not None
        if self.options.max_wait:
            self._timer = loop.call_at(self._line[0][3] + self.options.max_wait, self._time_is_up, loop)
        else:
            self._timer = loop.call_soon(self._time_is_up, loop)

    def _time_is_up(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        self._due = max(self._due, 1)
        self._send(loop)

    def _send(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start as many batches as are due and may run."""
        size, concurrent = self.options.max_size, self.options.max_concurrent
        while self._line and (self._due or (size is not None and len(self._line) >= size)):
            if concurrent is not None and len(self._batches) >= concurrent:
                return  # whichever ends first comes back here
            if batch := self._take():
                # Not by the loop's task factory: an eager one would process inside of submit.
                task = asyncio.Task(
                    self._run(batch), loop=loop, name="batch of jobs", context=self._context.copy()
                )
                self._batches[task] = batch
                task.add_done_callback(self._ended)
        # The timer was that of the first in line, who may be gone.
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._line and self.options.max_wait is not None:
            self._set_timer(loop)

    def _take(self) -> list[Waiting]:
        """Take the next batch from the line: those whose callers are still there."""
        self._tidied = False
        most = min(
            limit for limit in (self.options.max_size, self.options.max_pending, len(self._line)) if limit
        )
        batch: list[Waiting] = []
        while self._line and len(batch) < most:
            waiting = self._line.popleft()
            self._due = max(self._due - 1, 0)
            _, future, key, _ = waiting
            if self._keys.get(key) is future:
                del self._keys[key]
            if not future.done():
                batch.append(waiting)
        if not self._line:
            self._due = 0
        return batch

    def _ended(self, task: "asyncio.Task[None]") -> None:
        for _, future, _, _ in self._batches.pop(task):  # only an abort leaves anyone waiting
            refuse(future, ProcessorStopped("the batcher was aborted"))
        if self._line:
            self._send(asyncio.get_running_loop())

    def _abort(self) -> None:
        for _, future, _, _ in self._line:
            refuse(future, ProcessorStopped("the batcher was aborted"))
        self._line.clear()
        self._keys.clear()
        for task in self._batches:
            task.cancel()

    # --- one batch

    async def _run(self, batch: list[Waiting]) -> None:
        """Process a batch; where it raises and errors are isolated, its halves, as often as allowed."""
        tries = self.options.tries(len(batch))
        parts = deque([batch])
        while parts:
            part = [waiting for waiting in parts.popleft() if not waiting[1].done()]
            if not part:
                continue
            tries -= 1
            try:
                results = await self._process([job for job, _, _, _ in part])
            except (Exception, asyncio.CancelledError) as cause:
                task = asyncio.current_task()
                if isinstance(cause, asyncio.CancelledError) and task is not None and task.cancelling():
                    raise  # an abort of ours, not a cancellation that process met inside
                if len(part) > 1 and tries >= len(parts) + 2:
                    middle = len(part) // 2
                    parts.extendleft((part[middle:], part[:middle]))
                else:
                    _fail(part, cause)
                continue
            try:
                self._settle(part, results)
            except Exception as cause:
                _fail(part, cause)

    def _settle(self, part: list[Waiting], results: Iterable[Any]) -> None:
        results = list(results)
        result_key = self.options.result_key
        if result_key is None:
            if len(results) != len(part):
                raise ValueError(f"process gave {len(results)} results for {len(part)} jobs")
            for waiting, result in zip(part, results, strict=True):
                _answer(waiting[1], result)
            return
        futures = {key: future for _, future, key, _ in part}
        for result in results:
            key = result_key(result)
            if key in futures:
                _answer(futures.pop(key), result)
            else:
                logger.warning("dropped a result that nobody waits for, with the key %r", key)
        for key, future in futures.items():
            refuse(future, NoResult(f"process gave no result for the key {key!r}"))


def _answer(future: "asyncio.Future[Any]", result: Any) -> None:
    if isinstance(result, BaseException):
        refuse(future, result)
    elif not future.done():
        future.set_result(result)


def _fail(part: list[Waiting], cause: BaseException) -> None:
    """Give every job that has no answer its own copy: a shared one would collect their tracebacks."""
    for _, future, _, _ in part:
        failure = ProcessFailed(f"processing failed: {cause!r}")
        failure.__cause__ = cause
        refuse(future, failure)
