"""``manage.py runsale``: the whole service with one command."""

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import time
from argparse import ArgumentParser
from contextlib import ExitStack
from typing import Any

import psycopg
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, connection
from django.utils import timezone
from prometheus_client.multiprocess import mark_process_dead

from flashsale_project.management.migration import migrate
from flashsale_project.postgres.base import embedded_postgres
from flashsale_project.postgres.binaries import EmbeddedPostgresError
from flashsale_project.postgres.server import EmbeddedPostgres
from flashsale_project.serving import open_files
from flashsale_project.serving.greeting import address, count_of_workers, greeting, note_on_kept_sales
from flashsale_project.serving.limits import BIND_TIMEOUT, MAX_WORKERS, MIN_FILES
from flashsale_project.serving.listening import listen
from flashsale_project.serving.metrics_directory import metrics_directory
from flashsale_project.serving.sale_events import SaleEvents
from flashsale_project.serving.screen import Screen
from flashsale_project.serving.status_line import StatusLine
from flashsale_project.serving.supervisor import Supervisor
from sales import statements
from sales.certificate import certify
from sales.conf import LIMITS, SaleOptions, variable
from sales.connections import POOLED, connection_info, is_pooled
from sales.diagnosis import diagnose
from sales.metrics import DIRECTORY_VARIABLE
from sales.models import Sale
from sales.rotation import Kept, kept, log_created, rotate

logger = logging.getLogger(__name__)

MAX_PORT = 65535

MEANINGS = {
    "items": "items of each new sale",
    "user_limit": "items that one user may hold and buy in a sale",
    "checkout_ttl": "seconds that a hold lasts",
    "period": "seconds from one sale to the next",
}


