"""A whole judgement: wait until the service is at rest, read the rows, ask for the counts, and compare."""

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator

from tests.acceptance.history.checker import Verdict, judge
from tests.acceptance.history.driver import Load, Shopper
from tests.acceptance.history.evidence import LAG, Violation
from tests.acceptance.history.operations import Call
from tests.acceptance.history.rows import Rows, has_unswept, read

REST = 30.0
"""Seconds for a service to come to rest: holds that are over given back, all counts those of the rows."""

LOOKS = 4
"""Connections to each address that ask for the counts, so that most likely every worker is asked."""


async def judge_load(load: Load, database_url: str, *, rest: float = REST, lag: float = LAG) -> Verdict:
    """Judge a load that is over, of a service that still runs. Nobody else may be its client meanwhile.

    For ``lag`` see `Evidence`.
    """
    deadline = time.monotonic() + rest
    while await asyncio.to_thread(has_unswept, database_url) and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    while True:
        rows, clock = await asyncio.to_thread(read, database_url)
        restless = [text async for text in _restless(load, rows)]
        if not restless or time.monotonic() > deadline:
            break
        await asyncio.sleep(0.2)
    verdict = judge(load.operations, rows, clock, lag=lag)
    violations = [Violation(kind="rest", text=text) for text in restless]
    return dataclasses.replace(verdict, violations=verdict.violations + violations)


async def _restless(load: Load, rows: Rows) -> AsyncIterator[str]:
    for row in rows.checkouts:
        if row.state == "held" and row.expires_at < rows.read_at:
            yield f"a hold that is over was not given back: {row.told()}"
    for address in load.addresses:
        for _ in range(LOOKS):
            one = Load([address], dataclasses.replace(load.plan, pause=0))
            looker = Shopper(one, -1)
            looked = await looker.ask(Call.SALE)
            looker.close()
            load.operations += one.operations
            answer = looked.answer or {}
            counts = answer.get("sold"), answer.get("held")
            if looked.status != 200 or counts != rows.counts(answer["id"]):
                expected = rows.counts(answer.get("id", 0))
                yield f"{address} counts {counts} sold and held, and the rows {expected}: {looked.outcome}"
