"""The express lane as HTTP: order, commits that take long, clients that vanish or do not read, shutdown."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import psycopg
import pytest

from flashsale_project.serving.http.express import Pending
from sales.connections import connection_info
from sales.inventory import Inventory
from sales.runtime import Runtime
from tests.support.lanes import NEVER, Express, Lane, commits_held, connected, post, reasons, statuses
from tests.support.waiting import eventually

REFUSED = post("/purchase?code=" + NEVER, "Cookie: " + 500 * "x")


@pytest.fixture
async def lane(worker: Runtime) -> AsyncIterator[Lane]:
    """A connection to the express lane."""
    async with connected(Express, worker) as connection:
        yield connection


async def hold(lane: Lane, item: int) -> str:
    """Check an item out and return its code."""
    await lane.send(post(f"/checkout?user_id=1&item_id={item}"))
    await lane.settle()
    code = lane.codes()[-1].decode()
    lane.got.clear()
    return code


@asynccontextmanager
async def unread(lane: Lane, requests: bytes) -> AsyncIterator[None]:
    """Send requests without reading any answer, until the server has stopped; after it, read them all."""
    protocol = lane.protocol
    async with asyncio.TaskGroup() as group:
        sending = group.create_task(lane.send(requests))
        # Not only paused for a moment: the kernel may yet take what waits to be written.
        await eventually(lambda: protocol.flow.write_paused and protocol.flow.read_paused)
        yield
        while not (sending.done() and lane.is_idle()):
            await lane.read()
            await asyncio.sleep(0)
    await lane.read()


async def test_answers_keep_the_order_of_requests(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    code = await hold(lane, 1)
    async with commits_held(monkeypatch):
        await lane.send(
            post(f"/purchase?code={code}")
            + post("/checkout?user_id=2&item_id=1")
            + b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
            + post("/checkout?user_id=2&item_id=2")
            + post(f"/purchase?code={NEVER}")
        )
        await lane.arrive()
        await lane.read()
        assert not lane.got
    await lane.settle()
    assert statuses(lane) == [200, 409, 200, 200, 409]
    # What came behind the purchase was decided after it.
    assert reasons(lane) == ["item_sold", "unknown_code"]
    assert lane.state.total_requests == 6


async def test_nothing_is_answered_before_its_commit(
    lane: Lane, monkeypatch: pytest.MonkeyPatch, sql: Callable[..., Any]
) -> None:
    async with commits_held(monkeypatch):
        await lane.send(post("/checkout?user_id=1&item_id=1"))
        await lane.arrive()
        assert isinstance(lane.protocol.cycle, Pending)
        await lane.read()
        assert not lane.got
    await lane.settle()
    assert statuses(lane) == [200]


async def test_each_connection_gets_its_own_answer(worker: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    async with connected(Express, worker) as one, connected(Express, worker) as two:
        async with commits_held(monkeypatch):
            for item in range(3):
                await one.send(post(f"/checkout?user_id=1&item_id={item}"))
                await two.send(post(f"/checkout?user_id=2&item_id={10 + item}"))
            await one.arrive()
            await two.arrive()
        await one.settle()
        await two.settle()
        for lane, user, first in (one, 1, 0), (two, 2, 10):
            codes = [UUID(code.decode()) for code in lane.codes()]
            receipts = await worker.storage.receipts(codes)
            assert [receipts[code].item_id for code in codes] == [first, first + 1, first + 2]
            assert {receipt.user_id for receipt in receipts.values()} == {user}


async def test_what_a_vanished_client_asked_for_is_committed(
    worker: Runtime, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(Express, worker) as lane:
        async with commits_held(monkeypatch):
            await lane.send(post("/checkout?user_id=1&item_id=1") + post("/checkout?user_id=1&item_id=2"))
            await lane.arrive()
            lane.client.close()
            await eventually(lambda: lane.protocol.lost or lane.protocol.flow.read_paused)
        inventory = worker.current()
        await eventually(lambda: inventory.held >= 1)
    async with connected(Express, worker) as lane:
        await lane.send(post("/checkout?user_id=2&item_id=1") + post("/checkout?user_id=2&item_id=3"))
        await lane.settle()
        assert reasons(lane) == ["item_held"]
        assert statuses(lane) == [409, 200]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_reader_that_does_not_read_is_not_written_to_for_ever(lane: Lane) -> None:
    await lane.send(REFUSED)
    await lane.settle()
    answer = len(lane.got)
    lane.got.clear()
    async with unread(lane, REFUSED * 1500):
        transport = lane.protocol.transport
        assert transport.get_write_buffer_size() <= transport.get_write_buffer_limits()[1] + answer
    assert len(lane.got) == 1500 * answer
    assert len(statuses(lane)) == 1500


async def test_nothing_is_held_for_whoever_does_not_read(lane: Lane, worker: Runtime) -> None:
    async with unread(lane, REFUSED * 1500 + post("/checkout?user_id=1")):
        assert lane.protocol.cycle is None
    assert worker.current().held == 1
    assert statuses(lane)[-1] == 200


async def test_a_reader_that_never_reads_can_leave(worker: Runtime) -> None:
    async with connected(Express, worker) as lane:
        sending = asyncio.create_task(lane.send(REFUSED * 1500))
        await eventually(lambda: lane.protocol.flow.write_paused)
        sending.cancel()
        lane.client.close()
        await eventually(lambda: lane.protocol.lost)


async def test_shutdown_waits_for_what_is_pending(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    async with commits_held(monkeypatch):
        await lane.send(post("/checkout?user_id=1&item_id=1"))
        await lane.arrive()
        lane.protocol.shutdown()
        assert not lane.protocol.transport.is_closing()
    await eventually(lambda: lane.protocol.lost)
    await lane.read()
    assert statuses(lane) == [200]
    assert lane.got.count(b"connection: close\r\n") == 1


async def test_shutdown_closes_an_idle_connection(lane: Lane) -> None:
    await lane.send(post("/purchase?code=" + NEVER))
    await lane.settle()
    lane.protocol.shutdown()
    await eventually(lambda: lane.protocol.lost)
    assert statuses(lane) == [409]


async def test_a_worker_that_goes_closes_with_its_answers(
    worker: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """See `WorkerServer.shutdown`: from then on every answer says that it is the last one."""
    for target in "/purchase?code=" + NEVER, "/checkout?user_id=1&item_id=1":
        async with connected(Express, worker) as lane:
            lane.state.default_headers = [*lane.state.default_headers, (b"connection", b"close")]
            await lane.send(post(target) * 2)
            await eventually(lambda lane=lane: lane.protocol.lost)
            await lane.read()
            assert len(statuses(lane)) == 1
            assert lane.got.count(b"connection: close\r\n") == 1
    async with connected(Express, worker) as lane:
        async with commits_held(monkeypatch):
            await lane.send(post("/checkout?user_id=1&item_id=2"))
            await lane.arrive()
            lane.state.default_headers = [*lane.state.default_headers, (b"connection", b"close")]
        await eventually(lambda: lane.protocol.lost)
        await lane.read()
        assert statuses(lane) == [200]
        assert lane.got.count(b"connection: close\r\n") == 1


async def test_answers_carry_the_date_of_now(lane: Lane) -> None:
    for date in b"Sat, 21 Nov 2026 00:00:01 GMT", b"Sat, 21 Nov 2026 00:00:02 GMT":
        lane.state.default_headers = [(b"date", date), (b"server", b"uvicorn")]
        lane.got.clear()
        await lane.send(post("/purchase?code=" + NEVER) + post("/checkout?user_id=1"))
        await lane.settle()
        assert lane.got.count(b"date: " + date + b"\r\nserver: uvicorn\r\n") == 2


async def test_a_fault_of_ours_is_an_answer_too(
    lane: Lane, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*arguments: object) -> None:
        raise RuntimeError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(Inventory, "refusal", broken)
        await lane.send(post("/checkout?user_id=1&item_id=1"))
        await lane.settle()
    assert statuses(lane) == [500]
    assert reasons(lane) == ["internal_error"]
    assert "broken" in caplog.text
    await lane.send(post("/checkout?user_id=1&item_id=1"))
    await lane.settle()
    assert statuses(lane) == [500, 200]


async def test_a_batch_that_fails_is_an_answer_too(lane: Lane, sql: Callable[..., Any]) -> None:
    async with await psycopg.AsyncConnection.connect(connection_info(), autocommit=True) as connection:
        await connection.execute("ALTER TABLE sales_checkout RENAME TO elsewhere")
        try:
            await lane.send(post("/checkout?user_id=1&item_id=1"))
            await lane.settle()
        finally:
            await connection.execute("ALTER TABLE elsewhere RENAME TO sales_checkout")
    assert statuses(lane) == [503]
    assert reasons(lane) == ["database_unavailable"]
    assert b"\r\nretry-after: " in lane.got
