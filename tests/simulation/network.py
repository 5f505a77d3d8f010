"""The way to the model database, in place of psycopg: a pool, connections, sessions; and all that can fail.

`sales.storage.Storage` runs on it unchanged. What happens on the server happens in a process of its own:
a worker that hangs up or dies does not undo it.
"""

import asyncio
import contextvars
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from random import Random
from types import SimpleNamespace
from typing import Any

import psycopg
from psycopg_pool import PoolClosed

from sales import statements
from sales.connections import CONNECTIONS
from tests.simulation.database import Database, KeyUsed, LimitExceeded, Transaction
from tests.simulation.loop import PROCESS, SimulatedLoop
from tests.simulation.replication import Record
from tests.simulation.sql import Rows, is_batch, run_statement, statement_name

Work = Callable[["Session"], Awaitable[Rows]]

PATIENCE = 5.0
"""Seconds that psycopg waits for the end of a statement that was cancelled."""

QUIET = 5.0
"""Seconds in which nothing fails after one of these was lost: more than it takes to do it again."""


class OverLimitViolation(psycopg.errors.CheckViolation):
    """As psycopg reports `LimitExceeded`."""

    diag = SimpleNamespace(constraint_name="allowance_within_limit")  # type: ignore[assignment]


class KeyViolation(psycopg.errors.UniqueViolation):
    """As psycopg reports `KeyUsed`."""

    diag = SimpleNamespace(table_name="sales_idempotencykey")  # type: ignore[assignment]


@dataclass(frozen=True, kw_only=True)
class Weather:
    """How the network and the server behave. Chances are of one statement; times are in seconds."""

    latency: float = 0.001
    request_lost: float = 0
    """The connection breaks before the server knows of the statement."""
    answer_lost: float = 0
    """The connection breaks while the server is at work on the statement, or just after its commit."""
    refused: float = 0
    """The server gives an error, and nothing has happened."""
    late_request: float = 0
    """The statement is under way to the server for longer than most would wait for it."""
    late_answer: float = 0
    """Its answer is."""
    overtaken: float = 0
    """The connection breaks at once, and the statement comes to the server all the same, some time later."""
    batch_lost: float = 0
    """Of the statement of a batch: it is `request_lost` or `overtaken`, and then nothing fails for as long as
    it may take to do it again."""
    read_lost: float = 0
    """The same of any other statement, which never comes to the server then."""
    slow_end: float = 0.1
    """Not of a statement: a session goes on for long when it was told to end."""

    def fate(self, number: float) -> str:
        """What becomes of a statement that drew this number from 0 to 1."""
        for name in ("request_lost", "answer_lost", "refused", "late_request", "late_answer", "overtaken"):
            number -= getattr(self, name)
            if number < 0:
                return name
        return "done"