class Command(BaseCommand):
    """Starts the database, makes the sales, runs the workers, and tells how it goes."""

    help = "Runs the flash sale: database, migrations, sales and worker processes."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Called by Django."""
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
        parser.add_argument("--port", type=int, default=8080, help="port to listen on (%(default)s)")
        parser.add_argument(
            "--workers",
            type=int,
            metavar="N",
            help=f"worker processes ({settings.FLASHSALE_WORKERS})",
        )
        parser.add_argument(
            "--lane",
            choices=settings.LANES,
            default=settings.FLASHSALE_LANE,
            help="how POST /checkout and /purchase are answered: in the HTTP protocol, or by Django's views",
        )
        for name, meaning in MEANINGS.items():
            parser.add_argument(
                f"--{name.replace('_', '-')}",
                type=int,
                metavar="N",
                help=f"{meaning} ({getattr(settings, variable(name))})",
            )
        parser.add_argument("--quiet", action="store_true", help="no status line")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run until SIGINT or SIGTERM. Raises `CommandError` for whatever keeps it from starting."""
        sale_options = self._sale_options(options)
        workers = self._within("workers", options["workers"], 1, MAX_WORKERS, settings.FLASHSALE_WORKERS)
        port = self._within("port", options["port"], 0, MAX_PORT, 0)
        self.stdout.ending = ""  # Django would end each piece with a line's end
        self._screen = Screen(self.stdout, shows_status=not options["quiet"])
        # Until the workers run, both mean: stop where you are. SIGHUP means nothing yet.
        signal.signal(signal.SIGTERM, _interrupt)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            with ExitStack() as stack:
                self._count_files()
                sockets = self._listen(options["host"], port, workers)
                for sock in sockets:
                    stack.enter_context(sock)
                server = self._start_database(stack)
                self._check_pooler()
                kept = self._prepare_database(sale_options)
                self._make_metrics_directory(stack)
                supervisor = Supervisor(
                    sockets,
                    environment=self._environment(sale_options, options["lane"], server),
                    directory=settings.BASE_DIR,
                    ended=mark_process_dead,
                )
                asyncio.run(self._serve(supervisor, sockets, server, kept))
                for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    signal.signal(sig, signal.SIG_IGN)  # what is left takes seconds, and must be done
        except KeyboardInterrupt:
            raise CommandError("Interrupted while starting; nothing was sold.") from None

    # --- options

    def _sale_options(self, options: dict[str, Any]) -> SaleOptions:
        values = {
            name: self._within(name, options[name], 1, largest, getattr(settings, variable(name)))
            for name, largest in LIMITS.items()
        }
        try:
            return SaleOptions(**values)
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from error

    @staticmethod
    def _within(name: str, given: int | None, smallest: int, largest: int, setting: int) -> int:
        """The value of an option, or else of its setting; a wrong one is told by the name it was given by."""
        value = setting if given is None else given
        if not smallest <= value <= largest:
            told = variable(name) if given is None else f"--{name.replace('_', '-')}"
            raise CommandError(f"{told} must be a whole number from {smallest} to {largest}, not {value}.")
        return value

    @staticmethod
    def _count_files() -> None:
        """Each connection is an open file, and so is much else."""
        if (most := open_files.allowed()) < MIN_FILES:
            raise CommandError(
                f"Only {most} open files are allowed, and a worker needs at least {MIN_FILES}: "
                "allow 10,000 or more with `ulimit -n` (systemd: LimitNOFILE=)."
            )

    # --- before

    def _listen(self, host: str, port: int, workers: int) -> list[socket.socket]:
        give_up = time.monotonic() + BIND_TIMEOUT
        while True:
            try:
                return listen(host, port, workers)
            except UnicodeError as error:
                raise CommandError(f"--host {host[:40]!r} is no name of a host.") from error
            except OSError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() > give_up:
                    raise CommandError(
                        f"Cannot listen on {host}:{port}: {error.strerror or error}. "
                        "Choose another --port or --host, or stop what is using it."
                    ) from error
                time.sleep(0.1)

    def _start_database(self, stack: ExitStack) -> EmbeddedPostgres | None:
        database = settings.DATABASES["default"]
        if "EMBEDDED_DATA_DIR" not in database:
            self._screen.say(f"Connecting to the database {database['NAME']} at {database['HOST']} …")
            return None
        server = embedded_postgres(database)
        self._screen.say(f"Starting PostgreSQL in {settings.FLASHSALE_DATA_DIR} …")
        try:
            server.acquire()
        except EmbeddedPostgresError as error:
            raise CommandError(str(error)) from error
        stack.callback(server.release)
        stack.callback(connection.close)
        return server

    def _check_pooler(self) -> None:
        # Whatever else is wrong with the database is told by who uses it next.
        with contextlib.suppress(psycopg.Error):
            if "EMBEDDED_DATA_DIR" not in settings.DATABASES["default"] and is_pooled(connection_info()):
                raise CommandError(POOLED)

    def _prepare_database(self, options: SaleOptions) -> list[Kept]:
        """Make tables and sales; return the sales that were made before, with other options."""
        try:
            connection.ensure_connection()
            self._screen.say("Bringing the tables up to date …")
            migrate()
            if Sale.objects.filter(ends_at__gt=timezone.now()).count() < 2:
                self._screen.say(f"Making sales of {options.items:,} items each …")
            log_created(rotate(options))
            return kept(options)
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from error
        except DatabaseError as error:
            raise CommandError(diagnose(error)) from error

    def _make_metrics_directory(self, stack: ExitStack) -> None:
        try:
            directory = stack.enter_context(metrics_directory(settings.FLASHSALE_DATA_DIR))
        except OSError as error:
            raise CommandError(
                f"The data directory {settings.FLASHSALE_DATA_DIR} cannot be used: {error.strerror}. "
                "Let FLASHSALE_DATA_DIR name one that this account may write to."
            ) from error
        os.environ[DIRECTORY_VARIABLE] = str(directory)

    def _environment(
        self, options: SaleOptions, lane: str, server: EmbeddedPostgres | None
    ) -> dict[str, str]:
        """What the workers are told; the database's password goes this way, not on a command line."""
        environment = dict(os.environ)
        for name in LIMITS:
            environment[variable(name)] = str(getattr(options, name))
        environment["FLASHSALE_LANE"] = lane
        environment["FLASHSALE_DATA_DIR"] = str(settings.FLASHSALE_DATA_DIR)
        if server is not None and server.url is not None:
            environment["DATABASE_URL"] = server.url
        return environment

    # --- meanwhile

    async def _serve(
        self,
        supervisor: Supervisor,
        sockets: list[socket.socket],
        server: EmbeddedPostgres | None,
        kept: list[Kept],
    ) -> None:
        loop = asyncio.get_running_loop()
        stop, reload = asyncio.Event(), asyncio.Event()
        for sig in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(sig, _stop, stop, sig)
        loop.add_signal_handler(signal.SIGHUP, reload.set)
        status, events = StatusLine(), SaleEvents()
        self._screen.say(f"Starting {count_of_workers(len(sockets))} …")
        starting = asyncio.create_task(supervisor.start(), name="start")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        tasks = [starting]
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                try:
                    starting.result()
                except RuntimeError as error:
                    raise CommandError(str(error)) from error
                tasks.append(asyncio.create_task(_reload_when_asked(supervisor, reload), name="reload"))
                url = address(sockets[0])
                _log("service.started", address=url, pid=os.getpid(), workers=len(sockets))
                await asyncio.to_thread(self._greet, sockets, server, kept)
            while not stop.is_set():
                self._screen.show_status(status.next(supervisor.ready, len(sockets)))
                events.look(status)
                self._sound_alarms(status)
                await asyncio.wait({stopping}, timeout=1)
                if server is not None and not stop.is_set() and not server.is_running():
                    await self._revive(server)
            self._screen.say("Stopping: answering what was accepted …")
        finally:
            # Whatever happens here, the workers answer everybody while the database is still there.
            await supervisor.stop()
            for task in tasks[1:]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        status.next(0, len(sockets))
        events.look(status)
        self._sound_alarms(status)
        _log("service.stopped", pid=os.getpid(), answers=status.answers)
        await asyncio.to_thread(self._farewell, status.answers)

    def _sound_alarms(self, status: StatusLine) -> None:
        for sale in status.alarms:
            self._screen.say(f"SALE {sale} BREAKS ITS INVARIANTS: python manage.py verifysale {sale}")

    async def _revive(self, server: EmbeddedPostgres) -> None:
        """The embedded server died under us: start it again, where the workers expect it."""
        logger.error("database.restarting", extra={"fields": {"location": str(server.location)}})
        self._screen.say("The database server ended; starting it again.")
        try:
            await asyncio.to_thread(server.acquire)
        except EmbeddedPostgresError as error:
            self._screen.say(str(error))

    def _greet(self, sockets: list[socket.socket], server: EmbeddedPostgres | None, kept: list[Kept]) -> None:
        sale = Sale.objects.at(timezone.now()).first()
        with connection.cursor() as cursor:
            cursor.execute(statements.VERSION)
            version = cursor.fetchone()[0].split()[0]
        connection.close()
        where = connection.settings_dict
        place = f"embedded, in {server.location}" if server else f"{where['NAME']} at {where['HOST']}"
        database = f"PostgreSQL {version}, {place}"
        self._screen.say(greeting(sockets[0], workers=len(sockets), database=database, sale=sale))
        if kept:
            self._screen.say(note_on_kept_sales(kept))

    # --- after

    def _farewell(self, answers: int) -> None:
        text = f"Stopped after {answers:,} answers."
        try:
            sale = Sale.objects.at(timezone.now()).first()
            if sale is not None:
                certificate = certify(sale)
                text += (
                    f" Sale {sale.pk}: {certificate.sold:,} sold, {certificate.held:,} held, "
                    f"{certificate.available + certificate.expired:,} free, all of it in the database; "
                    + (
                        "every invariant holds."
                        if certificate.is_valid
                        else "INVARIANTS ARE BROKEN: verifysale."
                    )
                )
        except DatabaseError:
            text += " The database does not answer; what was acknowledged is in it."
        finally:
            connection.close()
        self._screen.say(text)


def _log(event: str, **fields: object) -> None:
    logger.info(event, extra={"fields": fields})


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _stop(stop: asyncio.Event, sig: signal.Signals) -> None:
    if not stop.is_set():
        _log("service.stopping", pid=os.getpid(), signal=sig.name)
    stop.set()


async def _reload_when_asked(supervisor: Supervisor, asked: asyncio.Event) -> None:
    """Replace the workers, once more at most for all who ask while that goes on."""
    while True:
        await asked.wait()
        asked.clear()
        if supervisor.is_stopping:
            return
        began = time.monotonic()
        _log("service.reloading", pid=os.getpid())
        if await supervisor.restart():
            _log("service.reloaded", pid=os.getpid(), seconds=round(time.monotonic() - began, 1))
        elif not supervisor.is_stopping:
            logger.error("service.reload_failed", extra={"fields": {"pid": os.getpid()}})
