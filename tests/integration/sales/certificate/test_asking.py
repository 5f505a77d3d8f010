"""What the public is told of a certificate, on either lane."""

import asyncio
import json
from datetime import UTC, timedelta

import pytest

from sales import services
from sales.models import Sale
from sales.runtime import Runtime
from tests.integration.sales.certificate.written import damage, elsewhere, until_written
from tests.support.database import Sql
from tests.support.lanes import LANES, Express, Stock, connected
from tests.support.shopping import OpenWorker
from tests.support.waiting import eventually

# Only the tables of sales are emptied after each test.
pytestmark = [
    pytest.mark.django_db(transaction=True, available_apps=["sales"]),
    pytest.mark.usefixtures("nobodys_turn"),
]

Kind = type[Express] | type[Stock]


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
