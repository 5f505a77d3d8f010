"""Synchronous replication: nothing is acknowledged that a failover could undo, however it came to be seen."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest

from sales import services
from sales.connections import connection_info, hang_up
from sales.models import Sale
from sales.refusals import ALREADY_PURCHASED, DATABASE_UNAVAILABLE, ITEM_HELD, OUTCOME_UNKNOWN, Refusal
from sales.runtime import Runtime
from tests.support.database import Sql
from tests.support.refusals import refuses
from tests.support.waiting import eventually, until_it_works

ALL = "SELECT code FROM sales_checkout"


class Standby:
    """A standby that PostgreSQL waits for, and that is away, or is not waited for any more.

    Once nobody waits for it, whoever did goes on as if it had come back.
    """

    def __init__(self) -> None:
        self._connection = psycopg.connect(connection_info(), autocommit=True)
        self._connection.execute("SET synchronous_commit TO local")
        self._commits: list[threading.Thread] = []

    def leave(self) -> None:
        """Be away; returns when commits wait."""
        self._set("'absent'")
        while not self.waiting("pg_stat_activity.application_name = 'probe'"):
            self._commits.append(threading.Thread(target=_commit))
            self._commits[-1].start()

    def come_back(self) -> None:
        """Be there again; returns when commits do not wait."""
        self._set("''")
        for commit in self._commits:
            commit.join()
        self._commits.clear()
        _commit()

    def waiting(self, which: str = "pg_stat_activity.application_name = 'flashsale worker'") -> int:
        """How many sessions wait for it."""
        found = self._connection.execute(
            f"SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND {which}"
        ).fetchone()
        return int(found[0]) if found else 0

    def kept_from(self, function: str) -> None:
        """An operator keeps all sessions of workers from waiting."""
        self._connection.execute(
            f"""SELECT {function}(pid) FROM pg_stat_activity
                WHERE wait_event = 'SyncRep' AND application_name = 'flashsale worker'"""
        )

    def seen(self) -> list[Any]:
        """The codes that everybody can see."""
        return [code for (code,) in self._connection.execute(ALL).fetchall()]

    def close(self) -> None:
        """Leave everything as it was."""
        self._connection.execute("ALTER SYSTEM RESET synchronous_standby_names")
        self.come_back()
        self._connection.close()

    def _set(self, names: str) -> None:
        self._connection.execute(f"ALTER SYSTEM SET synchronous_standby_names TO {names}")
        self._connection.execute("SELECT pg_reload_conf()")


def _commit() -> None:
    with psycopg.connect(connection_info(), autocommit=True, application_name="probe") as connection:
        connection.execute("SELECT pg_logical_emit_message(true, 'probe', '')")


@pytest.fixture
def standby(transactional_db: None) -> Iterator[Standby]:
    standby = Standby()
    if standby._connection.execute("SHOW is_superuser").fetchone() != ("on",):
        pytest.skip("needs a server whose settings may be changed")
    try:
        yield standby
    finally:
        standby.close()


async def blocked(standby: Standby, call: Awaitable[Any], by: str = "") -> "asyncio.Task[Any]":
    """Begin a call, and wait until its commit waits for the standby; with ``by``, end that wait."""
    task = asyncio.ensure_future(call)
    await eventually(standby.waiting)
    if by:
        standby.kept_from(by)
    return task


KEEPING = ["pg_cancel_backend", "pg_terminate_backend"]


@pytest.mark.parametrize("by", KEEPING)
async def test_what_everybody_sees_and_no_standby_has_is_not_acknowledged(
    worker: Runtime, standby: Standby, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    held = await services.checkout(worker, user_id=1, item_id=1)
    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "hold": lambda: services.checkout(worker, user_id=1, item_id=2, key="again"),
        "purchase": lambda: services.purchase(worker, code=held),
    }
    for name, call in calls.items():
        standby.leave()
        monkeypatch.setattr("sales.limits.STATEMENT_TIMEOUT", 3.0)
        task = await blocked(standby, call(), by)
        with refuses(OUTCOME_UNKNOWN) as unknown:
            await task
        code = UUID(unknown.value.reason.members["code"])
        assert code in standby.seen()
        standby.come_back()
        receipt = await until_it_works(lambda code=code: services.receipt(worker, code=code))  # type: ignore[misc]
        assert receipt.state == ("held" if name == "hold" else "purchased")


@pytest.mark.parametrize("by", KEEPING)
async def test_it_is_acknowledged_when_a_standby_has_it(
    worker: Runtime, standby: Standby, sql: Sql, by: str
) -> None:
    standby.leave()
    task = await blocked(standby, services.checkout(worker, user_id=1, item_id=2), by)
    await eventually(standby.seen)
    await eventually(standby.waiting)  # who looks for it waits
    assert not task.done()
    standby.come_back()
    assert await task == standby.seen()[0]

    code = await task
    standby.leave()
    task = await blocked(standby, services.purchase(worker, code=code), by)
    await eventually(standby.waiting)
    standby.come_back()
    await task
    with refuses(ALREADY_PURCHASED):
        await services.purchase(worker, code=code)


async def test_nobody_is_told_of_it_by_another_worker(
    workers: tuple[Runtime, Runtime], standby: Standby, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by its key, not by its receipt, not as a refusal that has one."""
    first, second = workers
    bought = await services.checkout(first, user_id=1, item_id=1)
    standby.leave()
    for call in (
        services.checkout(first, user_id=1, item_id=2, key="again"),
        services.purchase(first, code=bought),
    ):
        task = await blocked(standby, call, "pg_terminate_backend")
        await eventually(standby.waiting)
        standby.kept_from("pg_terminate_backend")
        with refuses(OUTCOME_UNKNOWN):
            await task
    monkeypatch.setattr("sales.limits.STATEMENT_TIMEOUT", 0.5)
    questions: list[Callable[[], Awaitable[Any]]] = [
        lambda: services.checkout(second, user_id=1, item_id=2, key="again"),
        lambda: services.receipt(second, code=bought),
        lambda: services.purchase(second, code=bought),
        lambda: services.release(second, code=bought),
    ]
    for ask in questions:
        with refuses(DATABASE_UNAVAILABLE):
            await ask()
    standby.come_back()
    monkeypatch.setattr("sales.limits.STATEMENT_TIMEOUT", 3.0)
    assert (await until_it_works(questions[1])).state == "purchased"
    assert await questions[0]() in standby.seen()
    with refuses(ALREADY_PURCHASED):
        await questions[2]()