class Server:
    """The machine of the database."""

    def __init__(
        self, loop: SimulatedLoop, random: Random, database: Database, say: Callable[..., None]
    ) -> None:
        self.loop = loop
        self.random = random
        self.database = database
        self.say = say
        self.weather = Weather()
        self.up = True
        self.late_until = 0.0
        self.sessions: list[Session] = []
        self._operators: set[asyncio.Task[None]] = set()
        self.batches: dict[int | None, str] = {}
        """From which process each batch of purchases came."""
        self._begun = 0
        self._quiet_until = 0.0
        self.context = contextvars.Context()
        self.context.run(PROCESS.set, "database")
        database.pace = self.pace

    async def pace(self) -> None:
        """Let others come in between, or not."""
        if self.random.random() < 0.3:
            await asyncio.sleep(self.latency())

    def latency(self) -> float:
        """A time on the way."""
        return self.random.expovariate(1 / self.weather.latency)

    def fate(self, *, batch: bool) -> str:
        """Draw what becomes of a statement."""
        number = self.random.random()
        if self.loop.now < self._quiet_until:
            return "done"
        if number < (self.weather.batch_lost if batch else self.weather.read_lost):
            self._quiet_until = self.loop.now + QUIET
            return self.random.choice(["request_lost", "overtaken"]) if batch else "request_lost"
        return self.weather.fate(number)

    def lateness(self, least: float, most: float) -> float:
        """A much longer one."""
        seconds = self.random.uniform(least, most)
        self.late_until = max(self.late_until, self.loop.now + seconds)
        return seconds

    def admit(self, session: "Session") -> tuple[int, datetime]:
        """Take in a session: its process id, one that was free, and its start."""
        used = {other.pid for other in self.sessions}
        self.sessions.append(session)
        self._begun += 1  # no two at the same moment
        began_at = datetime.fromtimestamp(self.database.clock(), UTC) + timedelta(microseconds=self._begun)
        return next(pid for pid in itertools.count(1) if pid not in used), began_at

    def end_session(self, pid: int, began_at: datetime) -> bool:
        """Whether there is this session; it is told to end, unless it is at work, which takes its time."""
        for session in self.sessions:
            if (session.pid, session.began_at) == (pid, began_at):
                if not session.told_to_end and not session.is_at_work:
                    session.told_to_end = True
                    late = self.random.random() < self.weather.slow_end
                    self.after(self.lateness(0, 5) if late else self.latency(), session.terminate)
                return True
        return False

    def awaiting_standby(self) -> Rows:
        """The sessions that wait for a standby."""
        return [(session.pid, session.began_at) for session in self.sessions if session.awaits_standby]

    def shut_down(self) -> None:
        """End all sessions, and take no more until `start`."""
        self.up = False
        self._end_operators()
        for session in list(self.sessions):
            session.terminate()

    def start(self) -> None:
        """Take connections again, as another server, unless somebody does."""
        if not self.up:
            self.up = True
            self.database.renew()

    def fail_over(self) -> None:
        """The machine is gone, and its standby takes its place and its name."""
        self._end_operators()
        for session in list(self.sessions):
            session.vanish()
        self.up = True
        self.database.fail_over()

    def work_for_operator(self, work: Coroutine[Any, Any, None]) -> None:
        """Do what no worker asked for; cancelled where the server goes away."""
        task = self.loop.create_task(work, context=self.context)
        self._operators.add(task)
        task.add_done_callback(self._operators.discard)

    def _end_operators(self) -> None:
        for task in self._operators:
            task.cancel()

    def pass_on(self, callback: Callable[[], None]) -> None:
        """Call it after the time of the way."""
        self.after(self.latency(), callback)

    def after(self, delay: float, callback: Callable[[], None]) -> None:
        """Call it later, whoever lives by then."""
        self.loop.call_later(delay, callback, context=self.context)


