"""The database of a service: started where it is embedded, made ready, and started again if it ends."""

import asyncio
import contextlib
import logging
from collections.abc import Iterator

import psycopg
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, connection
from django.utils import timezone

from flashsale_project.management.migration import migrate
from flashsale_project.postgres.base import embedded_postgres
from flashsale_project.postgres.binaries import EmbeddedPostgresError
from flashsale_project.postgres.server import EmbeddedPostgres
from flashsale_project.serving.exceptions import CannotStart
from flashsale_project.serving.screen import Screen
from sales import statements
from sales.conf import SaleOptions
from sales.connections import POOLED, connection_info, is_pooled
from sales.diagnosis import diagnose
from sales.models import Sale
from sales.rotation import Kept, kept, log_created, rotate

logger = logging.getLogger(__name__)


class Database:
    """The database that the settings name. ``screen`` shows what is being done, which may take seconds."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._server: EmbeddedPostgres | None = None

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Have the embedded server run meanwhile, where there is one. Raises `CannotStart`."""
        database = settings.DATABASES["default"]
        if "EMBEDDED_DATA_DIR" not in database:
            self._screen.say(f"Connecting to the database {database['NAME']} at {database['HOST']} …")
            yield
            return
        server = embedded_postgres(database)
        self._screen.say(f"Starting PostgreSQL in {settings.FLASHSALE_DATA_DIR} …")
        try:
            server.acquire()
        except EmbeddedPostgresError as error:
            raise CannotStart(str(error)) from error
        self._server = server
        try:
            yield
        finally:
            connection.close()
            server.release()

    @property
    def url(self) -> str | None:
        """That of the embedded server; it has a password."""
        return None if self._server is None else self._server.url

    def prepare(self, options: SaleOptions) -> list[Kept]:
        """Make tables and sales; return the sales that were made before, with other options.

        Raises `CannotStart`.
        """
        self._check_pooler()
        try:
            connection.ensure_connection()
            self._screen.say("Bringing the tables up to date …")
            migrate()
            if Sale.objects.filter(ends_at__gt=timezone.now()).count() < 2:
                self._screen.say(f"Making sales of {options.items:,} items each …")
            log_created(rotate(options))
            return kept(options)
        except ImproperlyConfigured as error:
            raise CannotStart(str(error)) from error
        except DatabaseError as error:
            raise CannotStart(diagnose(error)) from error

    def _check_pooler(self) -> None:
        # Whatever else is wrong with the database is told by who uses it next.
        with contextlib.suppress(psycopg.Error):
            if self._server is None and is_pooled(connection_info()):
                raise CannotStart(POOLED)

    def describe(self) -> str:
        """Which version it is, and where. Raises Django's database errors."""
        with connection.cursor() as cursor:
            cursor.execute(statements.VERSION)
            version = cursor.fetchone()[0].split()[0]
        where = connection.settings_dict
        place = (
            f"embedded, in {self._server.location}"
            if self._server is not None
            else f"{where['NAME']} at {where['HOST']}"
        )
        return f"PostgreSQL {version}, {place}"

    async def revive(self) -> None:
        """Start the embedded server again, where the workers expect it, if it died under us."""
        server = self._server
        if server is None or server.is_running():
            return
        logger.error("database.restarting", extra={"fields": {"location": str(server.location)}})
        self._screen.say("The database server ended; starting it again.")
        try:
            await asyncio.to_thread(server.acquire)
        except EmbeddedPostgresError as error:
            self._screen.say(str(error))
