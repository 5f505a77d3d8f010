"""The clocks of the workers are wrong."""

import asyncio
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from tests.acceptance.faults.conftest import BACK, Judged
from tests.acceptance.history.connection import Connection
from tests.support.service import MakeService, Service

SKEW = 30
"""Seconds that the clock of one worker is ahead, and that of the other behind."""

SITE_CUSTOMIZE = f'''
"""Shift the wall clock of every worker process: the first one ahead, the next one back, and so on."""

import os, sys, time

if "flashsale_project.serving.worker" in sys.orig_argv:
    import datetime

    number = 0
    while True:
        try:
            os.mkdir(os.path.join(os.path.dirname(__file__), str(number)))
            break
        except FileExistsError:
            number += 1
    skew = {SKEW} if number % 2 == 0 else -{SKEW}
    wall, wall_ns = time.time, time.time_ns
    time.time = lambda: wall() + skew
    time.time_ns = lambda: wall_ns() + skew * 10**9

    class Kind(type):
        def __instancecheck__(cls, thing):
            return isinstance(thing, true_datetime)

    class datetime_(datetime.datetime, metaclass=Kind):
        @classmethod
        def now(cls, tz=None):
            return true_datetime.now(tz) + datetime.timedelta(seconds=skew)

    true_datetime, datetime.datetime = datetime.datetime, datetime_
'''


async def test_the_clocks_of_the_workers_are_wrong(
    make_service: MakeService, judged: Judged, full: bool, tmp_path: Path
) -> None:
    """What has expired, and which sale is on, is decided by the database's clock alone."""
    (tmp_path / "sitecustomize.py").write_text(SITE_CUSTOMIZE)
    service = make_service("--period", "4", "--checkout-ttl", "1", "--user-limit", "4", items=5_000)
    service.environment["PYTHONPATH"] = str(tmp_path)
    await asyncio.to_thread(service.start)
    async with asyncio.timeout(BACK):
        seen: set[int] = set()
        while seen != {SKEW, -SKEW}:
            seen.add(await _skew(service))
    async with judged(f"clocks of the workers {SKEW} s ahead and behind", service) as run:
        await run.load.more(10_000 if full else 500)
        await run.load.until(
            lambda: any(operation.reason == "checkout_expired" for operation in run.load.operations), 60
        )
    assert run.failures == set()
    assert await asyncio.to_thread(service.stop) == 0


async def _skew(service: Service) -> int:
    """How many seconds the clock of a worker is off, to the next five: answers carry its time."""
    connection = await Connection.open(("127.0.0.1", service.port))
    try:
        response = await connection.request(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    finally:
        connection.abort()
    told = parsedate_to_datetime(response.headers["date"])
    return round((told - datetime.now(UTC)).total_seconds() / 5) * 5
