"""Bookings of many callers, saved train by train: one load and one save for each batch."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Self

from django.db import DatabaseError, connection

from batching import BatchError, KeyedProcessor
from batching.examples.trains.models import Train

MAX_TRIES = 5
"""How often one booking is decided: each time but the first because another process was faster."""


class Conflict(Exception):
    """Another process has saved this train since it was loaded."""


class Unavailable(Exception):
    """Nothing was booked, as far as is known; trying again may help."""


class BookingOffice:
    """Books seats for all callers of one process. Use it with ``async with``.

    There may be any number of processes: the version of the row decides which of them was first, and the
    others load it again.
    """

    def __init__(self) -> None:
        # No window: a lone booking leaves at once, and while a train is saved its next batch gathers.
        self._processor = KeyedProcessor(self._load, self._save, min_duration=0, max_pending=10_000)
        # Django's connections belong to a thread each: one thread, one connection.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="booking office")

    async def __aenter__(self) -> Self:
        await self._processor.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._processor.stop()
        await asyncio.get_running_loop().run_in_executor(self._thread, close)
        self._thread.shutdown()

    async def book(self, *, train: str, person: str, seat: int) -> None:
        """Book a seat; return once it is committed. Raises `Refused` or `Unavailable`."""
        for _ in range(MAX_TRIES):
            try:
                return await self._processor.run(train, partial(Train.book, person=person, seat=seat))
            except BatchError as failure:
                if not isinstance(failure.__cause__, Conflict):
                    raise Unavailable(str(failure)) from failure
        raise Unavailable("Other processes were always faster.")

    async def _load(self, name: str) -> Train:
        return await asyncio.get_running_loop().run_in_executor(self._thread, load, name)

    async def _save(self, name: str, train: Train) -> None:
        if train.is_changed:
            await asyncio.get_running_loop().run_in_executor(self._thread, save, train)


def load(name: str) -> Train:
    """Load a train, which is created at first use."""
    try:
        train: Train = Train.objects.get_or_create(name=name)[0]
    except DatabaseError:
        connection.close()  # it may be broken; the next batch opens another
        raise
    return train


def save(train: Train) -> None:
    """Save a train where nobody else has changed it. Raises `Conflict`."""
    try:
        if not Train.objects.bulk_save([train], ["seats"]):
            raise Conflict(train.name)
    except DatabaseError:
        connection.close()
        raise


def close() -> None:
    """Close the connection of the thread that calls."""
    connection.close()
