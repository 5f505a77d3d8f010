"""The certificates that workers write when sales are over: each once, whoever races, and never in the way."""

import asyncio
import json
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from django.core.serializers.json import DjangoJSONEncoder
from django.db import connection

from sales import __version__, metrics, services
from sales.certificate import certify, issue, issue_all
from sales.conf import SaleOptions
from sales.connections import connection_info
from sales.models import Sale, SaleCertificate
from sales.runtime import Runtime
from sales.statements import INVARIANTS
from tests.conftest import DEADLINE, eventually
from tests.support.lanes import LANES, Express, Stock, connected

# Only the tables of sales are emptied after each test.
pytestmark = pytest.mark.django_db(transaction=True, available_apps=["sales"])

Sql = Callable[..., list[tuple[Any, ...]]]
MakeSale = Callable[..., Sale]
OpenWorker = Callable[[], Awaitable[Runtime]]
Kind = type[Express] | type[Stock]

BROKEN = "each user's allowance is what they hold and have bought"


@pytest.fixture
def over(make_sale: MakeSale, sql: Sql) -> Sale:
    """A sale of ten items that was over yesterday: two are sold, a hold of user 9 was never swept."""
    sale = make_sale(items=10)
    asyncio.run(_sell())
    sql(
        """WITH item AS (
               UPDATE sales_saleitem SET held_until = held_until - interval '1 day',
                                         purchased_at = purchased_at - interval '1 day'),
           checkout AS (
               UPDATE sales_checkout SET created_at = created_at - interval '1 day',
                                         expires_at = expires_at - interval '1 day',
                                         purchased_at = purchased_at - interval '1 day')
           UPDATE sales_sale SET starts_at = starts_at - interval '1 day',
                                 ends_at = ends_at - interval '1 day'"""
    )
    sale.refresh_from_db()
    return sale


async def _sell() -> None:
    options = SaleOptions(items=10, user_limit=10, checkout_ttl=60, period=3600)
    async with Runtime(connection_info(), options) as worker:
        codes = [await services.checkout(worker, user_id=user, item_id=user) for user in (7, 8, 9)]
        for code in codes[:2]:
            await services.purchase(worker, code=code)


