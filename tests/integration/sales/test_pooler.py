"""A worker whose sessions turn out to be shared refuses to work, whenever it notices."""

import asyncio
import logging

import pytest

from sales import services
from sales.conf import SaleOptions
from sales.connections import POOLED, connection_info, is_pooled
from sales.models import Sale
from sales.refusals import DATABASE_UNAVAILABLE
from sales.runtime import Runtime
from tests.support.database import django_url
from tests.support.pooler import pooler
from tests.support.refusals import refuses
from tests.support.waiting import DEADLINE, eventually


@pytest.fixture
def database_url(transactional_db: None) -> str:
    """The database of the tests."""
    return django_url()


@pytest.fixture(autouse=True)
def _no_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sales.limits.TICK", 3600)


@pytest.mark.parametrize(("mode", "pooled"), [("session", False), ("transaction", True), ("statement", True)])
def test_the_mode_of_a_pooler_is_found_out(database_url: str, mode: str, pooled: bool) -> None:
    assert not is_pooled(connection_info())
    with pooler(database_url, mode) as between:
        assert is_pooled(between.url) == pooled


async def test_a_worker_refuses_to_share_sessions(
    sale: Sale, database_url: str, options: SaleOptions, caplog: pytest.LogCaptureFixture
) -> None:
    with pooler(database_url, "transaction") as between:
        async with Runtime(between.url, options) as worker:
            await eventually(lambda: POOLED in caplog.text)
            await worker.housekeeping.do_round()
            assert not worker.ready
            for _ in range(3):
                with refuses(DATABASE_UNAVAILABLE):
                    await services.checkout(worker, user_id=1, item_id=5)
    assert [r.message for r in caplog.records if r.levelno == logging.ERROR].count(POOLED) == 1


async def test_a_worker_notices_that_a_pooler_changes_its_mode(
    sale: Sale, database_url: str, options: SaleOptions, caplog: pytest.LogCaptureFixture
) -> None:
    with pooler(database_url, "session") as between:
        async with Runtime(between.url, options) as worker:
            await services.checkout(worker, user_id=1, item_id=5)
            assert worker.ready
            between.change_mode("transaction")
            async with asyncio.timeout(DEADLINE):
                while POOLED not in caplog.text:
                    await worker.housekeeping.do_round()
                    await asyncio.sleep(0.05)
            assert not worker.ready
            with refuses(DATABASE_UNAVAILABLE):
                await services.checkout(worker, user_id=2, item_id=6)