async def test_who_waits_for_a_standby_is_left_to_wait_and_others_do_not_queue_up_behind(
    worker: Runtime, standby: Standby, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sales.limits.STATEMENT_TIMEOUT", 1.5)
    standby.leave()
    with refuses(OUTCOME_UNKNOWN) as unknown:
        await services.checkout(worker, user_id=1, item_id=1)
    assert standby.seen() == []
    monkeypatch.setattr("sales.limits.STATEMENT_TIMEOUT", 0.3)
    for item in range(2, 20):
        with pytest.raises(Refusal) as refusal:
            await services.checkout(worker, user_id=1, item_id=item)
        assert refusal.value.reason.name == "database_unavailable"  # and nothing was done
    assert standby.waiting() == 1
    await worker.housekeeping.do_round()
    assert not worker.ready
    lost = next(record for record in caplog.records if record.message == "database.lost")
    assert "The standby of the database does not answer." in vars(lost)["fields"]["reason"]

    standby.come_back()
    monkeypatch.setattr("sales.limits.STATEMENT_TIMEOUT", 3.0)
    await worker.housekeeping.do_round()
    assert worker.ready
    assert standby.seen() == [UUID(unknown.value.reason.members["code"])]
    await services.checkout(worker, user_id=1, item_id=2)


async def test_a_connection_that_is_lost_ends_no_wait_for_a_standby(
    worker: Runtime, standby: Standby
) -> None:
    standby.leave()
    task = await blocked(standby, services.checkout(worker, user_id=1, item_id=1))
    for connection in worker.storage._connections._sessions:
        hang_up(connection)
    with refuses(OUTCOME_UNKNOWN):
        await task
    assert (standby.waiting(), standby.seen()) == (1, [])

    standby.come_back()
    await eventually(standby.seen)
    with refuses(ITEM_HELD):
        await until_it_works(lambda: services.checkout(worker, user_id=2, item_id=1))


@pytest.mark.parametrize(
    ("preferred", "used"),
    [("off", "on"), ("local", "on"), ("on", "on"), ("remote_apply", "remote_apply")],
)
async def test_a_commit_is_never_less_than_one(
    sale: Sale, open_worker: Callable[[], Awaitable[Runtime]], sql: Sql, preferred: str, used: str
) -> None:
    name = (await asyncio.to_thread(sql, "SELECT current_database()"))[0][0]
    await asyncio.to_thread(sql, f"ALTER DATABASE {name} SET synchronous_commit TO {preferred}")
    try:
        worker = await open_worker()
        assert await worker.storage._rows("SHOW synchronous_commit") == [(used,)]
    finally:
        await asyncio.to_thread(sql, f"ALTER DATABASE {name} RESET synchronous_commit")


async def test_without_standbys_nothing_is_written_by_who_only_reads(worker: Runtime, sql: Sql) -> None:
    code = await services.checkout(worker, user_id=1, item_id=1, key="again")
    before = await asyncio.to_thread(sql, "SELECT pg_current_xact_id()::text::bigint")
    await services.receipt(worker, code=code)
    assert await services.checkout(worker, user_id=1, item_id=1, key="again") == code
    assert await asyncio.to_thread(sql, "SELECT pg_current_xact_id()::text::bigint") == [(before[0][0] + 1,)]
