"""The keyed processor: operations of one key run one after another, a batch at a time."""

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Mapping
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from batching.exceptions import BatchError, BatchTimeout, LoadFailed, ProcessorStopped, QueueFull, SaveFailed

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")
T = TypeVar("T")

Load = Callable[[K], Awaitable[R]]
Save = Callable[[K, R], Awaitable[Mapping[Any, BaseException] | None]]
Job = tuple[Callable[[R], Any], "asyncio.Future[Any]"]


class KeyedProcessor(Generic[K, R]):
    """Runs operations on keyed resources in batches: one load, many operations, one save.

    After elgopher/batch. For each key that has work there is one task, which loads the resource, runs
    the waiting operations on it one after another, saves it, and only then gives every caller the
    outcome of their own operation. Two batches of one key are never under way at the same time.

    ``min_duration`` (seconds) is how long a batch gathers from its first operation. With ``0`` batches
    are clocked by ``save`` itself: a lone operation leaves at once, and while it is being saved the
    next batch gathers. ``max_duration`` (seconds, ``None``: no limit) bounds load and save together.
    ``max_size`` and ``max_pending`` (operations, ``None``: no limit) bound a batch and the queue of a
    key.

    ``save`` may return a mapping from an operation's result to an exception: those callers get the
    exception, the others their result.

    Use it with ``async with``, in one event loop.
    """

    def __init__(
        self,
        load: Load[K, R],
        save: Save[K, R],
        *,
        min_duration: float = 0.1,
        max_duration: float | None = None,
        max_size: int | None = None,
        max_pending: int | None = None,
    ) -> None:
        if min_duration < 0:
            raise ValueError("min_duration must not be negative")
        for name, value in (
            ("max_duration", max_duration),
            ("max_size", max_size),
            ("max_pending", max_pending),
        ):
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive or None")
        self._load = load
        self._save = save
        self._min_duration = min_duration
        self._max_duration = max_duration
        self._max_size = max_size
        self._max_pending = max_pending
        self._queues: dict[K, deque[Job[R]]] = {}
        self._tasks: dict[K, asyncio.Task[None]] = {}
        self._open = False
        self._closed = False
        self._hurry = asyncio.Event()
        self._full: dict[K, asyncio.Event] = {}
        self._context = contextvars.copy_context()

    async def __aenter__(self) -> Self:
        if self._open or self._closed:
            raise RuntimeError("a processor is opened once")
        self._open = True
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    def submit(self, key: K, operation: Callable[[R], T]) -> "asyncio.Future[T]":
        """Queue an operation for the next batch of this key and return the future of its outcome.

        ``operation(resource)`` is a plain function without I/O that checks before it changes; what it
        raises reaches only this caller. Cancelling the future before the batch is taken means that the
        operation is never run; afterwards it is run and saved all the same.

        Raises `ProcessorStopped` or `QueueFull`; nothing was queued then.
        """
        if not self._open:
            raise ProcessorStopped("the processor is not open")
        loop = asyncio.get_running_loop()
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = deque()
            # A context of our own: the task outlives the request that happened to start it.
            self._tasks[key] = loop.create_task(
                self._work(key, queue), name=f"batches of {key}", context=self._context.copy()
            )
        elif self._max_pending is not None and len(queue) >= self._max_pending:
            raise QueueFull(f"{len(queue)} operations of {key!r} are waiting")
        future: asyncio.Future[T] = loop.create_future()
        queue.append((operation, future))
        if len(queue) == self._max_size and (full := self._full.get(key)):
            full.set()
        return future

    async def run(self, key: K, operation: Callable[[R], T]) -> T:
        """`submit` and wait for the outcome.

        Raises what the operation raised, what ``save`` returned for its result, `LoadFailed`,
        `SaveFailed`, `ProcessorStopped` or `QueueFull`. Cancelling it ends only this wait (see `submit`).
        """
        return await self.submit(key, operation)

    def pending(self, key: K) -> int:
        """How many operations of this key wait for their batch."""
        return len(self._queues.get(key, ()))

    async def stop(self) -> None:
        """Refuse new work, finish and save what was accepted, at once, and return.

        Safe to call again, also at the same time. Cancelling it aborts: batches under way are cancelled
        and every caller still waiting gets `ProcessorStopped`.
        """
        self._open = False
        self._closed = True
        self._hurry.set()
        tasks = list(self._tasks.values())
        if not tasks:
            return
        try:
            await asyncio.wait(tasks)
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            raise

    async def _work(self, key: K, queue: deque[Job[R]]) -> None:
        batch: list[Job[R]] = []
        try:
            while queue:
                await self._gather(key, queue)
                size = min(len(queue), self._max_size or len(queue))
                taken = [queue.popleft() for _ in range(size)]
                batch = [job for job in taken if not job[1].done()]
                if batch:
                    await self._process(key, batch)
        finally:
            # In the same step as the last look at the queue: a submit that follows starts a new task.
            del self._queues[key], self._tasks[key]
            # Only an abort (or a bug of ours) leaves anyone waiting.
            for _, future in (*batch, *queue):
                if not future.done():
                    future.set_exception(ProcessorStopped("the batch was aborted"))

    async def _gather(self, key: K, queue: deque[Job[R]]) -> None:
        if not self._min_duration or self._hurry.is_set():
            return
        if self._max_size is not None and len(queue) >= self._max_size:
            return
        full = self._full[key] = asyncio.Event()
        waits = [asyncio.ensure_future(event.wait()) for event in (full, self._hurry)]
        try:
            await asyncio.wait(waits, timeout=self._min_duration, return_when=asyncio.FIRST_COMPLETED)
        finally:
            del self._full[key]
            for wait in waits:
                wait.cancel()

    async def _process(self, key: K, batch: list[Job[R]]) -> None:
        results: list[tuple[Any, asyncio.Future[Any]]] = []
        try:
            async with asyncio.timeout(self._max_duration) as timeout:
                failures = await self._run_batch(key, batch, results)
        except BatchError as failure:
            _fail(batch, failure)
            return
        except TimeoutError as cause:
            assert timeout.expired()
            late = BatchTimeout(f"the batch took longer than {self._max_duration} s")
            late.__cause__ = cause
            _fail(batch, late)
            return
        for result, future in results:
            if future.done():  # that caller has left
                continue
            if failures and (error := failures.get(result)) is not None:
                future.set_exception(error)
            else:
                future.set_result(result)

    async def _run_batch(
        self, key: K, batch: list[Job[R]], results: list[tuple[Any, asyncio.Future[Any]]]
    ) -> Mapping[Any, BaseException] | None:
        try:
            resource = await self._load(key)
        except Exception as cause:
            raise LoadFailed(f"loading {key!r} failed: {cause}") from cause
        for operation, future in batch:
            if future.done():  # left during the load: not run
                continue
            try:
                results.append((operation(resource), future))
            except Exception as refusal:
                future.set_exception(refusal)
        if not results:
            return None
        try:
            return await self._save(key, resource)
        except Exception as cause:
            raise SaveFailed(f"saving {key!r} failed: {cause}") from cause


def _fail(batch: list[Job[Any]], failure: BatchError) -> None:
    """Give every member that still waits its own copy: a shared one would collect their tracebacks."""
    for _, future in batch:
        if not future.done():
            own = type(failure)(*failure.args)
            own.__cause__ = failure.__cause__
            future.set_exception(own)
