"""What a processor tells about itself: a metric for each batch, and its statistics."""

import asyncio
from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Any, Self


class SentBy(StrEnum):
    """Why a batch was sent when it was."""

    SIZE = "size"
    """It was full."""
    TIME = "time"
    """Its window had passed."""
    CLOCK = "clock"
    """The batch before it was saved, or there was none."""
    STOP = "stop"
    """The processor was stopping."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchMetric:
    """One batch, when it is over."""

    key: Any
    started_at: float
    """When its operations were taken, in seconds since the epoch."""
    operations: int
    """Members of the batch; callers who had left before are none, nor those left undecided for the next."""
    failed: int
    """Those of them that ended with an exception."""
    load_seconds: float
    save_seconds: float
    total_seconds: float
    longest_wait: float
    """Seconds that its first operation waited until it was taken."""
    sent_by: SentBy
    error: BaseException | None
    """What failed the whole batch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessorStatistics:
    """A processor at one moment, and what it has done so far."""

    open: bool
    keys: int
    """Keys that have work."""
    waiting: int
    """Operations that wait for their batch."""
    running: int
    """Operations in batches under way."""
    batches: int
    """Batches that are over."""
    operations: int
    """Operations in these batches."""
    failed: int
    """Those of them that ended with an exception."""
    refused: int
    """Operations refused because too many waited."""
    subscribers: int


class Subscription:
    """The metrics of all batches that end from now on, for one consumer: ``async for metric in it``.

    It keeps the last ``capacity`` metrics that were not yet taken; ``lost`` counts the older ones that
    had to go. It ends when the processor has stopped. `close` it, or forget it.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be positive, not {capacity!r}")
        self.lost = 0
        self._capacity = capacity
        self._metrics: deque[BatchMetric] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self.closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> BatchMetric:
        while not self._metrics:
            if self.closed:
                raise StopAsyncIteration
            if self._waiter is not None:
                raise RuntimeError("a subscription has one consumer at a time")
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._metrics.popleft()

    def close(self) -> None:
        """Take no more metrics. Those that are here can still be read."""
        self.closed = True
        self._wake()

    def publish(self, metric: BatchMetric) -> None:
        """Add a metric, at the cost of the oldest where there is no room; never waits."""
        if self.closed:
            return
        if len(self._metrics) == self._capacity:
            self._metrics.popleft()
            self.lost += 1
        self._metrics.append(metric)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
