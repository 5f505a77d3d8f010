"""Bookings of many callers: a batch for each train, and one statement for the batches of many trains.

Each train that is asked for has its batch, which loads the train, books, and saves it. What the batches load
at the same time is one query, and what they save is one update: a statement costs far more than a row of it.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Self

from django.db import DatabaseError, connection

from batching import Batcher, BatchError, DataLoader, KeyedProcessor
from batching.examples.trains.models import Train

MAX_TRIES = 5
"""How often one booking is decided: each time but the first because another process was faster."""

TRAINS = 1_000
"""Trains that may be booked at the same time, and rows of a statement, at most."""


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
        self._processor: KeyedProcessor[str, Train] = KeyedProcessor(
            self._load, self._save, min_duration=0, max_pending=10_000, lanes=TRAINS
        )
        # The same once more, for trains: while a statement runs, those that come next gather.
        self._loads = DataLoader(self._load_trains, cache=False, max_concurrent=1, max_size=TRAINS)
        self._saves = Batcher(self._save_trains, max_wait=0, max_concurrent=1, max_size=TRAINS)
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
        await self._processor.stop()  # before what it uses
        await self._loads.stop()
        await self._saves.stop()
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
        return await self._loads.load(name)

    async def _save(self, name: str, train: Train) -> None:
        if train.is_changed:
            await self._saves.run(train)

    async def _load_trains(self, names: list[str]) -> list[Train]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, load, names)

    async def _save_trains(self, trains: list[Train]) -> list[Conflict | None]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, save, trains)


def load(names: Sequence[str]) -> list[Train]:
    """Load trains by their names, in their order; those that nobody has asked for before are created."""
    try:
        found = Train.objects.in_bulk(names, field_name="name")
        if missing := [name for name in names if name not in found]:
            # Another process may create them now, too.
            Train.objects.bulk_create([Train(name=name) for name in missing], ignore_conflicts=True)
            found |= Train.objects.in_bulk(missing, field_name="name")
    except DatabaseError:
        connection.close()  # it may be broken; the next batch opens another
        raise
    return [found[name] for name in names]


def save(trains: Sequence[Train]) -> list[Conflict | None]:
    """Save trains, but for those that somebody else has changed: these have a `Conflict` in their place."""
    try:
        saved = Train.objects.bulk_save(trains, ["seats"])
    except DatabaseError:
        connection.close()
        raise
    return [None if train in saved else Conflict(train.name) for train in trains]


def close() -> None:
    """Close the connection of the thread that calls."""
    connection.close()
