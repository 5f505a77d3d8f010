"""Clients that leave: what nobody waits for ends, what was accepted is saved, and nothing is logged."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import psycopg
import pytest

from flashsale_project import asgi
from flashsale_project.access.admin_slots import AdminSlots
from flashsale_project.serving.limits import LISTENING
from sales.connections import connection_info
from sales.runtime import Runtime
from tests.integration.serving.http.test_protocol import PING, seconds_pass
from tests.support.lanes import Lane, commits_held, connected, post, statuses, until
from tests.support.waiting import eventually

RECEIPT = post("/checkouts/00000040-0072-80d2-8b06-7bc5baa26c1e").replace(b"POST", b"GET")
SLOW_RECEIPT = "SELECT 1 FROM pg_sleep(3600) AS slept WHERE slept IS NULL AND %s::uuid[] IS NOT NULL"


@pytest.fixture(autouse=True)
def nothing_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whoever leaves is no error."""
    yield
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


@asynccontextmanager
async def receipts_held(worker: Runtime) -> AsyncIterator[None]:
    """Meanwhile nobody gets a receipt."""
    async with await psycopg.AsyncConnection.connect(connection_info()) as connection:
        await connection.execute("LOCK TABLE sales_checkout IN ACCESS EXCLUSIVE MODE")
        yield
        await connection.rollback()


async def test_a_view_whose_client_is_gone_ends(lane: Lane, worker: Runtime) -> None:
    async with receipts_held(worker):
        await lane.send(RECEIPT + PING * 10)
        await lane.arrive()
        await eventually(lambda: len(lane.state.tasks) == 1)
        lane.protocol.transport.abort()
        await eventually(lambda: lane.protocol.lost and not lane.state.tasks)
    assert lane.state.total_requests == 0


async def test_who_closes_their_side_and_asks_something_is_thought_to_listen_for_a_moment(
    lane: Lane, worker: Runtime
) -> None:
    async with receipts_held(worker):
        await lane.send(RECEIPT)
        await lane.arrive()
        lane.client.close()
        await eventually(lambda: lane.protocol.life.has_said_all)
        seconds_pass(lane, LISTENING)
        assert len(lane.state.tasks) == 1
        seconds_pass(lane, 1)
        await eventually(lambda: lane.protocol.lost and not lane.state.tasks)


async def test_what_a_client_that_is_gone_asked_for_is_saved(
    lane: Lane, worker: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with commits_held(monkeypatch):
        await lane.send(post("/checkout?user_id=1&item_id=1") + post("/checkout?user_id=1&item_id=2"))
        await lane.arrive()
        await eventually(lambda: blocked() == 1)
        lane.protocol.transport.abort()
        await eventually(lambda: lane.protocol.lost and not lane.state.tasks)
    await eventually(lambda: worker.current().held == 1)


async def test_who_closes_their_side_and_changes_something_is_answered_whenever_it_is(
    lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with commits_held(monkeypatch):
        await lane.send(post("/checkout?user_id=1&item_id=1"))
        await lane.arrive()
        lane.client.shutdown(1)
        await eventually(lambda: lane.protocol.life.has_said_all)
        seconds_pass(lane, 100)
        assert not lane.protocol.lost
    await until(lane, lambda: lane.protocol.lost)
    await lane.read()
    assert statuses(lane) == [200]


async def test_a_question_that_was_answered_before_counts_for_nothing(
    lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lane.send(PING)
    await lane.settle()
    async with commits_held(monkeypatch):
        await lane.send(post("/checkout?user_id=1&item_id=1"))
        await lane.arrive()
        lane.client.shutdown(1)
        await eventually(lambda: lane.protocol.life.has_said_all)
        seconds_pass(lane, LISTENING + 1)
        assert not lane.protocol.transport.is_closing()
    await until(lane, lambda: lane.protocol.lost)
    await lane.read()
    assert statuses(lane) == [200, 200]


# --- the admin, which works in threads

ADMIN = post("/admin/", "Cookie: sessionid=" + "x" * 32).replace(b"POST", b"GET")


@pytest.fixture
def slots(monkeypatch: pytest.MonkeyPatch) -> asyncio.Semaphore:
    """One request of the admin at a time."""
    monkeypatch.setattr("flashsale_project.access.admin_slots.FOR_ALL", 1)
    slots = AdminSlots()
    monkeypatch.setattr(asgi, "_slots", slots)
    return slots._for_all


async def test_a_slow_body_holds_no_slot_of_the_admin(
    lane: Lane, worker: Runtime, slots: asyncio.Semaphore
) -> None:
    slow = post("/admin/login/", "Content-Length: 1000", body=b"x")
    async with AsyncExitStack() as stack:
        for _ in range(20):
            other = await stack.enter_async_context(connected(type(lane.protocol), worker))
            await other.send(slow)
            await other.arrive()
        assert not slots.locked()
        await lane.send(ADMIN)
        await until(lane, lambda: statuses(lane))
    assert statuses(lane) == [302]


async def test_the_slot_of_a_client_that_is_gone_is_free_when_its_thread_is(
    lane: Lane, worker: Runtime, slots: asyncio.Semaphore
) -> None:
    kind = type(lane.protocol)
    async with connected(kind, worker) as waiting, connected(kind, worker) as last:
        async with await psycopg.AsyncConnection.connect(connection_info()) as connection:
            await connection.execute("LOCK TABLE django_session IN ACCESS EXCLUSIVE MODE")
            await lane.send(ADMIN)
            await eventually(lambda: blocked() == 1)
            await waiting.send(ADMIN)
            await eventually(lambda: waiting.state.tasks)
            await last.send(ADMIN)
            await eventually(lambda: last.state.tasks)
            waiting.protocol.transport.abort()
            await eventually(lambda: not waiting.state.tasks)
            lane.protocol.transport.abort()
            await eventually(lambda: lane.protocol.lost)
            assert slots.locked()
            assert await asyncio.to_thread(blocked) == 1
            await connection.rollback()
        await until(last, lambda: statuses(last))
        assert statuses(last) == [302]
        await eventually(lambda: not (lane.state.tasks or last.state.tasks or slots.locked()))


def blocked() -> int:
    """Backends that wait for a lock."""
    with psycopg.connect(connection_info(), autocommit=True) as connection:
        waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        return len(connection.execute(waiting).fetchall())
