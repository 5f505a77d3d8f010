"""``manage.py runsale``: the whole service with one command."""

import asyncio
import os
import signal
from argparse import ArgumentParser
from contextlib import ExitStack
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError
from prometheus_client.multiprocess import mark_process_dead

from flashsale_project.serving import open_files
from flashsale_project.serving.database import Database
from flashsale_project.serving.exceptions import CannotStart
from flashsale_project.serving.limits import MAX_WORKERS
from flashsale_project.serving.listening import listen_soon
from flashsale_project.serving.metrics_directory import shared_metrics
from flashsale_project.serving.screen import Screen
from flashsale_project.serving.service import Service
from flashsale_project.serving.supervisor import Supervisor
from sales.conf import LIMITS, SaleOptions, variable

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
        """Add the options of the service, and those of the sales that it makes."""
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
        screen = Screen(self.stdout, shows_status=not options["quiet"])
        # Until the workers run, both mean: stop where you are. SIGHUP means nothing yet.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            with ExitStack() as stack:
                open_files.check()
                sockets = listen_soon(options["host"], port, workers)
                for sock in sockets:
                    stack.enter_context(sock)
                database = Database(screen)
                stack.enter_context(database.running())
                kept = database.prepare(sale_options)
                stack.enter_context(shared_metrics(settings.FLASHSALE_DATA_DIR))
                environment = _environment(sale_options, options["lane"], database.url)
                supervisor = Supervisor(
                    sockets, environment=environment, directory=settings.BASE_DIR, ended=mark_process_dead
                )
                service = Service(supervisor, sockets, database=database, screen=screen, kept=kept)
                asyncio.run(service.run())
                for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    signal.signal(sig, signal.SIG_IGN)  # what is left takes seconds, and must be done
        except CannotStart as error:
            raise CommandError(str(error)) from error
        except KeyboardInterrupt:
            raise CommandError("Interrupted while starting; nothing was sold.") from None

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


def _environment(options: SaleOptions, lane: str, url: str | None) -> dict[str, str]:
    """What the workers are told; the database's password goes this way, not on a command line."""
    environment = dict(os.environ)
    for name in LIMITS:
        environment[variable(name)] = str(getattr(options, name))
    environment["FLASHSALE_LANE"] = lane
    environment["FLASHSALE_DATA_DIR"] = str(settings.FLASHSALE_DATA_DIR)
    if url is not None:
        environment["DATABASE_URL"] = url
    return environment
