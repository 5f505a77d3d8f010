"""The database goes away: before a batch, in the middle of it, and between its commit and the answer."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.conf import settings
from django.db import OperationalError, connection

from sales import services
from sales.conf import SaleOptions
from sales.connections import connection_info
from sales.inventory import HELD, ItemRow
from sales.models import Sale
from sales.refusals import (
    ALREADY_PURCHASED,
    DATABASE_UNAVAILABLE,
    ITEM_HELD,
    OUTCOME_UNKNOWN,
    UNKNOWN_CODE,
    Refusal,
)
from sales.runtime import Runtime
from tests.support.refusals import refuses
from tests.support.waiting import DEADLINE, eventually, until_it_works

Sql = Callable[..., list[tuple[Any, ...]]]


class Proxy:
    """Stands between a worker and its database, and cuts connections where it is told to.

    ``cut``: "answer" passes the next request on and cuts the connection instead of its answer;
    "request" cuts it instead of the request; "all" lets nobody in; "silence" swallows what is sent, like
    a server that is stopped or a network that lost it; "late" keeps the next request back until `deliver`,
    when its connection is long gone. ``spare`` requests or answers pass before the cut.
    """

    def __init__(self, host: str, port: int) -> None:
        self._database = (host, port)
        self._links: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.cut: str | None = None
        self.spare = 0
        self.swallowed = 0
        self.port = 0
        self._then: str | None = None
        self._kept: tuple[asyncio.StreamWriter, bytes] | None = None

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
        self.close_all()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def close_all(self) -> None:
        for writer in list(self._links):
            writer.transport.abort()

    def lock_out_after(self, direction: str) -> None:
        """Cut the next connection in this direction, and let nobody in from then on."""
        self.cut, self._then = direction, "all"

    async def deliver(self) -> None:
        """Send the request that was kept back, to a server that has ended its session."""
        assert self._kept is not None
        sink, data = self._kept
        await eventually(sink.is_closing)
        sink.write(data)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.cut == "all":
            writer.transport.abort()
            return
        theirs = await asyncio.open_connection(*self._database)
        self._links |= {writer, theirs[1]}
        for direction, source, sink in (("request", reader, theirs[1]), ("answer", theirs[0], writer)):
            task = asyncio.create_task(self._pump(direction, source, sink, (writer, theirs[1])))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(
        self,
        direction: str,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        both: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
    ) -> None:
        try:
            while data := await source.read(65536):
                if self.cut == "silence":
                    self.swallowed += 1
                    continue
                if self.cut == "late" and direction == "request":
                    self.cut = None
                    self._kept = sink, data
                    both[0].transport.abort()
                    return
                if self.cut == direction:
                    if not self.spare:
                        self.cut = self._then
                        break
                    self.spare -= 1
                sink.write(data)
        except OSError:
            pass
        for writer in both:
            writer.transport.abort()
            self._links.discard(writer)


@pytest.fixture
async def proxy(transactional_db: None) -> AsyncIterator[Proxy]:
    info = psycopg.conninfo.conninfo_to_dict(connection_info())
    async with Proxy(str(info["host"]), int(info["port"] or 5432)) as proxy:
        yield proxy


@pytest.fixture
async def worker(
    sale: Sale, proxy: Proxy, options: SaleOptions, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Runtime]:
    """A worker that reaches its database through the proxy only."""
    monkeypatch.setattr("sales.limits.TICK", 3600)
    monkeypatch.setattr("sales.limits.CONNECT_TIMEOUT", 1.0)
    conninfo = psycopg.conninfo.make_conninfo(connection_info(), host="127.0.0.1", port=proxy.port)
    async with Runtime(conninfo, options) as runtime:
        # Its first look for certificates goes on beside us, and would take a cut that is meant for others.
        await eventually(lambda: runtime.housekeeping._certifier._task is None)
        yield runtime


@pytest.fixture
def stored(sql: Sql) -> Callable[[], Awaitable[list[tuple[Any, ...]]]]:
    """What the database has, asked past the proxy."""

    async def ask() -> list[tuple[Any, ...]]:
        return await asyncio.to_thread(sql, "SELECT code, state FROM sales_checkout")

    return ask


@pytest.fixture
def crash(sql: Sql, transactional_db: None) -> Iterator[Callable[[], None]]:
    """Kill a process of the server, which then ends all others, recovers and goes on, without a restart."""
    if "EMBEDDED_DATA_DIR" not in settings.DATABASES["default"]:
        pytest.skip("needs a server whose processes may be killed")

    def kill() -> None:
        with psycopg.connect(connection_info(), autocommit=True) as victim:
            os.kill(victim.info.backend_pid, signal.SIGKILL)
            with contextlib.suppress(psycopg.OperationalError):
                victim.execute("SELECT pg_sleep(60)")
        end = time.monotonic() + DEADLINE
        while True:
            try:
                sql("SELECT 1")
                return
            except OperationalError:
                assert time.monotonic() < end
                time.sleep(0.05)

    yield kill
    connection.close()  # that of this thread did not survive it either


async def counts(worker: Runtime) -> tuple[int, int, int]:
    status = await services.status(worker)
    return status.sold, status.held, status.available


async def connected(worker: Runtime) -> None:
    """Wait until no connection is being made: the next request is that of the test."""
    pool = worker.storage._connections._pool

    def is_calm() -> bool:
        stats = pool.get_stats()
        return stats.get("pool_available", 0) == stats["pool_size"] >= stats["pool_min"]

    await eventually(is_calm)


async def test_a_checkout_whose_answer_was_cut_off_is_found_committed(
    worker: Runtime, proxy: Proxy, stored: Any
) -> None:
    proxy.cut = "answer"
    code = await services.checkout(worker, user_id=1, item_id=5)
    assert await stored() == [(code, "held")]
    assert await counts(worker) == (0, 1, 99)
    await services.purchase(worker, code=code)


async def test_a_purchase_whose_answer_was_cut_off_is_found_committed(
    worker: Runtime, proxy: Proxy, stored: Any
) -> None:
    code = await services.checkout(worker, user_id=1, item_id=5)
    proxy.cut = "answer"
    await services.purchase(worker, code=code)
    assert await stored() == [(code, "purchased")]
    assert await counts(worker) == (1, 0, 99)
    with refuses(ALREADY_PURCHASED):
        await services.purchase(worker, code=code)


async def test_a_lost_look_at_receipts_takes_no_purchase_back(
    worker: Runtime, proxy: Proxy, stored: Any
) -> None:
    """The batch is committed; why one code of it was refused can no longer be asked."""
    old = await services.checkout(worker, user_id=1, item_id=5)
    await services.purchase(worker, code=old)
    new = await services.checkout(worker, user_id=1, item_id=6)
    proxy.lock_out_after("request")
    proxy.spare = 1
    calls = (services.purchase(worker, code=code) for code in (old, new))
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert [getattr(end, "reason", None) for end in ends] == [DATABASE_UNAVAILABLE, None]
    assert sorted(await stored()) == sorted([(old, "purchased"), (new, "purchased")])


async def test_a_whole_batch_whose_answer_was_cut_off_gets_each_its_own(
    worker: Runtime, proxy: Proxy, stored: Any
) -> None:
    proxy.cut = "answer"
    codes = await asyncio.gather(*(services.checkout(worker, user_id=n, item_id=n) for n in range(20)))
    assert sorted(await stored()) == sorted((code, "held") for code in codes)


async def test_a_checkout_that_never_arrived_is_sent_again(
    worker: Runtime, proxy: Proxy, stored: Any
) -> None:
    proxy.cut = "request"
    code = await services.checkout(worker, user_id=1, item_id=5)
    assert await stored() == [(code, "held")]
    assert await counts(worker) == (0, 1, 99)


async def test_a_purchase_that_never_arrived_is_sent_again(
    worker: Runtime, proxy: Proxy, stored: Any
) -> None:
    code = await services.checkout(worker, user_id=1, item_id=5)
    proxy.cut = "request"
    await services.purchase(worker, code=code)
    assert await stored() == [(code, "purchased")]
    with refuses(ALREADY_PURCHASED):
        await services.purchase(worker, code=code)


@pytest.mark.parametrize("cut", ["request", "answer"])
async def test_a_repeated_purchase_that_was_cut_off_is_not_answered_as_the_first(
    worker: Runtime, proxy: Proxy, stored: Any, cut: str
) -> None:
    """Whoever ships by the answer would ship twice."""
    code = await services.checkout(worker, user_id=1, item_id=5)
    await services.purchase(worker, code=code)
    proxy.cut = cut
    with refuses(ALREADY_PURCHASED):
        await services.purchase(worker, code=code)


async def test_a_release_that_never_arrived_is_sent_again(worker: Runtime, proxy: Proxy, stored: Any) -> None:
    code = await services.checkout(worker, user_id=1, item_id=5)
    for cut in "request", "answer":
        proxy.cut = cut
        await services.release(worker, code=code)
        assert await stored() == [(code, "released")]
    assert await counts(worker) == (0, 0, 100)


async def test_what_arrives_late_changes_nothing_more(
    worker: Runtime, proxy: Proxy, stored: Any, sql: Sql
) -> None:
    """The worker has given the connection up and done it again: nothing can come of the first statement."""
    proxy.cut = "late"
    code = await services.checkout(worker, user_id=1, item_id=5)
    await services.release(worker, code=code)
    await proxy.deliver()
    assert await stored() == [(code, "released")]
    assert await counts(worker) == (0, 0, 100)

    code = await services.checkout(worker, user_id=1, item_id=5)
    proxy.cut = "late"
    await services.purchase(worker, code=code)
    await proxy.deliver()
    assert (code, "purchased") in await stored()
    assert await counts(worker) == (1, 0, 99)
    assert await asyncio.to_thread(sql, "SELECT sum(taken) FROM sales_allowance") == [(1,)]


@pytest.mark.parametrize("committed", [True, False], ids=["committed", "not committed"])
async def test_an_outcome_that_cannot_be_asked_is_called_unknown(
    worker: Runtime, proxy: Proxy, stored: Any, committed: bool
) -> None:
    bought = await services.checkout(worker, user_id=1, item_id=5)
    given_back = await services.checkout(worker, user_id=1, item_id=6)
    calls = {
        "held": lambda: services.checkout(worker, user_id=1, item_id=7),
        "purchased": lambda: services.purchase(worker, code=bought),
        "released": lambda: services.release(worker, code=given_back),
    }
    for state, call in calls.items():
        await until_it_works(lambda: worker.storage.receipts([bought]))
        await connected(worker)
        proxy.lock_out_after("answer" if committed else "request")
        with refuses(OUTCOME_UNKNOWN) as unknown:
            await call()
        proxy.cut = None
        code = UUID(unknown.value.reason.members["code"])
        assert (unknown.value.reason.status, unknown.value.reason.name) == (503, "outcome_unknown")
        assert ((code, state) in await stored()) == committed
        if committed:
            receipt = await until_it_works(lambda code=code: services.receipt(worker, code=code))
            assert receipt.state == state
    assert await counts(worker) == ((1, 1, 98) if committed else (0, 2, 98))


async def test_a_database_that_is_away_refuses_and_comes_back_without_a_restart(
    worker: Runtime, proxy: Proxy, stored: Any
) -> None:
    held = await services.checkout(worker, user_id=1, item_id=5)
    proxy.cut = "all"
    proxy.close_all()
    for call in (
        lambda: services.checkout(worker, user_id=2, item_id=6),
        lambda: services.purchase(worker, code=held),
        lambda: services.release(worker, code=held),
        lambda: services.receipt(worker, code=held),
    ):
        with refuses(DATABASE_UNAVAILABLE):
            await call()
    await worker.housekeeping.do_round()
    assert not worker.ready
    with refuses(ITEM_HELD):  # memory still refuses what it knows
        await services.checkout(worker, user_id=2, item_id=5)
    assert await counts(worker) == (0, 1, 99)
    assert await stored() == [(held, "held")]

    proxy.cut = None
    await until_it_works(lambda: services.purchase(worker, code=held))
    await until_it_works(lambda: services.checkout(worker, user_id=2, item_id=6))
    await worker.housekeeping.do_round()
    assert worker.ready


async def test_a_database_that_falls_silent_is_given_up_and_found_again(
    worker: Runtime, proxy: Proxy, stored: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sales.limits.STATEMENT_TIMEOUT", 0.2)
    held = await services.checkout(worker, user_id=1, item_id=5)
    proxy.cut = "silence"
    for call in (
        services.checkout(worker, user_id=2, item_id=6),
        services.purchase(worker, code=held),
    ):
        with refuses(OUTCOME_UNKNOWN):
            await call
    proxy.cut = None
    proxy.close_all()  # what was swallowed is gone
    await until_it_works(lambda: services.purchase(worker, code=held))
    code = await until_it_works(lambda: services.checkout(worker, user_id=2, item_id=6))
    assert sorted(await stored()) == sorted([(held, "purchased"), (code, "held")])


async def test_a_server_that_ends_all_sessions_is_survived(worker: Runtime, sql: Sql, stored: Any) -> None:
    await services.checkout(worker, user_id=1, item_id=5)
    await asyncio.to_thread(
        sql,
        """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
           WHERE datname = current_database() AND application_name = 'flashsale worker'""",
    )
    code = await until_it_works(lambda: services.checkout(worker, user_id=2, item_id=6))
    assert (code, "held") in await stored()


async def test_a_read_whose_idle_connection_broke_is_asked_again(
    worker: Runtime, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    """The server was restarted, and is there again: nobody needs to hear of it."""
    held = await services.checkout(worker, user_id=1, item_id=5, key="again")
    looks: list[Callable[[], Awaitable[Any]]] = [
        lambda: services.receipt(worker, code=held),
        lambda: services.checkout(worker, user_id=1, item_id=5, key="again"),
        lambda: worker.counts(worker.current().sale.id),
        lambda: worker.certificate(worker.current().sale.id),
        lambda: worker.storage.load(worker.current().sale.id),
        lambda: worker.storage.try_sweep(worker.current().sale.id),
        lambda: worker.storage.sweep_all(),
        lambda: worker.storage.uncertified(),
        lambda: worker.housekeeping.do_round(),
    ]
    for look in looks:
        await connected(worker)
        proxy.close_all()
        await look()
    assert worker.ready
    assert caplog.text == ""


async def test_a_silent_database_is_not_asked_again(
    worker: Runtime, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    await connected(worker)
    monkeypatch.setattr("sales.limits.STATEMENT_TIMEOUT", 0.2)
    proxy.cut = "silence"
    with refuses(DATABASE_UNAVAILABLE):
        await worker.storage.uncertified()
    assert proxy.swallowed == 1


async def test_the_stall_of_an_event_loop_is_no_silence_of_the_database(
    sale: Sale, options: SaleOptions, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whenever it comes to anything, its time is long over, and the answer of the database long there."""
    monkeypatch.setattr("sales.limits.CONNECT_TIMEOUT", 0.02)
    monkeypatch.setattr("sales.limits.STATEMENT_TIMEOUT", 0.02)
    monkeypatch.setattr("sales.limits.TICK", 3600)
    loop = asyncio.get_running_loop()
    over = False

    def hold_up() -> None:
        time.sleep(0.04)
        if not over:
            loop.call_soon(hold_up)

    loop.call_soon(hold_up)
    try:
        async with Runtime(connection_info(), options) as worker:
            assert worker.ready
            code = await services.checkout(worker, user_id=1, item_id=5)
            await services.purchase(worker, code=code)
            assert (await services.receipt(worker, code=code)).state == "purchased"
    finally:
        over = True
    assert caplog.text == ""