class Session:
    """The server's end of a connection."""

    def __init__(self, server: Server, connection: "Connection") -> None:
        self.server = server
        self.client = PROCESS.get()
        self._connection: Connection | None = connection
        self._transaction: Transaction | None = None
        self._current: Transaction | None = None
        self._task: asyncio.Task[Rows] | None = None
        self._serving = False
        self._committing = False
        self._record: Record | None = None
        self._ending = False
        self.told_to_end = False
        self.pid, self.began_at = server.admit(self)

    @property
    def is_at_work(self) -> bool:
        """Whether it is at a statement, and does not wait for another session."""
        return self._serving and not (self._current is not None and self._current.is_blocked)

    @property
    def awaits_standby(self) -> bool:
        """Whether its commit waits until the standby has it."""
        return self._record is not None and self._record.waiter is not None

    def start(self, work: Work, reply: "asyncio.Future[Rows]", *, delay: float, late: float) -> None:
        """Do a statement and reply; ``delay`` and ``late`` are the seconds of the way there and back."""
        context = self.server.context
        self._task = self.server.loop.create_task(self._serve(work, delay), context=context)
        self._task.add_done_callback(partial(self._served, reply, late), context=context)

    def cancel(self) -> None:
        """Cancel the statement, if it is still running; a commit is finished, and waits for no standby."""
        if self._task is not None and not self._committing:
            self._task.cancel()
        self._stop_waiting()

    def abandon(self) -> None:
        """The other end is gone. What is under way is finished first, as PostgreSQL does."""
        self._connection = None
        if self._task is None:
            self._end()

    def terminate(self) -> None:
        """End the session, after its commit if it is at one; the other end learns of it.

        What waits is rolled back, and what is still under way to it will not be read.
        """
        if self._committing:
            self._ending = True
            self._stop_waiting()
            return
        connection, self._connection = self._connection, None
        self.cancel()
        self._end()
        if connection is not None:
            connection.drop(psycopg.errors.AdminShutdown("terminating connection"))

    def vanish(self) -> None:
        """The server is gone from one moment to the next, with all that no standby has."""
        connection, self._connection = self._connection, None
        if self._task is not None:
            self._task.cancel()
        self._end()
        if connection is not None:
            connection.drop()

    async def statement(self, query: str, parameters: Any) -> Rows:
        """Run a statement in the transaction, or in one of its own."""
        if query == statements.SESSION:
            return [(self.pid, self.began_at, self.server.database.server, False)]
        if query == statements.READ_ONLY:
            return [(False, self.server.database.server, self.pid)]
        if query == statements.AWAITING_STANDBY:
            return self.server.awaiting_standby()
        if query == statements.END_SESSION:
            self.server.say("%s: end session %s", self.client, parameters[0])
            return [(True,)] if self.server.end_session(*parameters) else []
        name = statement_name(query)
        self.server.say("%s: %s", self.client, name)
        if query == statements.PURCHASE:
            self.server.batches[parameters["batch"]] = self.client
        transaction = self._current = self._transaction or self.server.database.begin()
        try:
            rows = await run_statement(transaction, query, parameters)
            self._committing = self._transaction is None
            await self.server.pace()
            if self._transaction is None:
                await self._commit(transaction, message=bool(rows) and self.confirms(query))
        except BaseException as error:
            self.server.say("%s: %s failed with %s", self.client, name, type(error).__name__)
            transaction.rollback()
            raise
        finally:
            self._committing = False
            self._current = None
        self.server.say("%s: %s gave %s rows", self.client, name, len(rows))
        return rows

    async def begin(self) -> Rows:
        """Begin a transaction of several statements."""
        self._transaction = self.server.database.begin()
        return []

    async def commit(self) -> Rows:
        """Commit it."""
        if self._transaction is not None:
            self._committing = True
            try:
                await self._commit(self._transaction)
            finally:
                self._committing = False
            self._transaction = None
        return []

    def confirms(self, query: str) -> bool:
        """Whether a statement that finds anything commits a message, to wait for the standby."""
        return statements.CONFIRMED in query

    async def _commit(self, transaction: Transaction, *, message: bool = False) -> None:
        """Commit it. If all goes well, nobody sees that before the standby has it, where there is one."""
        standby = self.server.database.standby
        if standby is not None and (message or transaction.written.items):
            self._record = transaction.write_down()
            try:
                if self._ending or not await standby.wait(self._record):
                    self.server.say("%s: a commit did not wait for the standby", self.client)
                    self._warn()
            finally:
                self._record = None
        transaction.commit()

    def _stop_waiting(self) -> None:
        """Wait for no standby: what is committed is seen by everybody from now on."""
        if self._record is not None and self._record.waiter is not None and not self._record.waiter.done():
            self._record.waiter.set_result(False)

    def _warn(self) -> None:
        """Tell the other end, beside its answer."""
        if self._connection is not None:
            for handler in self._connection.notice_handlers:
                handler(SimpleNamespace(source_function="SyncRepWaitForLSN"))

    async def _serve(self, work: Work, delay: float) -> Rows:
        await asyncio.sleep(delay)
        self._serving = True
        return await work(self)

    def _served(self, reply: "asyncio.Future[Rows]", late: float, task: "asyncio.Task[Rows]") -> None:
        task.cancelled() or task.exception()  # nobody may be left to ask for it
        self._task = None
        self._serving = False
        if self._ending:
            self.terminate()
        elif self._connection is None:
            self._end()
        self.server.after(late, partial(self._reply, reply, task))

    def _reply(self, reply: "asyncio.Future[Rows]", task: "asyncio.Task[Rows]") -> None:
        if reply.done():
            return
        if task.cancelled():
            reply.set_exception(psycopg.errors.QueryCanceled("canceling statement due to user request"))
        elif (error := task.exception()) is None:
            reply.set_result(task.result())
        elif isinstance(error, LimitExceeded):
            reply.set_exception(OverLimitViolation("allowance_within_limit"))
        elif isinstance(error, KeyUsed):
            reply.set_exception(KeyViolation("sales_idempotencykey_pkey"))
        else:
            if not isinstance(error, psycopg.Error):
                self.server.loop.trouble.append(f"the model failed with {error!r}")
            reply.set_exception(error)

    def _end(self) -> None:
        if self._transaction is not None:
            self._transaction.rollback()
            self._transaction = None
        if self._connection is None and self in self.server.sessions:
            self.server.sessions.remove(self)


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


REFUSALS = [
    psycopg.errors.DiskFull("could not extend file"),
    psycopg.errors.DeadlockDetected("deadlock detected"),
    psycopg.errors.QueryCanceled("canceling statement due to user request"),
    psycopg.errors.SerializationFailure("could not serialize access"),
]


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
