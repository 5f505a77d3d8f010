"""What is cut between a worker and its database, and what the database has then."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from sales.runtime import Runtime
from tests.support.proxy import Cut, Direction
from tests.support.waiting import eventually

Stored = Callable[[], Awaitable[list[tuple[Any, ...]]]]

REQUEST = Cut(Direction.REQUEST, reset=False, least=0)
"""Before the next request, whatever that is: see `connected`."""

ANSWER = Cut(Direction.ANSWER, reset=False, least=0)
"""Before the next answer."""

LATE = replace(REQUEST, late=True)
"""The next request arrives when its worker has long given it up."""


async def connected(worker: Runtime) -> None:
    """Wait until no connection is being made: the next request is that of the test."""
    pool = worker.storage._connections._pool

    def is_calm() -> bool:
        stats = pool.get_stats()
        return stats.get("pool_available", 0) == stats["pool_size"] >= stats["pool_min"]

    await eventually(is_calm)
