"""Databases that are a test's own."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit
from uuid import uuid4

import psycopg
from django.conf import settings
from django.db.backends.postgresql.operations import DatabaseOperations

from flashsale_project.postgres.base import embedded_postgres
from sales.connections import connection_info

NewUrl = Callable[[], str]
"""Makes an empty database and returns its URL."""

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
    """The URL of an empty database; it is dropped at the end, whoever is still connected."""
    server, name = shared_server(), f"flashsale_{uuid4().hex}"
    execute(server, f"CREATE DATABASE {name}")
    yield urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
    execute(server, f"DROP DATABASE {name} WITH (FORCE)")


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
