"""The connections of one worker: lent one at a time, given up where the database falls silent, and known
as the server knows them, so that what was lost with one can be made sure of on another.
"""

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import psycopg
from django.db import connections
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from sales import limits, statements
from sales.arrays import ArrayDumper
from sales.models import IdempotencyKey
from sales.patience import Patience, patient
from sales.refusals import DatabaseFailure, DatabaseUnavailable, OutcomeUnknown

logger = logging.getLogger(__name__)

R = TypeVar("R")

END_INTERVAL = 0.01
"""Seconds between two looks whether a session has ended."""

PROBES = 10
"""How often two connections are asked for their session. With others at work it may change at any time."""

POOLED = (
    "DATABASE_URL leads to a connection pooler in transaction mode, which gives one session to many: "
    "use its session mode, or connect to PostgreSQL itself."
)

EXPECTED = (
    PoolTimeout,
    PoolClosed,
    psycopg.errors.LockNotAvailable,  # see `statements.TRY_EXPIRE`
)
"""Errors that are no news to the operator."""

Connection = psycopg.AsyncConnection[tuple[Any, ...]]


class OverLimit(Exception):
    """A batch would give a user more than the limit allows; the database refused all of it."""


class KeyTaken(Exception):
    """A key of the batch was used before; the database refused all of it."""


class Deadlocked(DatabaseUnavailable):
    """A batch and another one waited for each other; the database refused all of this one."""


@dataclass(eq=False, slots=True)
class Session:
    """A connection as the server knows it; a process id alone may belong to another one later.

    ``server`` is which server it is, as `sales.statements` has it. ``in_doubt``: somebody kept the session
    from waiting for a standby, so that what it said was committed may be so on this server alone.
    """

    pid: int
    began_at: datetime
    server: int
    in_doubt: bool = False

    @property
    def identity(self) -> tuple[int, datetime]:
        """What no other session has."""
        return self.pid, self.began_at


class Lost(OutcomeUnknown):
    """The connection broke under a statement: it was done or not, or will be yet by its ``session``.

    ``given_up``: the server was silent for too long, and we hung up.
    """

    def __init__(self, session: Session | None, *, given_up: bool = False) -> None:
        super().__init__()
        self.session = session
        self.given_up = given_up


def connection_info() -> str:
    """The connection string of Django's default database, for connections of our own."""
    parameters = connections["default"].get_connection_params()
    for name in ("cursor_factory", "context", "prepare_threshold", "client_encoding"):
        parameters.pop(name, None)
    return psycopg.conninfo.make_conninfo(**parameters)


def is_pooled(conninfo: str) -> bool:
    """Whether connections share sessions: there is a pooler, in transaction or statement mode.

    A pooler makes up the process id that a connection is told when it begins, so a true one means that it
    leads to PostgreSQL itself. In session mode each connection keeps a session of its own. Raises psycopg's
    errors.
    """
    options: dict[str, Any] = {"autocommit": True, "prepare_threshold": None}
    with psycopg.connect(conninfo, **options) as one:
        if _pid(one) == one.info.backend_pid:
            return False
        with psycopg.connect(conninfo, **options) as other:
            pids = [(_pid(one), _pid(other)) for _ in range(PROBES)]
    return len(set(pids)) > 1 or pids[0][0] == pids[0][1]


