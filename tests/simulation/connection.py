"""What `sales.storage` needs of psycopg: connections to the model database and a pool of them.

The storage runs on it unchanged.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import psycopg
from psycopg_pool import PoolClosed

from sales.limits import CONNECTIONS
from tests.simulation.server import Server
from tests.simulation.session import Session, Work
from tests.simulation.sql import Rows, is_batch

PATIENCE = 5.0
"""Seconds that psycopg waits for the end of a statement that was cancelled."""

REFUSALS = [
    psycopg.errors.DiskFull("could not extend file"),
    psycopg.errors.DeadlockDetected("deadlock detected"),
    psycopg.errors.QueryCanceled("canceling statement due to user request"),
    psycopg.errors.SerializationFailure("could not serialize access"),
]


class Cursor:
    """Rows to be fetched; also a cursor that has still to be executed."""

    def __init__(self, connection: "Connection", rows: Sequence[Any] = ()) -> None:
        self._connection = connection
        self._rows = list(rows)

    async def execute(self, query: str, parameters: Any = None) -> None:
        """Run a statement."""
        self._rows = (await self._connection.execute(query, parameters))._rows

    async def fetchone(self) -> Any:
        """The next row."""
        return self._rows.pop(0) if self._rows else None

    async def fetchall(self) -> list[Any]:
        """All rows that are left."""
        rows, self._rows = self._rows, []
        return rows


class Connection:
    """What `sales.storage` needs of a `psycopg.AsyncConnection` in autocommit mode."""

    def __init__(self, server: Server) -> None:
        self.broken = False
        self.adapters = SimpleNamespace(register_dumper=lambda type_, dumper: None)
        self.notice_handlers: list[Callable[[Any], None]] = []
        self.add_notice_handler = self.notice_handlers.append
        self._server = server
        self._session = Session(server, self)
        self._reply: asyncio.Future[Rows] | None = None

    async def execute(self, query: str, parameters: Any = None, *, binary: bool = False) -> Cursor:
        """Run a statement. Raises what psycopg would."""
        work = partial(Session.statement, query=query, parameters=parameters)
        return Cursor(self, await self._call(work, batch=is_batch(query)))

    def cursor(self, *, row_factory: object) -> Cursor:
        """A cursor; the rows of the model have names already where they need them."""
        return Cursor(self)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """A transaction of several statements."""
        try:
            await self._call(Session.begin)
            yield
            await self._call(Session.commit)
        except (Exception, asyncio.CancelledError):
            # Rolled back by the server; psycopg would rather ask for it, and keep the connection.
            self.drop()
            raise

    def fileno(self) -> int:
        """Asked for by the watchdog of the storage, to shut the socket."""
        self.drop()
        raise OSError("there is no socket")

    def drop(self, error: psycopg.Error | None = None) -> None:
        """The connection breaks, and whoever waits for an answer learns that there will be none."""
        if self.broken:
            return
        self.broken = True
        self._server.after(self._server.latency(), self._session.abandon)
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(error or psycopg.OperationalError("the connection is lost"))

    async def _call(self, work: Work, *, batch: bool = False) -> Rows:
        if self.broken:
            raise psycopg.OperationalError("the connection is closed")
        server, random = self._server, self._server.random
        self._reply = reply = server.loop.create_future()
        # Nobody may be left to ask for the error.
        reply.add_done_callback(lambda reply: reply.cancelled() or reply.exception(), context=server.context)
        delay, late = server.latency(), server.latency()
        fate = server.fate(batch=batch)
        if fate == "answer_lost":
            server.after(random.uniform(0, 3 * (delay + late)), self.drop)
        elif fate == "refused":
            work = partial(_refuse, error=random.choice(REFUSALS))
        elif fate == "late_request":
            delay += server.lateness(0.5, 8)
        elif fate == "late_answer":
            late += server.lateness(0.5, 8)
        elif fate == "overtaken":
            server.after(delay, self.drop)
            delay += server.lateness(0, random.choice([10, 30, 500]) * server.weather.latency)
        if fate == "request_lost":
            server.after(delay, self.drop)
        else:
            self._session.start(work, reply, delay=delay, late=late)
        try:
            return await asyncio.shield(reply)
        except asyncio.CancelledError:
            # As psycopg does: the server is asked to cancel the statement, which may be too late.
            try:
                await asyncio.sleep(server.latency())
                self._session.cancel()
                await asyncio.wait([reply], timeout=PATIENCE)
            finally:
                if not reply.done():
                    self.drop()
            raise


async def _refuse(session: Session, error: psycopg.Error) -> Rows:
    raise type(error)(*error.args)


class Pool:
    """What `sales.storage` needs of a `psycopg_pool.AsyncConnectionPool`."""

    def __init__(self, server: Server, configure: Callable[[Any], Awaitable[None]]) -> None:
        self._server = server
        self._configure = configure
        self._places = asyncio.Semaphore(CONNECTIONS)
        self._idle: list[Connection] = []
        self._used: set[Connection] = set()
        self._closed = False

    async def open(self) -> None:
        """Nothing to do yet: connections are made as they are needed."""

    async def close(self) -> None:
        """Give out no more connections."""
        self._closed = True
        await self.drain()

    async def drain(self) -> None:
        """Close those connections that nobody uses."""
        while self._idle:
            self._idle.pop().drop()

    def die(self) -> None:
        """The process is gone, and all its sockets are closed."""
        for connection in [*self._idle, *self._used]:
            connection.drop()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection, however long that takes; it may turn out to be broken."""
        connection = await self._get()
        try:
            yield connection
        finally:
            self._used.discard(connection)
            if self._closed:
                connection.drop()
            elif not connection.broken:
                self._idle.append(connection)
            self._places.release()

    async def _get(self) -> Connection:
        if self._closed:
            raise PoolClosed
        await self._places.acquire()
        try:
            connection = self._idle.pop(0) if self._idle else await self._connect()
        except BaseException:
            self._places.release()
            raise
        self._used.add(connection)
        return connection

    async def _connect(self) -> Connection:
        while True:
            await asyncio.sleep(self._server.latency())
            if self._server.up and (connection := await self._made()) is not None:
                return connection
            await asyncio.sleep(0.2)

    async def _made(self) -> Connection | None:
        """A new connection, ready for use; ``None`` where it did not come so far."""
        connection = Connection(self._server)
        self._used.add(connection)
        # In a task of its own, as the pool has for it: whoever waits for it may give up at any time.
        making = asyncio.ensure_future(self._configure(connection))
        making.add_done_callback(lambda making: making.cancelled() or making.exception())
        made = False
        try:
            await asyncio.wait([making])
            made = making.exception() is None
        finally:
            if not made:
                self._used.discard(connection)
                connection.drop()
        return connection if made else None
