"""Databases that are a test's own."""

import atexit
import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit
from uuid import uuid4

import psycopg
from django.conf import settings
from django.db.backends.postgresql.operations import DatabaseOperations

from flashsale_project.postgres.base import embedded_postgres
from sales.connections import connection_info

NewUrl = Callable[[], str]
"""Makes a database that has the tables alone and returns its URL."""

Sql = Callable[..., list[tuple[Any, ...]]]
"""Runs a statement behind everybody's back: the fixture ``sql``."""


LITTLE = 256 * 1024
"""Bytes of a table that are no reason to have a new file for it."""


def shared_server() -> str:
    """The URL of the server of this run: the one that was given, else one that is stopped at its end."""
    return os.environ.get("DATABASE_URL") or embedded_postgres(settings.DATABASES["default"]).acquire()


def django_url() -> str:
    """The URL of Django's database, which is that of the test."""
    info = psycopg.conninfo.conninfo_to_dict(connection_info())
    where = f"{info['user']}:{quote(str(info.get('password', '')), safe='')}@{info['host']}:{info['port']}"
    return urlunsplit(("postgresql", where, str(info["dbname"]), "", ""))


@contextlib.contextmanager
def new_database() -> Iterator[str]:
    """The URL of a database with the tables, and nothing in them; it is dropped at the end, whoever is still
    connected."""
    server, name = shared_server(), f"flashsale_{uuid4().hex}"
    execute(server, f"CREATE DATABASE {name} TEMPLATE {_template()}")
    yield _at(server, name)
    execute(server, f"DROP DATABASE {name} WITH (FORCE)")


@cache
def _template() -> str:
    """A database to copy, made once by each process of a run: to make the tables takes a second."""
    server, name = shared_server(), f"flashsale_template_{uuid4().hex}"
    execute(server, f"CREATE DATABASE {name}")
    atexit.register(_drop, server, name)
    subprocess.run(
        [sys.executable, "manage.py", "migrate", "-v0"],
        cwd=settings.BASE_DIR,
        env=os.environ
        | {
            "DATABASE_URL": _at(server, name),
            "DJANGO_SETTINGS_MODULE": "flashsale_project.settings",
            "FLASHSALE_TRAIN_EXAMPLE": "false",
        },
        check=True,
    )
    return name


def _drop(server: str, name: str) -> None:
    with contextlib.suppress(psycopg.OperationalError):  # a server of our own is gone by then, files and all
        execute(server, f"DROP DATABASE {name}")


def _at(server: str, name: str) -> str:
    return urlunsplit(urlsplit(server)._replace(path=f"/{name}"))


def empty_tables_fast() -> None:
    """Have the tables emptied after a test by DELETE, where little is in them: TRUNCATE takes a hundred times
    as long, most of it to sync files. What Django itself puts there stays, instead of being made again."""
    truncate = DatabaseOperations.sql_flush

    def sql_flush(operations: Any, style: Any, tables: Sequence[str], **options: Any) -> list[str]:
        wanted = [table for table in tables if table not in ("django_content_type", "auth_permission")]
        sizes = "SELECT max(pg_relation_size(to_regclass(name))) FROM unnest(%s::text[]) AS name"
        with operations.connection.cursor() as cursor:
            cursor.execute(sizes, [wanted])
            ((largest,),) = cursor.fetchall()
        if (largest or 0) > LITTLE:
            return truncate(operations, style, tables, **options)
        # Foreign keys are checked at the commit.
        return [f"DELETE FROM {operations.quote_name(table)}" for table in wanted]

    DatabaseOperations.sql_flush = sql_flush  # type: ignore[method-assign]


def execute(url: str, statement: str) -> None:
    """Run a statement on a connection of its own, and commit it."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)