def _pid(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute(statements.PID).fetchone()
    return int(row[0]) if row else 0


class Connections:
    """The connections of one worker. Use it with ``async with``."""

    def __init__(self, conninfo: str) -> None:
        self._complained_at = -1.0
        self._sessions: WeakKeyDictionary[Connection, Session] = WeakKeyDictionary()
        self._left: set[Session] = set()
        self._is_pooled = False
        self._pool = AsyncConnectionPool(
            conninfo,
            open=False,
            min_size=2,
            max_size=limits.CONNECTIONS,
            timeout=3600,  # ours is shorter, and knows a stall of the event loop from a silent server
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

    def server(self, connection: Connection) -> int:
        """Which server this connection leads to."""
        return self._sessions[connection].server

    def check_session(self, connection: Connection, pid: int) -> None:
        """Take note of the process that serves a connection now: it must be the one that always did."""
        self._refuse_if(pid != self._sessions[connection].pid)

    async def renew(self) -> None:
        """Give up the connections that nobody uses: new ones may lead to another server."""
        await self._pool.drain()

    async def read(self, look: Callable[[Connection], Awaitable[R]], *, bulk: bool = False) -> R:
        """What ``look`` returns, which must be something that may be done twice.

        Where its connection breaks at once it is done again on another one: most likely that was lost
        while nobody used it, and the server has just been started again. Raises `DatabaseUnavailable`.
        """
        try:
            try:
                async with self.lend(bulk=bulk) as connection:
                    return await look(connection)
            except Lost as lost:
                if lost.given_up:
                    raise
            async with self.lend(bulk=bulk) as connection:
                return await look(connection)
        except Lost as lost:  # whatever it did may be done again
            raise DatabaseUnavailable from lost.__cause__

    @asynccontextmanager
    async def second_try(self, lost: Lost) -> AsyncIterator[Connection]:
        """A connection for what was lost, once the session that it was lost with has ended on the server.

        Only then nothing of it can come any more: neither a statement that the server is still at work
        on, nor one that the network still has. Raises `OutcomeUnknown` where this one is lost too, or
        where that session does not end in time.

        What that session has committed may be seen now and still be on this server alone, if it was kept
        from waiting for a standby: by an operator, by us in the moment between our look at it and its
        end, or by a crash of the server. So what is found is not done until a later commit has been
        confirmed by the standby, which gets them in order: see `sales.statements.CONFIRMED`.
        """
        try:
            async with self.lend() as connection:
                while lost.session is not None:
                    cursor = await connection.execute(statements.END_SESSION, lost.session.identity)
                    if await cursor.fetchone() is None:
                        break
                    await asyncio.sleep(END_INTERVAL)
                yield connection
        except DatabaseFailure as failure:
            if lost.session is not None:
                self._left.add(lost.session)
            raise OutcomeUnknown from failure

    @asynccontextmanager
    async def lend(self, *, bulk: bool = False) -> AsyncIterator[Connection]:
        """A connection for a statement or a few.

        Raises `DatabaseUnavailable`; `Lost`; or `Deadlocked`, `OverLimit` or `KeyTaken`, and then nothing was
        changed.
        """
        if self._is_pooled:
            raise DatabaseUnavailable(POOLED)
        session, hung_up = None, False
        try:
            async with AsyncExitStack() as stack:
                connection = await self._connected(stack)
                session = self._sessions[connection]
                session.in_doubt = False
                # Hanging up, not cancelling: a server that does not answer does not cancel either.
                limit = limits.BULK_TIMEOUT if bulk else limits.STATEMENT_TIMEOUT
                patience = stack.enter_context(Patience(limit, partial(hang_up, connection)))
                try:
                    await self._check_standby(connection)
                    yield connection
                finally:
                    hung_up = patience.is_over
            if session.in_doubt:
                raise Lost(None)  # it has ended, and only its commit must be made sure of
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
        except psycopg.errors.DeadlockDetected as error:
            raise Deadlocked from error
        except (psycopg.Error, OSError) as error:
            if _is_lost(error):
                if hung_up and session is not None:
                    self._left.add(session)
                # The others are most likely lost too: better new ones than one batch after the other.
                await self._pool.drain()
                raise Lost(session, given_up=hung_up) from error
            if not isinstance(error, EXPECTED):
                self._complain(error)
            raise DatabaseUnavailable from error

    async def _connected(self, stack: AsyncExitStack) -> Connection:
        """A connection of the pool, for as long as ``stack`` is open."""
        try:
            async with patient(limits.CONNECT_TIMEOUT):
                return await stack.enter_async_context(self._pool.connection())
        except TimeoutError:
            raise PoolTimeout(f"no connection was to be had within {limits.CONNECT_TIMEOUT} s") from None

    async def _check_standby(self, connection: Connection) -> None:
        """Raise `DatabaseUnavailable` as long as a session that was given up waits for a standby.

        Whatever came next would wait behind it, and leave another session on the server every few
        seconds, until that takes none any more. So it is refused, and nothing was done.
        """
        if self._left:
            asked = set(self._left)
            cursor = await connection.execute(
                statements.AWAITING_STANDBY, [[session.pid for session in asked]]
            )
            waiting = set(await cursor.fetchall())
            # Another one may have been given up meanwhile.
            self._left -= {session for session in asked if session.identity not in waiting}
            if self._left:
                raise DatabaseUnavailable("The standby of the database does not answer.")

    async def _configure(self, connection: Connection) -> None:
        connection.adapters.register_dumper(list, ArrayDumper)
        with Patience(limits.STATEMENT_TIMEOUT, partial(hang_up, connection)):
            await connection.execute(statements.SETTINGS)
            cursor = await connection.execute(statements.SESSION)
            *facts, is_standby = await cursor.fetchone() or ()
        if is_standby:
            await connection.close()
            raise psycopg.OperationalError("the server is a standby")
        session = Session(*facts)
        connection.add_notice_handler(partial(_take_notice, session))
        self._refuse_if(any(known.identity == session.identity for known in self._sessions.values()))
        self._sessions[connection] = session

    def _refuse_if(self, is_pooled: bool) -> None:
        """Refuse everything from now on: sessions are not what all of this is built on."""
        if is_pooled and not self._is_pooled:
            self._is_pooled = True
            logger.error(POOLED)

    def _complain(self, error: Exception) -> None:
        """Log that a statement was refused, which it never should be: once a second, not for each batch."""
        if time.monotonic() - self._complained_at >= 1:
            self._complained_at = time.monotonic()
            logger.error("a statement failed: %s", str(error).strip(), exc_info=error)


def _take_notice(session: Session, notice: psycopg.errors.Diagnostic) -> None:
    """Note what the server said beside its answer.

    "Canceling wait for synchronous replication" is no error for it: the statement succeeds. The text may be
    in any language, the name of the function is not.
    """
    if notice.source_function == "SyncRepWaitForLSN":
        session.in_doubt = True


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
