"""The database takes what is sent and says nothing, or seems to."""

import asyncio
import time

import pytest

from sales import services
from sales.conf import SaleOptions
from sales.connections import connection_info
from sales.models import Sale
from sales.refusals import DATABASE_UNAVAILABLE, OUTCOME_UNKNOWN
from sales.runtime import Runtime
from tests.integration.sales.faults.cuts import Stored, connected
from tests.support.proxy import Proxy
from tests.support.refusals import refuses
from tests.support.waiting import until_it_works


async def test_a_database_that_falls_silent_is_given_up_and_found_again(
    worker: Runtime, proxy: Proxy, stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = await services.checkout(worker, user_id=1, item_id=5)
    monkeypatch.setattr("sales.limits.STATEMENT_TIMEOUT", 0.2)
    proxy.silent = True
    with refuses(OUTCOME_UNKNOWN):
        await services.checkout(worker, user_id=2, item_id=6)
    with refuses(DATABASE_UNAVAILABLE):  # no connection is to be had any more: nothing was sent
        await services.purchase(worker, code=held)
    monkeypatch.setattr("sales.limits.STATEMENT_TIMEOUT", 3.0)
    proxy.silent = False
    proxy.end_all()  # what was swallowed is gone
    await until_it_works(lambda: services.purchase(worker, code=held))
    code = await until_it_works(lambda: services.checkout(worker, user_id=2, item_id=6))
    assert sorted(await stored()) == sorted([(held, "purchased"), (code, "held")])


async def test_a_silent_database_is_not_asked_again(
    worker: Runtime, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    await connected(worker)
    monkeypatch.setattr("sales.limits.STATEMENT_TIMEOUT", 0.2)
    proxy.silent = True
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
