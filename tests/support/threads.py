"""Calls on threads of their own, and the database connections that these leave behind."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from django.db import IntegrityError, connection

T = TypeVar("T")

PATIENCE = 20
"""Seconds after which threads that do not meet are given up."""


async def in_thread(call: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """What a call returns that uses Django's connection, from a coroutine; the connection is closed."""

    def run() -> T:
        try:
            return call(*arguments, **options)
        finally:
            connection.close()

    return await asyncio.to_thread(run)


def at_once(calls: list[Callable[[], Any]]) -> list[Any]:
    """What each call returned, or how a constraint refused it; all begin at once, each on its connection."""
    together = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        try:
            connection.ensure_connection()
            together.wait(PATIENCE)
            return call()
        except IntegrityError as error:
            return error
        finally:
            connection.close()

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(run, calls))
