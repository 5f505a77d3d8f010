"""Calls that are made at the same time."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from django.db import IntegrityError, connection

PATIENCE = 20
"""Seconds after which threads that do not meet are given up."""


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