@pytest.fixture(autouse=True)
def nobodys_turn(sql: Sql) -> None:
    """The server takes a moment to notice that those of the last test are gone."""
    lock = """SELECT 1 FROM pg_locks WHERE locktype = 'advisory'
              AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""
    end = time.monotonic() + DEADLINE
    while sql(lock):
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def busy(open_worker: OpenWorker, monkeypatch: pytest.MonkeyPatch) -> OpenWorker:
    """`open_worker`, but they keep house all the time."""
    monkeypatch.setattr("sales.limits.TICK", 0.05)
    monkeypatch.setattr("sales.certifier.INTERVAL", 0.05)
    return open_worker


def damage(sql: Sql, sale: Sale) -> None:
    """Give a user an allowance without an item."""
    sql(
        "INSERT INTO sales_allowance (sale_id, user_id, taken, user_limit) VALUES (%s, 99, 1, 10)",
        sale.pk,
    )


def written(sql: Sql) -> list[tuple[Any, ...]]:
    """All certificates, with their transactions: one that was only written anew differs too."""
    return sql("SELECT xmin::text, sale_id, holds FROM sales_salecertificate ORDER BY sale_id")


def at_once(calls: list[Callable[[], Any]]) -> list[Any]:
    """What each call returned, all begun at the same time, each on its own connection."""
    together = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        try:
            connection.ensure_connection()
            together.wait(DEADLINE)
            return call()
        finally:
            connection.close()

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(run, calls))


@contextmanager
def elsewhere(statement: str, *parameters: Any) -> Iterator[psycopg.Connection[Any]]:
    """A transaction of somebody else, that has run this statement and goes on meanwhile."""
    with psycopg.connect(connection_info()) as somebody:
        somebody.execute(statement, parameters or None)
        yield somebody
        somebody.rollback()


async def until(check: Callable[[], bool]) -> None:
    """Wait until a check is true that asks the database."""
    async with asyncio.timeout(DEADLINE):
        while not await asyncio.to_thread(check):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def until_written(sql: Sql, *sales: Sale) -> None:
    """Wait until just these sales have a certificate."""
    wanted = sorted(sale.pk for sale in sales)
    await until(lambda: [row[1] for row in written(sql)] == wanted)


# --- one certificate


def test_what_is_written_is_what_was_proven(over: Sale, sql: Sql) -> None:
    stored = issue(over)
    assert stored is not None
    (certificate,) = SaleCertificate.objects.all()
    assert certificate == stored
    assert (certificate.sale_id, certificate.holds, certificate.version) == (over.pk, True, __version__)
    proven = json.loads(json.dumps(certify(over).document, cls=DjangoJSONEncoder))
    assert certificate.document | {"issued_at": None} == proven | {"issued_at": None}
    assert certificate.document == {
        "sale": {
            "id": over.pk,
            "starts_at": _iso(over.starts_at),
            "ends_at": _iso(over.ends_at),
            "user_limit": 10,
            "checkout_ttl_seconds": 60,
        },
        "holds": True,
        "items": 10,
        "sold": 2,
        "held": 0,
        "available": 8,
        "users": 2,
        "issued_at": _iso(certificate.issued_at),
        "version": __version__,
        "invariants": [
            {"invariant": invariant, "holds": True, "broken": 0, "examples": []} for invariant in INVARIANTS
        ],
    }
    assert sql("SELECT count(*) FROM sales_saleitem WHERE state = 'held'") == [(0,)]


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def test_it_is_written_once_and_never_again(over: Sale, sql: Sql) -> None:
    first = issue(over)
    before = written(sql)
    damage(sql, over)
    again = issue(over)
    assert first is not None
    assert again is not None
    assert (again.issued_at, again.holds) == (first.issued_at, True)
    assert written(sql) == before


def test_it_waits_for_a_hold_that_lasts_on(over: Sale, sql: Sql) -> None:
    sql(
        """WITH item AS (
               UPDATE sales_saleitem SET held_until = now() + interval '1 hour' WHERE state = 'held')
           UPDATE sales_checkout SET expires_at = now() + interval '1 hour' WHERE state = 'held'"""
    )
    assert issue(over) is None
    assert written(sql) == []


def test_it_waits_for_a_purchase_that_is_under_way(over: Sale, sql: Sql) -> None:
    with elsewhere("SELECT FROM sales_saleitem WHERE state = 'held' FOR UPDATE"):
        assert issue(over) is None
        assert written(sql) == []
    assert issue(over) is not None
    assert [row[1:] for row in written(sql)] == [(over.pk, True)]


def test_a_broken_sale_is_certified_as_such_and_told_loudly(
    over: Sale, sql: Sql, caplog: pytest.LogCaptureFixture
) -> None:
    damage(sql, over)
    certificate = issue(over)
    assert certificate is not None
    assert not certificate.holds
    assert not certificate.document["holds"]
    (broken,) = (finding for finding in certificate.document["invariants"] if not finding["holds"])
    assert broken == {
        "invariant": BROKEN,
        "holds": False,
        "broken": 1,
        "examples": ["user 99: allowance 1, items 0"],
    }
    (record,) = (record for record in caplog.records if record.name == "sales.certificate")
    assert record.levelno == logging.ERROR
    assert record.getMessage() == (
        f"{over} BREAKS ITS INVARIANTS; its certificate says: "
        f"✗ {BROKEN} (1 broken): user 99: allowance 1, items 0"
    )
    assert f'flashsale_broken_certificates_total{{sale="{over.pk}"}} 1.0' in metrics.exposition().decode()


def test_rows_that_cannot_be_swept_do_not_keep_it_from_being_written(over: Sale, sql: Sql) -> None:
    sql("UPDATE sales_allowance SET taken = 0 WHERE user_id = 9")
    certificate = issue(over)
    assert certificate is not None
    assert not certificate.holds
    assert sql("SELECT count(*) FROM sales_saleitem WHERE state = 'held'") == [(1,)]


# --- many at once


@pytest.mark.parametrize("attempt", range(3))
def test_of_many_who_write_it_at_once_one_does(over: Sale, sql: Sql, attempt: int) -> None:
    certificates = at_once([lambda: issue(over)] * 8)
    # To the others the hold looked as if it were being bought, while the first one swept it.
    assert len({certificate.issued_at for certificate in certificates if certificate}) == 1
    assert [row[1:] for row in written(sql)] == [(over.pk, True)]


def test_of_many_processes_one_at_a_time_looks(
    over: Sale, sql: Sql, caplog: pytest.LogCaptureFixture
) -> None:
    damage(sql, over)
    at_once([lambda: issue_all([over.pk], lambda: True)] * 8)
    assert [row[1:] for row in written(sql)] == [(over.pk, False)]
    assert len([record for record in caplog.records if record.name == "sales.certificate"]) == 1


def test_while_another_process_writes_nothing_is_done(over: Sale, sql: Sql) -> None:
    with elsewhere("SELECT pg_advisory_lock(hashtext('flashsale certificate'))"):
        at_once([lambda: issue_all([over.pk], lambda: True)])
        assert written(sql) == []


def test_who_is_stopped_begins_no_other(make_sale: MakeSale, sql: Sql) -> None:
    sales = [make_sale(started=days * 86_400, lasts=3600) for days in (3, 2, 1)]
    go_on = iter([True, False])
    at_once([lambda: issue_all([sale.pk for sale in sales], lambda: next(go_on))])
    assert [row[1] for row in written(sql)] == [sales[-1].pk]  # the newest first: it is the one asked for


# --- workers


@pytest.mark.parametrize(("seconds", "due"), [(0, False), (55, False), (63, False), (67, True), (9999, True)])
async def test_a_sale_is_over_when_no_hold_can_be_left(
    worker: Runtime, sale: Sale, sql: Sql, seconds: int, due: bool
) -> None:
    """That is a minute for the holds and five seconds more; two are left to this machine."""
    await asyncio.to_thread(
        sql,
        """UPDATE sales_sale SET starts_at = starts_at - interval '1 day',
                                 ends_at = now() - make_interval(secs => %s)""",
        seconds,
    )
    assert await worker.storage.uncertified() == ([sale.pk] if due else [])


async def test_a_worker_certifies_what_was_over_while_none_ran(
    over: Sale, make_sale: MakeSale, busy: OpenWorker, sql: Sql
) -> None:
    older = await asyncio.to_thread(make_sale, started=10 * 86_400, lasts=3600)
    running = await asyncio.to_thread(make_sale)
    worker = await busy()
    await until_written(sql, over, older)
    assert worker.current().sale.id == running.pk
    assert await worker.storage.uncertified() == []


async def test_many_workers_write_each_certificate_once(
    over: Sale, make_sale: MakeSale, busy: OpenWorker, sql: Sql
) -> None:
    older = [await asyncio.to_thread(make_sale, started=n * 86_400, lasts=60, items=5) for n in range(3, 8)]
    await asyncio.gather(*(busy() for _ in range(6)))
    await until_written(sql, over, *older)


async def test_a_worker_certifies_a_sale_that_ends_under_it(
    make_sale: MakeSale, busy: OpenWorker, sql: Sql
) -> None:
    sale = await asyncio.to_thread(make_sale)
    worker = await busy()
    code = await services.checkout(worker, user_id=7)
    await services.purchase(worker, code=code)
    assert await asyncio.to_thread(written, sql) == []
    await asyncio.to_thread(
        sql,
        """UPDATE sales_sale SET starts_at = starts_at - interval '1 hour', checkout_ttl = 1,
                                 ends_at = now() - interval '10 seconds'""",
    )
    await until_written(sql, sale)
    assert sale.pk not in worker.memory.inventories
    document = await services.certificate(worker, sale_id=sale.pk)
    assert (document["holds"], document["sold"], document["available"]) == (True, 1, 99)


async def test_a_certificate_that_cannot_be_written_is_in_nobodys_way(
    over: Sale,
    sale: Sale,
    options: SaleOptions,
    busy: OpenWorker,
    sql: Sql,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its table takes no rows: the worker sells, keeps house and stops, and the next one writes it."""
    stuck = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'sales_salecertificate'::regclass"
    with elsewhere("LOCK TABLE sales_salecertificate IN SHARE MODE"):
        async with Runtime(connection_info(), options) as worker:
            await until(lambda: bool(sql(stuck)))
            await services.purchase(worker, code=await services.checkout(worker, user_id=7))
            await worker.housekeeping.do_round()
            assert worker.ready
    await busy()
    await until_written(sql, over)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_failure_is_logged_and_tried_again(
    over: Sale,
    sale: Sale,
    busy: OpenWorker,
    sql: Sql,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await asyncio.to_thread(sql, "ALTER TABLE sales_salecertificate ADD CONSTRAINT no_room CHECK (false)")
    try:
        worker = await busy()
        await eventually(lambda: "no certificate was written" in caplog.text)
        assert "no_room" in caplog.text
        assert worker.ready
        await services.checkout(worker, user_id=7)
    finally:
        await asyncio.to_thread(sql, "ALTER TABLE sales_salecertificate DROP CONSTRAINT no_room")
    await until_written(sql, over)


# --- the call


async def ask(
    kind: type[Express] | type[Stock], worker: Runtime, request: str
) -> tuple[int, dict[str, str], bytes]:
    """The answer to one request on a lane."""
    async with connected(kind, worker) as lane:
        await lane.send(f"{request} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        await lane.settle()
        head, _, body = bytes(lane.got).partition(b"\r\n\r\n")
    status, *headers = head.decode().split("\r\n")
    return int(status.split()[1]), dict(line.lower().split(": ", 1) for line in headers), body


@pytest.mark.parametrize("kind", LANES)
@pytest.mark.parametrize("broken", [False, True])
async def test_the_public_is_told_what_is_stored_but_for_the_rows(
    over: Sale, sale: Sale, busy: OpenWorker, sql: Sql, kind: Kind, broken: bool
) -> None:
    if broken:
        await asyncio.to_thread(damage, sql, over)
    worker = await busy()
    await until_written(sql, over)
    status, headers, body = await ask(kind, worker, f"GET /sales/{over.pk}/certificate?x=1")
    assert (status, headers["content-type"]) == (200, "application/json")
    ((document,),) = await asyncio.to_thread(sql, "SELECT document::text FROM sales_salecertificate")
    stored = json.loads(document)
    assert stored["holds"] is not broken
    for invariant in stored["invariants"]:
        assert bool(invariant.pop("examples")) is not invariant["holds"]
    assert json.loads(body) == stored
    # Nothing is proven again for who asks.
    if not broken:
        await asyncio.to_thread(damage, sql, over)
    assert (await ask(kind, worker, f"GET /sales/{over.pk}/certificate"))[2] == body
    head = await ask(kind, worker, f"HEAD /sales/{over.pk}/certificate")
    assert (head[0], head[1]["content-length"], head[2]) == (200, str(len(body)), b"")


@pytest.mark.parametrize("kind", LANES)
async def test_until_then_it_says_when(worker: Runtime, sale: Sale, kind: Kind) -> None:
    status, headers, body = await ask(kind, worker, f"GET /sales/{sale.pk}/certificate")
    assert (status, headers["content-type"]) == (404, "application/problem+json")
    moment = (sale.ends_at.astimezone(UTC) + timedelta(seconds=65)).replace(microsecond=0)
    assert json.loads(body) == {
        "title": "no certificate",
        "status": 404,
        "detail": f"The certificate of sale {sale.pk} is written when nothing of it can change any more: "
        f"within seconds after {moment:%Y-%m-%d %H:%M:%S} UTC.",
        "reason": "no_certificate",
    }


async def test_those_who_ask_do_not_keep_the_sale_from_its_database(worker: Runtime, sale: Sale) -> None:
    """However many ask, and for however many sales, there is a connection for a hold."""
    await eventually(lambda: worker.housekeeping._certifier._task is None)
    with elsewhere("LOCK TABLE sales_salecertificate IN ACCESS EXCLUSIVE MODE"):
        asking = [
            asyncio.create_task(services.certificate(worker, sale_id=sale.pk + n % 30)) for n in range(90)
        ]
        await services.purchase(worker, code=await services.checkout(worker, user_id=7))
        for task in asking:
            task.cancel()
    await asyncio.wait(asking)


@pytest.mark.parametrize("number", ["0", "999999", str(2**63 - 1)])
async def test_an_unknown_sale_has_none(worker: Runtime, number: str) -> None:
    certificate = await ask(Stock, worker, f"GET /sales/{number}/certificate")
    assert certificate == await ask(Stock, worker, f"GET /sales/{number}")
    assert (certificate[0], json.loads(certificate[2])["reason"]) == (409, "no_sale")


@pytest.mark.parametrize("number", ["abc", "-1", "1.5", "%D9%A3", str(2**63), "9" * 40, "%00", "1e3", "%20"])
async def test_a_sale_that_is_no_number_is_refused(worker: Runtime, number: str) -> None:
    certificate = await ask(Stock, worker, f"GET /sales/{number}/certificate")
    assert certificate == await ask(Stock, worker, f"GET /sales/{number}")
    assert (certificate[0], json.loads(certificate[2])["reason"]) == (400, "invalid_parameter")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_it_can_only_be_read(worker: Runtime, sale: Sale, method: str) -> None:
    status, headers, body = await ask(Stock, worker, f"{method} /sales/{sale.pk}/certificate")
    assert (status, headers["allow"]) == (405, "get, head")
    assert json.loads(body)["reason"] == "method_not_allowed"


@pytest.mark.parametrize("path", ["/sales//certificate", "/sales/1/certificate/", "/sales/1/2/certificate"])
async def test_other_paths_are_not_there(worker: Runtime, path: str) -> None:
    assert (await ask(Stock, worker, f"GET {path}"))[0] == 404
