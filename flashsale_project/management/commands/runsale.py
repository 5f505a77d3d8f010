"""``manage.py runsale``: the whole service with one command."""

import asyncio
import contextlib
import errno
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
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, connection
from django.utils import timezone
from prometheus_client.multiprocess import mark_process_dead

from flashsale_project.embedded_backend.base import embedded_postgres
from flashsale_project.embedded_postgres import EmbeddedPostgres
from flashsale_project.metrics_directory import metrics_directory
from flashsale_project.postgres_binaries import EmbeddedPostgresError
from flashsale_project.status_line import StatusLine
from flashsale_project.supervisor import Supervisor, listen
from sales.certificate import certify
from sales.conf import LIMITS, SaleOptions, variable
from sales.connections import POOLED, connection_info, is_pooled
from sales.metrics import DIRECTORY_VARIABLE
from sales.models import Sale
from sales.rotation import rotate

BIND_TIMEOUT = 3.0
"""Seconds to wait for a port that is taken: the workers of a killed service need a moment to leave it."""

MAX_WORKERS = 32
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
            default=settings.FLASHSALE_WORKERS,
            metavar="N",
            help="worker processes (%(default)s)",
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
                default=getattr(settings, variable(name)),
                metavar="N",
                help=f"{meaning} (%(default)s)",
            )

    def handle(self, *args: Any, **options: Any) -> None:
        """Run until SIGINT or SIGTERM. Raises `CommandError` for whatever keeps it from starting."""
        try:
            sale_options = SaleOptions(**{name: options[name] for name in LIMITS})
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from error
        if not 1 <= options["workers"] <= MAX_WORKERS:
            raise CommandError(f"--workers must be from 1 to {MAX_WORKERS}, not {options['workers']}.")
        if not 0 <= options["port"] <= MAX_PORT:
            raise CommandError(f"--port must be from 0 to {MAX_PORT}, not {options['port']}.")
        signal.signal(signal.SIGTERM, _interrupt)  # until the workers run, both mean: stop where you are
        try:
            with ExitStack() as stack:
                sockets = self._listen(options["host"], options["port"], options["workers"])
                for sock in sockets:
                    stack.enter_context(sock)
                server = self._start_database(stack)
                self._check_pooler()
                self._prepare_database(sale_options)
                self._make_metrics_directory(stack)
                supervisor = Supervisor(
                    sockets,
                    environment=self._environment(sale_options, options["lane"], server),
                    directory=settings.BASE_DIR,
                    ended=mark_process_dead,
                )
                asyncio.run(self._serve(supervisor, len(sockets), server, self._address(sockets[0])))
        except KeyboardInterrupt:
            raise CommandError("Interrupted while starting; nothing was sold.") from None

    # --- before

    def _listen(self, host: str, port: int, workers: int) -> list[socket.socket]:
        give_up = time.monotonic() + BIND_TIMEOUT
        while True:
            try:
                return listen(host, port, workers)
            except OSError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() > give_up:
                    raise CommandError(
                        f"Cannot listen on {host}:{port}: {error.strerror or error}. "
                        "Choose another --port or --host, or stop what is using it."
                    ) from error
                time.sleep(0.1)

    def _start_database(self, stack: ExitStack) -> EmbeddedPostgres | None:
        if "EMBEDDED_DATA_DIR" not in settings.DATABASES["default"]:
            return None
        server = embedded_postgres(settings.DATABASES["default"])
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

    def _prepare_database(self, options: SaleOptions) -> None:
        try:
            with connection.cursor() as cursor:
                # Two services that start at the same time on one database must not both migrate it.
                cursor.execute("SELECT pg_advisory_lock(hashtext('flashsale migration'))")
                call_command("migrate", verbosity=0, interactive=False)
                cursor.execute("SELECT pg_advisory_unlock(hashtext('flashsale migration'))")
            rotate(options)
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from error
        except DatabaseError as error:
            where = connection.settings_dict
            reason = str(error.__cause__ or error).strip().splitlines()[0]
            raise CommandError(
                f"The database {where['NAME']} at {where['HOST']}:{where['PORT'] or 5432} "
                f"cannot be used: {reason}"
            ) from error

    def _make_metrics_directory(self, stack: ExitStack) -> None:
        try:
            directory = stack.enter_context(metrics_directory(settings.FLASHSALE_DATA_DIR))
        except OSError as error:
            raise CommandError(f"FLASHSALE_DATA_DIR cannot be written: {error}") from error
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

    @staticmethod
    def _address(sock: socket.socket) -> str:
        host, port = sock.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    # --- meanwhile

    async def _serve(
        self, supervisor: Supervisor, workers: int, server: EmbeddedPostgres | None, address: str
    ) -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for sig in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(sig, stop.set)
        restarts: set[asyncio.Task[None]] = set()

        def restart() -> None:
            task = asyncio.create_task(supervisor.restart(), name="restart")
            restarts.add(task)
            task.add_done_callback(restarts.discard)

        loop.add_signal_handler(signal.SIGHUP, restart)
        status = StatusLine()
        starting = asyncio.create_task(supervisor.start(), name="start")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                try:
                    starting.result()
                except RuntimeError as error:
                    raise CommandError(str(error)) from error
                await asyncio.to_thread(self._welcome, address, workers, server)
            while not stop.is_set():
                await asyncio.wait({stopping}, timeout=1)
                if not stop.is_set():
                    self._say(status.next(supervisor.ready, workers))
                    self._sound_alarms(status)
                    if server is not None and not server.is_running():
                        await self._revive(server)
            self._say("Stopping: answering what was accepted …")
        finally:
            # Whatever happens here, the workers answer everybody while the database is still there.
            await supervisor.stop()
            await asyncio.gather(starting, *restarts, return_exceptions=True)
        status.next(0, workers)
        self._sound_alarms(status)
        await asyncio.to_thread(self._farewell, status.answers)

    def _sound_alarms(self, status: StatusLine) -> None:
        for sale in status.alarms:
            self._say(f"SALE {sale} BREAKS ITS INVARIANTS: python manage.py verifysale {sale}")

    def _say(self, text: str) -> None:
        """Print a line; where nobody can read it any more, the sale goes on all the same."""
        with contextlib.suppress(OSError):
            self.stdout.write(text)
            self.stdout.flush()

    async def _revive(self, server: EmbeddedPostgres) -> None:
        """The embedded server died under us: start it again, where the workers expect it."""
        self._say("The database server ended; starting it again.")
        try:
            await asyncio.to_thread(server.acquire)
        except EmbeddedPostgresError as error:
            self._say(str(error))

    def _welcome(self, address: str, workers: int, server: EmbeddedPostgres | None) -> None:
        sale = Sale.objects.at(timezone.now()).first()
        with connection.cursor() as cursor:
            cursor.execute("SHOW server_version")
            version = cursor.fetchone()[0].split()[0]
        connection.close()
        where = connection.settings_dict
        kept = f"embedded, in {server.location}" if server else f"{where['NAME']} at {where['HOST']}"
        self._say(
            f"\nFlash sale on {address}  ({workers} workers, PostgreSQL {version}, {kept})\n"
            + (
                f"Sale {sale.pk}: {sale.items:,} items until {sale.ends_at:%H:%M:%S} UTC, "
                f"{sale.user_limit} for each user, a hold lasts {sale.checkout_ttl} s\n"
                if sale
                else ""
            )
            + f"""
  hold an item   curl -X POST '{address}/checkout?user_id=123&item_id=456'
  buy it         curl -X POST '{address}/purchase?code=…'   (the code you got)
  the sale       curl {address}/sale
  admin          {address}/admin/   (make yourself a user: python manage.py createsuperuser)
  certificate    python manage.py verifysale
  stop           Ctrl-C
"""
        )

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
                        if certificate.holds
                        else "INVARIANTS ARE BROKEN: verifysale."
                    )
                )
        except DatabaseError:
            text += " The database does not answer; what was acknowledged is in it."
        finally:
            connection.close()
        self._say(text)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
