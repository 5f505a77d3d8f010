"""Processes of the service are killed and told to stop, at peak."""

import asyncio
import os
import signal
import time
from collections import Counter
from dataclasses import replace
from functools import partial

import pytest

from tests.acceptance.faults.conftest import BACK, CROWD, Judged
from tests.acceptance.history.driver import Load
from tests.acceptance.history.journeys import SHOPPING
from tests.support.processes import send
from tests.support.service import Service

GONE = {"no answer: ConnectionResetError", "no answer: ConnectionRefusedError"}


async def test_a_worker_is_killed_again_and_again(embedded: Service, judged: Judged, full: bool) -> None:
    async with judged("kill -9 of a worker mid-batch", embedded) as run:
        run.runs = 10 if full else 3
        for number in range(run.runs):
            await run.load.more(50)
            victim = embedded.workers()[number % 2]
            killed_at = time.monotonic()
            os.kill(victim, signal.SIGKILL)
            await run.load.more(10)  # the other serves on
            await run.load.until(partial(embedded.has_replaced, [victim]), BACK)
            await run.wait_until_back(killed_at)
    assert run.failures <= {"no answer: ConnectionResetError"}


async def test_everything_is_killed_and_started_again(embedded: Service, judged: Judged, full: bool) -> None:
    sale = embedded.sql("SELECT id FROM sales_sale WHERE starts_at <= now()")
    async with judged("kill -9 of everything, PostgreSQL included, and a new start", embedded) as run:
        run.runs = 5 if full else 1
        for _ in range(run.runs):
            await run.load.more(100)
            send(signal.SIGKILL, embedded.family())
            await asyncio.to_thread(embedded.wait)
            started_at = time.monotonic()
            await asyncio.to_thread(embedded.start)
            await run.wait_until_back(started_at)
    assert run.failures <= GONE
    assert embedded.sql("SELECT id FROM sales_sale WHERE starts_at <= now()") == sale


@pytest.mark.parametrize(
    ("fault", "signals"),
    [
        ("SIGTERM at peak, and a new start", [signal.SIGTERM]),
        ("Ctrl-C twice at peak, and a new start", [signal.SIGINT, signal.SIGINT]),
    ],
)
async def test_it_is_stopped_at_peak(
    embedded: Service, judged: Judged, full: bool, fault: str, signals: list[signal.Signals]
) -> None:
    async with judged(fault, embedded) as run:
        run.runs = 5 if full else 1
        for _ in range(run.runs):
            await run.load.more(100)
            for sig in signals:
                embedded.signal(sig)
            assert await asyncio.to_thread(embedded.wait) == 0
            assert "Traceback" not in embedded.output
            started_at = time.monotonic()
            await asyncio.to_thread(embedded.start)
            await run.wait_until_back(started_at)
    assert run.failures <= {"503 draining"} | GONE


async def test_nobody_is_left_waiting_by_a_stop(embedded: Service) -> None:
    """Who is connected is answered, who comes too late is refused at once: nobody is just cut off."""
    try:
        async with Load([("127.0.0.1", embedded.port)], replace(CROWD, journeys=SHOPPING)) as load:
            await load.more(50)
            embedded.signal(signal.SIGTERM)
            assert await asyncio.to_thread(embedded.wait) == 0
    finally:
        await asyncio.to_thread(embedded.start)
    assert Counter(o.outcome for o in load.operations if o.reason == "ConnectionResetError") == {}


async def test_its_workers_are_replaced_at_peak(embedded: Service, judged: Judged, full: bool) -> None:
    async with judged("SIGHUP at peak", embedded) as run:
        run.runs = 5 if full else 1
        for _ in range(run.runs):
            await run.load.more(100)
            before = embedded.workers()
            embedded.signal(signal.SIGHUP)
            await run.load.until(partial(embedded.has_replaced, before), BACK)
            await run.load.more(100)
    assert run.failures == set()