async def test_a_server_that_was_started_again_is_known_anew(
    worker: Runtime, sql: Sql, stored: Any, crash: Callable[[], None]
) -> None:
    """It may have become another one, that lacks the last commits of the one before."""
    lost = await services.checkout(worker, user_id=1, item_id=5)
    kept = await services.checkout(worker, user_id=1, item_id=6)
    await services.purchase(worker, code=kept)
    inventory = worker.current()
    await asyncio.to_thread(crash)
    for statement in (
        """UPDATE sales_saleitem SET state = 'available', user_id = NULL, code = NULL, held_until = NULL,
                  version = version - 1 WHERE item_id = 5""",
        "DELETE FROM sales_checkout WHERE item_id = 5",
        "UPDATE sales_allowance SET taken = taken - 1",
    ):
        await asyncio.to_thread(sql, statement)
    await worker.housekeeping.do_round()
    assert worker.ready
    assert await counts(worker) == (1, 0, 99)
    assert worker.current() is not inventory
    code = await services.checkout(worker, user_id=2, item_id=5)
    assert sorted(await stored()) == sorted([(kept, "purchased"), (code, "held")])
    with refuses(UNKNOWN_CODE):
        await services.receipt(worker, code=lost)


async def test_a_look_finds_out_that_the_server_was_started_again(
    worker: Runtime, sql: Sql, crash: Callable[[], None]
) -> None:
    """Those who ask for the counts do not wait for the next round of housekeeping."""
    await services.checkout(worker, user_id=1, item_id=5)
    await asyncio.to_thread(crash)
    await asyncio.to_thread(
        sql,
        """UPDATE sales_saleitem SET state = 'available', user_id = NULL, code = NULL, held_until = NULL,
                  version = version - 1 WHERE item_id = 5""",
    )
    assert await counts(worker) == (0, 0, 100)


