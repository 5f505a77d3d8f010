"""PostgreSQL is restarted, killed, stopped, cut off from everybody, and made read-only, at peak."""

import asyncio
import re
import signal
import time
from functools import partial

import psycopg
import pytest

from tests.acceptance.faults.conftest import BACK, BLIND, WITHOUT_DATABASE, Judged, until_unavailable
from tests.acceptance.history.connection import Connection, Response
from tests.acceptance.history.operations import Call
from tests.support.database import execute
from tests.support.processes import descendants, postmaster, send
from tests.support.service import Service

TERMINATE = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


@pytest.mark.parametrize(
    ("fault", "sig"),
    [("PostgreSQL: fast restart", signal.SIGINT), ("PostgreSQL: kill -9", signal.SIGKILL)],
)
async def test_it_ends(
    embedded: Service, judged: Judged, full: bool, fault: str, sig: signal.Signals
) -> None:
    async with judged(fault, embedded, lag=BLIND) as run:
        run.runs = 5 if full else 1
        for _ in range(run.runs):
            await run.load.more(100)
            pid = postmaster(embedded.pid)
            ended_at = time.monotonic()
            send(sig, [pid])
            await run.load.until(partial(_is_gone, embedded, pid), BACK)
            await run.wait_until_back(ended_at)
    assert run.failures <= WITHOUT_DATABASE


async def test_it_is_silent(embedded: Service, judged: Judged, full: bool) -> None:
    async with judged("PostgreSQL: SIGSTOP for longer than the deadline", embedded, lag=BLIND) as run:
        run.runs = 5 if full else 1
        for _ in range(run.runs):
            await run.load.more(100)
            pid = postmaster(embedded.pid)
            stopped = [pid, *descendants(pid)]
            send(signal.SIGSTOP, stopped)
            try:
                await until_unavailable(run, Call.CHECKOUT, Call.PURCHASE)
            finally:
                send(signal.SIGCONT, stopped)
            await run.wait_until_back(time.monotonic())
    assert run.failures <= WITHOUT_DATABASE


async def test_all_its_connections_are_ended(embedded: Service, judged: Judged, full: bool) -> None:
    url = embedded.database_url()
    async with judged("PostgreSQL: all its connections ended", embedded, lag=BLIND) as run:
        run.runs = 20 if full else 3
        for _ in range(run.runs):
            await run.load.more(50)
            ended_at = time.monotonic()
            await asyncio.to_thread(execute, url, TERMINATE)
            await run.wait_until_back(ended_at)
    assert run.failures <= WITHOUT_DATABASE


async def test_it_takes_no_writes(embedded: Service, judged: Judged, full: bool) -> None:
    """As on a standby, or where the disk is nearly full and an operator has pulled the brake."""
    url = embedded.database_url()
    async with judged("PostgreSQL: read-only", embedded, lag=BLIND) as run:
        run.runs = 3 if full else 1
        for _ in range(run.runs):
            await run.load.more(100)
            await asyncio.to_thread(_read_only, url, True)
            try:
                await until_unavailable(run, Call.CHECKOUT, Call.PURCHASE)
            finally:
                await asyncio.to_thread(_read_only, url, False)
            await run.wait_until_back(time.monotonic())
    assert run.failures <= WITHOUT_DATABASE


async def test_readiness_metrics_and_the_log_tell_that_it_takes_no_writes(embedded: Service) -> None:
    url = embedded.database_url()
    said = len(embedded.output)

    async def is_told(event: str, up: int, status: int) -> bool:
        told = sorted(int(pid) for pid in re.findall(rf"{event} pid=(\d+)", embedded.output[said:]))
        metrics = (await _get(embedded, "/metrics")).body.decode()
        ready = (await _get(embedded, "/readyz")).status
        # Each worker tells it once.
        return (told, ready) == (sorted(embedded.workers()), status) and f"database_up {up}.0" in metrics

    await asyncio.to_thread(_read_only, url, True)
    try:
        async with asyncio.timeout(BACK):
            while not await is_told("ERROR database.lost", 0, 503):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    finally:
        await asyncio.to_thread(_read_only, url, False)
    async with asyncio.timeout(BACK):
        while not await is_told("INFO database.back", 1, 200):  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def _get(service: Service, target: str) -> Response:
    connection = await Connection.open(("127.0.0.1", service.port))
    try:
        return await connection.request(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    finally:
        connection.abort()


def _read_only(url: str, on: bool) -> None:
    """Of all sessions from now on; the others are ended."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only TO off; SET transaction_read_only TO off")
        name = connection.info.dbname
        connection.execute(
            f"ALTER DATABASE {name} SET default_transaction_read_only TO {'on' if on else 'off'}"
        )
        connection.execute(TERMINATE)


def _is_gone(service: Service, pid: int) -> bool:
    return pid not in descendants(service.pid)
