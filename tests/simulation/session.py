"""The server's end of a connection: statements, transactions, and commits that wait for a standby."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, Protocol

import psycopg

from sales import statements
from tests.simulation.database import Deadlock
from tests.simulation.loop import PROCESS
from tests.simulation.replication import Record
from tests.simulation.server import Server
from tests.simulation.sql import Rows, run_statement, statement_name
from tests.simulation.transaction import KeyUsed, LimitExceeded, Transaction

Work = Callable[["Session"], Awaitable[Rows]]


class OverLimitViolation(psycopg.errors.CheckViolation):
    """As psycopg reports `LimitExceeded`."""

    diag = SimpleNamespace(constraint_name="allowance_within_limit")  # type: ignore[assignment]


class KeyViolation(psycopg.errors.UniqueViolation):
    """As psycopg reports `KeyUsed`."""

    diag = SimpleNamespace(table_name="sales_idempotencykey")  # type: ignore[assignment]


class OtherEnd(Protocol):
    """What a session asks of the connection that it serves."""

    notice_handlers: list[Callable[[Any], None]]

    def drop(self, error: psycopg.Error | None = None) -> None:
        """Break, and tell whoever waits for an answer."""


class Session:
    """The server's end of a connection."""

    def __init__(self, server: Server, connection: OtherEnd) -> None:
        self.server = server
        self.client = PROCESS.get()
        self._connection: OtherEnd | None = connection
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
        transaction = self._current = self._transaction or Transaction(self.server.database)
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
        self._transaction = Transaction(self.server.database)
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
        has_written = bool(transaction.written.items or transaction.written.checkouts)
        if message or has_written:
            await self.server.write_to_disk()
        standby = self.server.database.standby
        if standby is not None and (message or has_written):
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
        elif isinstance(error, Deadlock):
            reply.set_exception(psycopg.errors.DeadlockDetected("deadlock detected"))
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
