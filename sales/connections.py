"""The connections of one worker: lent one at a time, given up where the database falls silent, and known
as the server knows them, so that what was lost with one can be made sure of on another.
"""

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import psycopg
from django.db import connections
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from sales import statements
from sales.arrays import ArrayDumper
from sales.exceptions import DatabaseUnavailable, OutcomeUnknown
from sales.models import IdempotencyKey

logger = logging.getLogger(__name__)

CONNECTIONS = 8
"""At most so many connections for each worker: a batch of each kind for two sales, and some reads."""

CONNECT_TIMEOUT = 2.0
"""Seconds that a batch waits for a connection before its members are told that there is none."""

STATEMENT_TIMEOUT = 3.0
"""Seconds that a connection may be used for one batch or read before it is given up as lost."""

BULK_TIMEOUT = 60.0
"""The same for what goes through all rows of a sale, or of all sales."""

END_INTERVAL = 0.01
"""Seconds between two looks whether a session has ended."""

Connection = psycopg.AsyncConnection[tuple[Any, ...]]


class OverLimit(Exception):
    """A batch would give a user more than the limit allows; the database refused all of it."""


class Session(NamedTuple):
    """A connection as the server knows it; a process id alone may belong to another one later."""

    pid: int
    began_at: datetime


class Lost(DatabaseUnavailable):
    """The connection broke under a statement: it was done or not, or will be yet by its ``session``."""

    def __init__(self, session: Session | None) -> None:
        super().__init__()
        self.session = session


class KeyTaken(Exception):
    """A key of the batch was used before; the database refused all of it."""


def connection_info() -> str:
    """The connection string of Django's default database, for connections of our own."""
    parameters = connections["default"].get_connection_params()
    for name in ("cursor_factory", "context", "prepare_threshold", "client_encoding"):
        parameters.pop(name, None)
    return psycopg.conninfo.make_conninfo(**parameters)


class Connections:
    """The connections of one worker. Use it with ``async with``."""

    def __init__(self, conninfo: str) -> None:
        self._complained_at = -1.0
        self._sessions: WeakKeyDictionary[Connection, Session] = WeakKeyDictionary()
        self._pool = AsyncConnectionPool(
            conninfo,
            open=False,
            min_size=2,
            max_size=CONNECTIONS,
            timeout=CONNECT_TIMEOUT,
            # The pool doubles its pause with each failed attempt; giving up early resets it, so that a
            # database that is back is found within seconds.
            reconnect_timeout=3.0,
            configure=self._configure,
            kwargs={
                "autocommit": True,
                "prepare_threshold": 2,
                "application_name": "flashsale worker",
                "connect_timeout": 2,
            },
        )

    async def __aenter__(self) -> "Connections":
        await self._pool.open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._pool.close()

    @asynccontextmanager
    async def second_try(self, lost: Lost) -> AsyncIterator[Connection]:
        """A connection for what was lost, once the server has ended the session that it was lost with.

        Only then nothing of it can come any more: neither a statement that the server is still at work
        on, nor one that the network still has. Raises `OutcomeUnknown` where this one is lost too, or
        where that session does not end in time.
        """
        try:
            async with self.lend() as connection:
                while lost.session is not None:
                    cursor = await connection.execute(statements.END_SESSION, lost.session)
                    if await cursor.fetchone() is None:
                        break
                    await asyncio.sleep(END_INTERVAL)
                yield connection
        except DatabaseUnavailable as failure:
            raise OutcomeUnknown from failure

    @asynccontextmanager
    async def lend(self, *, bulk: bool = False) -> AsyncIterator[Connection]:
        """A connection for a statement or a few. Raises `DatabaseUnavailable`, or what a constraint means."""
        session = None
        try:
            async with self._pool.connection() as connection:
                session = self._sessions.get(connection)
                # Hanging up, not cancelling: a server that does not answer does not cancel either.
                loop = asyncio.get_running_loop()
                limit = BULK_TIMEOUT if bulk else STATEMENT_TIMEOUT
                watchdog = loop.call_later(limit, hang_up, connection)
                try:
                    yield connection
                finally:
                    watchdog.cancel()
        except psycopg.errors.CheckViolation as error:
            if error.diag.constraint_name == "allowance_within_limit":
                raise OverLimit from error
            self._complain(error)
            raise DatabaseUnavailable from error
        except psycopg.errors.UniqueViolation as error:
            if error.diag.table_name == IdempotencyKey._meta.db_table:
                raise KeyTaken from error
            self._complain(error)
            raise DatabaseUnavailable from error
        except (psycopg.Error, OSError) as error:
            if _is_lost(error):
                # The others are most likely lost too: better new ones than one batch after the other.
                await self._pool.drain()
                raise Lost(session) from error
            if not isinstance(error, PoolTimeout | PoolClosed):
                self._complain(error)
            raise DatabaseUnavailable from error

    async def _configure(self, connection: Connection) -> None:
        connection.adapters.register_dumper(list, ArrayDumper)
        await connection.execute(statements.SETTINGS)
        cursor = await connection.execute(statements.SESSION)
        self._sessions[connection] = Session(*(await cursor.fetchone() or ()))

    def _complain(self, error: Exception) -> None:
        """Log that a statement was refused, which it never should be: once a second, not for each batch."""
        if time.monotonic() - self._complained_at >= 1:
            self._complained_at = time.monotonic()
            logger.error("a statement failed: %s", str(error).strip(), exc_info=error)


def hang_up(connection: psycopg.AsyncConnection[Any] | psycopg.Connection[Any]) -> None:
    """End a connection under whoever uses it, so that they get an error at once."""
    with (
        contextlib.suppress(OSError, psycopg.Error),
        socket.socket(fileno=os.dup(connection.fileno())) as sock,
    ):
        sock.shutdown(socket.SHUT_RDWR)


def _is_lost(error: Exception) -> bool:
    """Whether the connection broke under a statement, so that its outcome is not known."""
    return (
        isinstance(error, psycopg.OperationalError)
        and not isinstance(error, PoolTimeout | PoolClosed)
        and (error.sqlstate is None or error.sqlstate.startswith(("08", "57P")))
    )
