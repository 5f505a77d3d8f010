"""The PostgreSQL server of a run of the benchmark: the embedded one, in a directory of its own."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Self

import psycopg
from django.conf import settings

from flashsale_project.benchmark.processes import GONE, children, cpu_seconds
from flashsale_project.postgres.binaries import EmbeddedPostgresError
from flashsale_project.postgres.server import DATABASE, EmbeddedPostgres


class DatabaseServer:
    """A PostgreSQL server in a directory of its own; both are gone afterwards. Use it with ``with``."""

    def __enter__(self) -> Self:
        self.directory = Path(tempfile.mkdtemp(prefix="flashsale-bench-"))
        self.directory.chmod(0o755)  # as root, the server runs as another user, who must get in
        self._server = EmbeddedPostgres(self.directory, settings.FLASHSALE_PG_BIN)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.release()
        shutil.rmtree(self._server.location, ignore_errors=True)
        shutil.rmtree(self.directory, ignore_errors=True)

    def renew(self) -> str:
        """Replace the database by an empty one; its URL. Raises `RuntimeError` where there is no server.

        A checkpoint in between, so that what was written before costs nothing from now on.
        """
        try:
            url = self._server.acquire()
            with psycopg.connect(url, dbname="postgres", autocommit=True) as connection:
                connection.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
                connection.execute(f"CREATE DATABASE {DATABASE}")
                connection.execute("CHECKPOINT")
        except (EmbeddedPostgresError, psycopg.Error) as error:
            raise RuntimeError(f"There is no database to measure with: {error}") from error
        return url

    @property
    def location(self) -> Path:
        """The directory of the cluster."""
        return self._server.location

    @property
    def environment(self) -> dict[str, str]:
        """For a command of the project that is to use this database, and nothing else of ours."""
        shaping = ("FLASHSALE_", "DATABASE_URL", "DEBUG", "PROMETHEUS_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(shaping)}
        return kept | {
            # Empty rather than missing: what a file .env says does not count then.
            "DATABASE_URL": "",
            "DEBUG": "false",
            "FLASHSALE_DATA_DIR": str(self.directory),
            "FLASHSALE_PG_BIN": str(settings.FLASHSALE_PG_BIN or ""),
            "FLASHSALE_TRAIN_EXAMPLE": "false",
            "DJANGO_SETTINGS_MODULE": "flashsale_project.settings",
        }

    def cpu_seconds(self) -> float:
        """CPU time of the server with all its processes. Raises `RuntimeError` where it has ended."""
        if (postmaster := self._server.pid) is None:
            raise RuntimeError("The database server has ended.")
        seconds = 0.0
        for pid in children(postmaster):
            with contextlib.suppress(GONE):  # a process that ends now is counted by the postmaster
                seconds += cpu_seconds(pid)
        return seconds + cpu_seconds(postmaster)
