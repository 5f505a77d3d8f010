"""Waiting for a state, under a deadline that a slow machine keeps, too."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from sales.refusals import Refusal

DEADLINE = 60
"""Seconds after which a state that was waited for is given up: far more than a slow machine needs."""

START = 120
"""Seconds for a service to start or to end, its database included; only a deadline."""


async def eventually(check: Callable[[], Any], timeout: float = DEADLINE) -> Any:
    """Wait until a check is true, and return what it returned. Raises `TimeoutError`."""
    async with asyncio.timeout(timeout):
        while not (result := check()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return result


def wait_for(check: Callable[[], Any], timeout: float = DEADLINE) -> Any:
    """The same for those who may block. Raises `AssertionError`."""
    end = time.monotonic() + timeout
    while not (result := check()):
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)
    return result


async def until_it_works(call: Callable[[], Awaitable[Any]]) -> Any:
    """Repeat a call until the database is reached again; it must not take a restart."""
    async with asyncio.timeout(DEADLINE):
        while True:
            try:
                return await call()
            except Refusal as refusal:
                if refusal.reason.name not in ("database_unavailable", "outcome_unknown"):
                    raise
                await asyncio.sleep(0.05)
