"""What operators do to a database that is in use."""

import asyncio

import pytest

from sales import services
from sales.refusals import DATABASE_UNAVAILABLE, Refusal
from sales.runtime import Runtime
from tests.integration.sales.faults.cuts import Stored
from tests.support.database import Sql
from tests.support.shopping import counts
from tests.support.waiting import until_it_works


async def test_a_server_that_ends_all_sessions_is_survived(worker: Runtime, sql: Sql, stored: Stored) -> None:
    await services.checkout(worker, user_id=1, item_id=5)
    await asyncio.to_thread(
        sql,
        """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
           WHERE datname = current_database() AND application_name = 'flashsale worker'""",
    )
    code = await until_it_works(lambda: services.checkout(worker, user_id=2, item_id=6))
    assert (code, "held") in await stored()


async def test_a_constraint_that_refuses_a_batch_fails_it_and_the_next_works(
    worker: Runtime, sql: Sql, stored: Stored, caplog: pytest.LogCaptureFixture
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