async def test_nothing_is_learnt_of_a_server_that_a_sale_was_not_loaded_from(worker: Runtime) -> None:
    sale_id = worker.current().sale.id
    server = worker.memory._marks[sale_id].server
    row = ItemRow(5, 1, HELD, 1, worker.memory.clock.now() + 60)
    worker.memory.learn(server + 1, [(sale_id, row)])
    assert worker.current().held == 0
    worker.memory.learn(server, [(sale_id, row)])
    assert worker.current().held == 1


async def test_a_worker_that_starts_without_a_database_serves_once_it_is_there(
    sale: Sale, proxy: Proxy, options: SaleOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sales.limits.TICK", 0.05)
    monkeypatch.setattr("sales.limits.CONNECT_TIMEOUT", 0.5)
    conninfo = psycopg.conninfo.make_conninfo(connection_info(), host="127.0.0.1", port=proxy.port)
    proxy.cut = "all"
    async with Runtime(conninfo, options) as worker:
        assert not worker.ready
        with refuses(DATABASE_UNAVAILABLE):
            await services.checkout(worker, user_id=1)
        proxy.cut = None
        async with asyncio.timeout(20):
            while not worker.ready:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await services.checkout(worker, user_id=1)


async def test_a_constraint_that_refuses_a_batch_fails_it_and_the_next_works(
    worker: Runtime, sql: Sql, stored: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug, or an operator at work in the tables: no caller is told anything but the truth."""
    await asyncio.to_thread(
        sql, "ALTER TABLE sales_saleitem ADD CONSTRAINT trouble CHECK (user_id IS DISTINCT FROM 13)"
    )
    try:
        calls = (services.checkout(worker, user_id=n, item_id=n) for n in (12, 13, 14))
        ends = await asyncio.gather(*calls, return_exceptions=True)
        assert {end.reason for end in ends if isinstance(end, Refusal)} == {DATABASE_UNAVAILABLE}
        assert await stored() == []
        assert await counts(worker) == (0, 0, 100)
        assert "trouble" in caplog.text
        await services.checkout(worker, user_id=12, item_id=12)
    finally:
        await asyncio.to_thread(sql, "ALTER TABLE sales_saleitem DROP CONSTRAINT trouble")
