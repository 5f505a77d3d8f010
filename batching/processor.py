"""The keyed processor: operations of one key run one after another, a batch at a time."""

import asyncio
import contextvars
import time
import weakref
from collections.abc import Awaitable, Callable, Hashable, Mapping
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from batching.batch import Batch, Queue, refuse
from batching.exceptions import BatchError, BatchTimeout, LoadFailed, ProcessorStopped, QueueFull, SaveFailed
from batching.metrics import ProcessorStatistics, SentBy, Subscription
from batching.options import DEFAULT_LANES, LaneForKey, ProcessorOptions, lane_for_key

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")
T = TypeVar("T")

Load = Callable[[K], Awaitable[R]]
Save = Callable[[K, R], Awaitable[Mapping[Any, BaseException] | None]]


class KeyedProcessor(Generic[K, R]):
    """Runs operations on keyed resources in batches: one load, many operations, one save.

    After elgopher/batch. For each key that has work there is one task, which loads the resource, runs
    the waiting operations on it one after another, saves it, and only then gives every caller the
    outcome of their own operation. Two batches of one key are never under way at the same time; keys
    run side by side, but for those of one lane.

    ``load(key)`` gives the resource; without it the resource is ``None``. ``save(key, resource)`` stores
    it; it may return a mapping from an operation's result to an exception: the callers with such a
    result get the exception, the others their result. Neither may wait for this processor. An operation
    that cannot be decided before the batch is saved is run again in the next one (see `Undecided`).

    The options are those of `ProcessorOptions`, which says what they mean and what is refused.

    Use it with ``async with``, in one event loop.
    """

    def __init__(
        self,
        load: Load[K, R] | None = None,
        save: Save[K, R] | None = None,
        *,
        min_duration: float = 0.1,
        max_duration: float | None = None,
        save_timeout: float | None = None,
        max_size: int | None = None,
        max_pending: int | None = None,
        lanes: int = DEFAULT_LANES,
        lane_for_key: LaneForKey = lane_for_key,
    ) -> None:
        self.options = ProcessorOptions(
            min_duration=min_duration,
            max_duration=max_duration,
            save_timeout=save_timeout,
            max_size=max_size,
            max_pending=max_pending,
            lanes=lanes,
            lane_for_key=lane_for_key,
        )
        self._load = load
        self._save = save
        self._queues: dict[K, Queue] = {}
        # A lane lives as long as a queue that uses it.
        self._lanes: weakref.WeakValueDictionary[int, asyncio.Lock] = weakref.WeakValueDictionary()
        self._open = False
        self._closed = False
        self._context = contextvars.copy_context()
        self._subscriptions: weakref.WeakSet[Subscription] = weakref.WeakSet()
        self._running = self._batches = self._operations = self._failed = self._refused = 0

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

        Raises `ProcessorStopped`, `QueueFull`, or what ``lane_for_key`` raised; nothing was queued then.
        """
        if not self._open:
            raise ProcessorStopped("the processor is not open")
        loop = asyncio.get_running_loop()
        queue = self._queues.get(key)
        most = self.options.max_pending
        if queue is None or queue.task.done():
            queue = self._start(key, loop)
        elif most is not None and len(queue.jobs) >= most and not queue.has_room(most):
            self._refused += 1
            raise QueueFull(f"{len(queue.jobs)} operations of {key!r} are waiting")
        future: asyncio.Future[T] = loop.create_future()
        queue.jobs.append((operation, future, loop.time()))
        if self._is_full(queue):
            queue.wake()
        return future

    async def run(self, key: K, operation: Callable[[R], T]) -> T:
        """`submit` and wait for the outcome.

        Raises what the operation raised, what ``save`` returned for its result, `LoadFailed`,
        `SaveFailed`, `BatchTimeout`, `ProcessorStopped` or `QueueFull`. Cancelling it ends only this wait
        (see `submit`).
        """
        return await self.submit(key, operation)

    def pending(self, key: K) -> int:
        """How many operations of this key wait for their batch."""
        queue = self._queues.get(key)
        return len(queue.jobs) if queue else 0

    def subscribe(self, capacity: int = 1000) -> Subscription:
        """Every `BatchMetric` from now on, for one consumer that may be slow; see `Subscription`."""
        subscription = Subscription(capacity)
        if self._closed and not self._queues:
            subscription.close()
        else:
            self._subscriptions.add(subscription)
        return subscription

    def statistics(self) -> ProcessorStatistics:
        """This moment, and the sums so far."""
        return ProcessorStatistics(
            open=self._open,
            keys=len(self._queues),
            waiting=sum(len(queue.jobs) for queue in self._queues.values()),
            running=self._running,
            batches=self._batches,
            operations=self._operations,
            failed=self._failed,
            refused=self._refused,
            subscribers=sum(not subscription.closed for subscription in self._subscriptions),
        )

    async def stop(self) -> None:
        """Refuse new work, finish and save what was accepted, at once, and return.

        Safe to call again, also at the same time. Cancelling it aborts: batches under way are cancelled
        and every caller still waiting gets `ProcessorStopped`. Raises `RuntimeError` where ``load`` or
        ``save`` of this processor calls it: it would wait for itself.
        """
        tasks = [queue.task for queue in self._queues.values()]
        if asyncio.current_task() in tasks:
            raise RuntimeError("a batch cannot stop its own processor")
        self._open = False
        self._closed = True
        for queue in self._queues.values():
            queue.wake()
        try:
            if tasks:
                await asyncio.wait(tasks)
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            raise
        finally:
            for subscription in list(self._subscriptions):
                subscription.close()
            self._subscriptions.clear()

    def _start(self, key: K, loop: asyncio.AbstractEventLoop) -> Queue:
        lanes = self.options.lanes
        number = self.options.lane_for_key(key, lanes)
        if not 0 <= number < lanes:
            raise ValueError(f"lane_for_key gave {number!r} for {key!r}, and there are {lanes} lanes")
        lane = self._lanes.get(number)
        if lane is None:
            lane = self._lanes[number] = asyncio.Lock()
        queue = self._queues[key] = Queue(lane)
        # Not by the loop's task factory: an eager one would run the first batch inside submit. And in a
        # context of our own: the task outlives the request that happened to start it.
        queue.task = asyncio.Task(
            self._work(key, queue), loop=loop, name=f"batches of {key!r}", context=self._context.copy()
        )
        queue.task.add_done_callback(lambda task: self._forget(key, queue))
        return queue

    def _forget(self, key: K, queue: Queue) -> None:
        if self._queues.get(key) is queue:
            del self._queues[key]
        for _, future, _ in queue.jobs:  # only an abort leaves anyone waiting
            refuse(future, ProcessorStopped("the processor was aborted"))

    async def _work(self, key: K, queue: Queue) -> None:
        loop = asyncio.get_running_loop()
        while queue.jobs:
            sent_by = await self._gather(queue)
            queue.has_waited = False
            loop.call_soon(queue.note_waited)
            async with queue.lane:
                if self._is_full(queue):
                    sent_by = SentBy.SIZE
                if jobs := queue.take(self.options.max_size):
                    await self._process(key, queue, Batch(jobs), sent_by)
            if _is_aborted():  # and load or save made another error of it
                raise asyncio.CancelledError
            if not queue.has_waited:
                # Neither load nor save had to wait: without this, a long queue would keep the loop.
                await asyncio.sleep(0)

    async def _gather(self, queue: Queue) -> SentBy:
        """Wait until the next batch is due."""
        if not self.options.min_duration:
            return SentBy.CLOCK
        loop = asyncio.get_running_loop()
        while not self._closed:
            # The window begins with the first who is still there.
            while queue.jobs and queue.jobs[0][1].done():
                queue.jobs.popleft()
            if not queue.jobs:
                return SentBy.TIME
            due = queue.jobs[0][2] + self.options.min_duration
            if due <= loop.time() or self._is_full(queue):
                return SentBy.TIME
            await queue.sleep_until(due, loop)
        return SentBy.STOP

    def _is_full(self, queue: Queue) -> bool:
        return self.options.max_size is not None and len(queue.jobs) >= self.options.max_size

    async def _process(self, key: K, queue: Queue, batch: Batch, sent_by: SentBy) -> None:
        started_at = time.time()
        taken = batch.size
        self._running += taken
        try:
            await self._run_batch(key, batch)
        finally:
            self._running -= taken
            queue.put_back(batch.take_undecided())
            self._batches += 1
            self._operations += batch.size
            self._failed += batch.failed
            if self._subscriptions:
                metric = batch.metric(key, started_at, sent_by)
                for subscription in list(self._subscriptions):
                    subscription.publish(metric)

    async def _run_batch(self, key: K, batch: Batch) -> None:
        """Load, run, save, and give every member its outcome."""
        doing: tuple[str, type[BatchError]] = "loading", LoadFailed
        limit = asyncio.timeout(self.options.time_limit)
        save_limit = asyncio.timeout(self.options.save_timeout)
        failures: Mapping[Any, BaseException] | None = None
        try:
            async with limit:
                resource: Any = await self._load(key) if self._load else None
                batch.run(resource)
                doing = "saving", SaveFailed
                if self._save and batch.results:
                    async with save_limit:
                        failures = await self._save(key, resource)
            if failures is not None and not isinstance(failures, Mapping):
                raise TypeError(f"save must return a mapping or None, not {failures!r}")
        except BaseException as cause:
            what, kind = doing
            if not isinstance(cause, Exception | asyncio.CancelledError) or _is_aborted():
                batch.fail(ProcessorStopped(f"{what} {key!r} was aborted"), cause)
                raise
            if limit.expired() or save_limit.expired():
                batch.fail(BatchTimeout(f"{what} {key!r} took too long"), cause)
            else:
                batch.fail(kind(f"{what} {key!r} failed: {cause!r}"), cause)
        else:
            batch.settle(failures or {})


def _is_aborted() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
