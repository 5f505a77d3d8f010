"""The running service: its workers, its database and its screen, from the first worker to the farewell."""

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Sequence

from django.db import DatabaseError, connection
from django.utils import timezone

from flashsale_project.serving.database import Database
from flashsale_project.serving.exceptions import CannotStart
from flashsale_project.serving.greeting import (
    address,
    count_of_workers,
    farewell,
    greeting,
    note_on_kept_sales,
)
from flashsale_project.serving.sale_events import SaleEvents
from flashsale_project.serving.screen import Screen
from flashsale_project.serving.status_line import StatusLine
from flashsale_project.serving.supervisor import Supervisor
from sales.models import Sale
from sales.rotation import Kept

logger = logging.getLogger(__name__)


class Service:
    """Everything that `run` holds together. ``kept`` are the sales that other options than ours made."""

    def __init__(
        self,
        supervisor: Supervisor,
        sockets: Sequence[socket.socket],
        *,
        database: Database,
        screen: Screen,
        kept: Sequence[Kept],
    ) -> None:
        self._supervisor = supervisor
        self._sockets = sockets
        self._database = database
        self._screen = screen
        self._kept = kept
        self._status = StatusLine()
        self._events = SaleEvents()
        self._stop = asyncio.Event()
        self._reload = asyncio.Event()

    async def run(self) -> None:
        """Serve until SIGINT or SIGTERM; SIGHUP replaces the workers. Raises `CannotStart`."""
        self._handle_signals()
        self._screen.say(f"Starting {count_of_workers(len(self._sockets))} …")
        starting = asyncio.create_task(self._supervisor.start(), name="start")
        stopping = asyncio.create_task(self._stop.wait(), name="stop")
        tasks: list[asyncio.Task[None]] = [starting]
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                _check(starting)
                tasks.append(asyncio.create_task(self._reload_when_asked(), name="reload"))
                await self._started()
            await self._look_after(stopping)
            self._screen.say("Stopping: answering what was accepted …")
        finally:
            # Whatever happens here, the workers answer everybody while the database is still there.
            await self._supervisor.stop()
            for task in tasks[1:]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await self._stopped()

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for sig in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(sig, self._on_stop, sig)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)

    def _on_stop(self, sig: signal.Signals) -> None:
        if not self._stop.is_set():
            _log("service.stopping", pid=os.getpid(), signal=sig.name)
        self._stop.set()

    async def _started(self) -> None:
        url = address(self._sockets[0])
        _log("service.started", address=url, pid=os.getpid(), workers=len(self._sockets))
        await asyncio.to_thread(self._greet)

    async def _look_after(self, stopping: "asyncio.Task[bool]") -> None:
        """Once a second, until the end: what has changed, and whether the database is still there."""
        while not self._stop.is_set():
            self._screen.show_status(self._status.next(self._supervisor.ready, len(self._sockets)))
            self._tell_what_happened()
            await asyncio.wait({stopping}, timeout=1)
            if not self._stop.is_set():
                await self._database.revive()

    def _tell_what_happened(self) -> None:
        """Log and say what the last reading of the figures tells for the first time."""
        self._events.look(self._status)
        for sale in self._status.alarms:
            self._screen.say(f"SALE {sale} BREAKS ITS INVARIANTS: python manage.py verifysale {sale}")

    async def _stopped(self) -> None:
        self._status.next(0, len(self._sockets))
        self._tell_what_happened()
        _log("service.stopped", pid=os.getpid(), answers=self._status.answers)
        await asyncio.to_thread(self._say_farewell)

    async def _reload_when_asked(self) -> None:
        """Replace the workers, once more at most for all who ask while that goes on."""
        while True:
            await self._reload.wait()
            self._reload.clear()
            if self._supervisor.is_stopping:
                return
            began = time.monotonic()
            _log("service.reloading", pid=os.getpid())
            if await self._supervisor.restart():
                _log("service.reloaded", pid=os.getpid(), seconds=round(time.monotonic() - began, 1))
            elif not self._supervisor.is_stopping:
                logger.error("service.reload_failed", extra={"fields": {"pid": os.getpid()}})

    # --- with the database, in a thread

    def _greet(self) -> None:
        try:
            sale = Sale.objects.at(timezone.now()).first()
            database = self._database.describe()
        finally:
            connection.close()
        workers = len(self._sockets)
        self._screen.say(greeting(self._sockets[0], workers=workers, database=database, sale=sale))
        if self._kept:
            self._screen.say(note_on_kept_sales(self._kept))

    def _say_farewell(self) -> None:
        answers = self._status.answers
        try:
            text = farewell(answers, Sale.objects.at(timezone.now()).first())
        except DatabaseError:
            text = f"Stopped after {answers:,} answers. "
            text += "The database does not answer; what was acknowledged is in it."
        finally:
            connection.close()
        self._screen.say(text)


def _check(starting: "asyncio.Task[None]") -> None:
    try:
        starting.result()
    except RuntimeError as error:
        raise CannotStart(str(error)) from error


def _log(event: str, **fields: object) -> None:
    logger.info(event, extra={"fields": fields})
