"""What the tests of the batcher have done, and how they hold it up."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from batching import (
    Batcher,
)


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
