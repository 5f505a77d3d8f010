"""A connection pooler between the service and PostgreSQL: exact in session mode, refused in any other."""

import asyncio

import pytest

from sales.connections import POOLED
from tests.support.client import Client
from tests.support.database import NewUrl
from tests.support.pooler import pooler
from tests.support.service import MakeService


@pytest.fixture(scope="module")
def lane() -> str:
    """The usual one: a worker refuses a pooler before it has one."""
    return "express"


@pytest.mark.parametrize("mode", ["transaction", "statement"])
def test_a_pooler_that_shares_sessions_is_refused(
    make_service: MakeService, new_url: NewUrl, mode: str
) -> None:
    with pooler(new_url(), mode) as between:
        service = make_service()
        service.environment["DATABASE_URL"] = between.url
        refused = service.manage("runsale", "--port", "0")
    assert refused.returncode == 1
    assert refused.stderr == f"CommandError: {POOLED}\n"


async def test_a_pooler_in_session_mode_is_as_good_as_none(
    make_service: MakeService, new_url: NewUrl
) -> None:
    with pooler(new_url(), "session") as between:
        service = make_service()
        service.environment["DATABASE_URL"] = between.url
        await asyncio.to_thread(service.start)
        async with Client(service.port) as client:
            held = await client.post("/checkout?user_id=123&item_id=56")
            assert held.status == 200
            assert (await client.post(f"/purchase?code={held.text}")).status == 200
            assert (await client.get("/sale")).json["sold"] == 1
        assert service.manage("verifysale").returncode == 0
        assert await asyncio.to_thread(service.stop) == 0
