"""The certificate of a sale from the outside. It is written beside the lanes, so one of them is enough."""

import asyncio
import json
from typing import Any

import pytest

from tests.support.client import Client
from tests.support.service import MakeService, Service
from tests.support.waiting import START


@pytest.fixture(scope="module")
def lane() -> str:
    """The usual one."""
    return "express"


async def certificate(service: Service, sale: int) -> dict[str, object]:
    """The certificate of a sale, once it is written."""
    async with asyncio.timeout(START), Client(service.port) as client:
        while (answer := await client.get(f"/sales/{sale}/certificate")).status == 404:
            assert answer.reason == "no_certificate"
            await asyncio.sleep(0.1)
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    document: dict[str, object] = answer.json
    return document


async def tamper_with_the_next(service: Service, sale: int) -> int:
    """Give a user an allowance without an item, in the sale after this one."""
    statement = """INSERT INTO sales_allowance (sale_id, user_id, taken, user_limit)
                   SELECT id, 99, 1, 10 FROM sales_sale WHERE id > %s ORDER BY id LIMIT 1
                   RETURNING sale_id"""
    async with asyncio.timeout(START):
        while not (rows := service.sql(statement, sale)):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    return int(rows[0][0])


def proven_now(service: Service, sale: int) -> tuple[int, dict[str, Any]]:
    """The exit code of `verifysale --json`, and what it prints."""
    result = service.manage("verifysale", str(sale), "--json")
    return result.returncode, json.loads(result.stdout)


async def test_every_sale_gets_its_certificate(make_service: MakeService) -> None:
    """Hours of three seconds: one is sold as it should be, the next is tampered with."""
    service = make_service("--period", "3", "--checkout-ttl", "2", items=20).start()
    async with Client(service.port) as client:
        code = (await client.post("/checkout?user_id=7")).text
        assert (await client.post(f"/purchase?code={code}")).text == "purchased"
        sale = (await client.get(f"/checkouts/{code}")).json["sale_id"]
    tampered = await tamper_with_the_next(service, sale)
    document = await certificate(service, sale)
    exit_code, again = proven_now(service, sale)
    assert exit_code == 0
    for invariant in again["invariants"]:
        del invariant["examples"]  # rows of the database are not for everybody
    assert document | {"issued_at": None} == again | {"issued_at": None}
    assert document["holds"] is True
    assert document["sold"] == 1
    document = await certificate(service, tampered)
    assert document["holds"] is False
    assert proven_now(service, tampered)[0] == 1
    service.wait_for(f"SALE {tampered} BREAKS ITS INVARIANTS: python manage.py verifysale {tampered}\n")
    service.wait_for(rf"ERROR sales\.certificate\[\d+\]: Sale {tampered} .* BREAKS ITS INVARIANTS")
    assert f"SALE {sale} " not in service.output
    assert service.stop() == 0
    assert "Traceback" not in service.output
