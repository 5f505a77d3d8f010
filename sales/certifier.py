"""Housekeeping: certificates of sales that are over, written beside the selling by one of all workers."""

import asyncio
import logging
import math
import threading
import time

import psycopg
from django.db import Error, connection

from sales.certificate import issue_all
from sales.connections import hang_up
from sales.patience import Patience
from sales.refusals import DatabaseFailure
from sales.storage import Storage

logger = logging.getLogger(__name__)

INTERVAL = 5.0
"""Seconds between two looks for sales that are over and have no certificate."""

TIMEOUT = 300.0
"""Seconds after which a database that does not answer is given up; ten million items take a minute."""


class Certifier:
    """Writes what is due, in a thread with a connection of its own; the event loop only waits.

    Whatever goes wrong is logged, and tried again with the next look, in this worker or another.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._looked_at = -math.inf
        self._closing = False
        self._task: asyncio.Task[None] | None = None
        self._lock = threading.Lock()
        self._busy: psycopg.Connection[object] | None = None  # that of the thread; guarded by the lock

    def look(self) -> None:
        """Begin to write what is due, unless it was looked for a moment ago. Returns at once."""
        now = time.monotonic()
        if self._task is None and not self._closing and now - self._looked_at >= INTERVAL:
            self._looked_at = now
            self._task = asyncio.create_task(self._write(), name="certificates")

    async def close(self) -> None:
        """Give up the certificate that is just being made, if there is one: another worker will make it."""
        self._closing = True
        self._hang_up()
        if self._task is not None:
            await self._task

    async def _write(self) -> None:
        try:
            if due := await self._storage.uncertified():
                with Patience(TIMEOUT, self._hang_up):
                    await asyncio.to_thread(self._issue, due)
        except (DatabaseFailure, Error) as error:
            if not self._closing:
                logger.error("no certificate was written: %s", str(error.__cause__ or error).strip())
        except Exception:
            logger.exception("no certificate was written")
        finally:
            self._task = None

    def _issue(self, due: list[int]) -> None:
        try:
            connection.ensure_connection()
            with self._lock:
                self._busy = connection.connection
            issue_all(due, lambda: not self._closing)
        finally:
            with self._lock:  # from here on its socket may be somebody else's
                self._busy = None
            connection.close()

    def _hang_up(self) -> None:
        with self._lock:
            if self._busy is not None:
                hang_up(self._busy)
