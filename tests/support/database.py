"""Databases that are a test's own."""

import contextlib
import os
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import psycopg
from django.conf import settings

from flashsale_project.postgres.base import embedded_postgres

NewUrl = Callable[[], str]
"""Makes an empty database and returns its URL."""


def shared_server() -> str:
    """The URL of the server of this run: the one that was given, else one that is stopped at its end."""
    return os.environ.get("DATABASE_URL") or embedded_postgres(settings.DATABASES["default"]).acquire()


@contextlib.contextmanager
def new_database() -> Iterator[str]:
    """The URL of an empty database; it is dropped at the end, whoever is still connected."""
    server, name = shared_server(), f"flashsale_{uuid4().hex}"
    execute(server, f"CREATE DATABASE {name}")
    yield urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
    execute(server, f"DROP DATABASE {name} WITH (FORCE)")


def execute(url: str, statement: str) -> None:
    """Run a statement on a connection of its own, and commit it."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)
