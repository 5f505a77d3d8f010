"""What every fault needs: a service under load, and the judgement at its end."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from zlib import crc32

import psycopg
import pytest

from sales.limits import CONNECT_TIMEOUT, STATEMENT_TIMEOUT
from tests.acceptance.faults.table import FaultTable
from tests.acceptance.history.connection import Connection
from tests.acceptance.history.driver import Address, Load, Plan
from tests.acceptance.history.evidence import LAG
from tests.acceptance.history.journeys import EVERYTHING
from tests.acceptance.history.judge import judge_load
from tests.acceptance.history.operations import Call
from tests.acceptance.history.rows import CLOCK_SLACK
from tests.support.service import MakeService, Service

BACK = 120
"""Seconds for a service to serve everybody again; only a deadline."""

CROWD = Plan(journeys=EVERYTHING, clients=30, pause=0.05)
"""Busy, and not so busy that a shared machine has no time for the fault."""

UNAVAILABLE = {"503 database_unavailable", "503 outcome_unknown"}
"""Outcomes while there is no database."""

WITHOUT_DATABASE = UNAVAILABLE | {"503 overloaded"}
"""The same, and what those are told who have waited too long behind a batch that gets no answer."""

BLIND = LAG + STATEMENT_TIMEOUT + CONNECT_TIMEOUT
"""Seconds after which a worker knows what others did, where it has to find out first that its connection is
dead, and to wait for another one, while they may have theirs already."""

PROBES = 12
"""Connections that must be served before a service is back: enough to meet every worker."""


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Both lanes in the full form, the express lane otherwise."""
    if "lane" in metafunc.fixturenames:
        lanes = ["express", "django"] if is_full(metafunc.config) else ["express"]
        metafunc.parametrize("lane", lanes, scope="module")


def is_full(config: pytest.Config) -> bool:
    """Whether the long form was asked for."""
    return any(plugin.full for plugin in config.pluginmanager.get_plugins() if isinstance(plugin, FaultTable))


@pytest.fixture(scope="session")
def full(pytestconfig: pytest.Config) -> bool:
    """Whether this is the long form."""
    return is_full(pytestconfig)


@pytest.fixture(scope="module")
def embedded(make_service: MakeService, full: bool) -> Service:
    """A service with its own PostgreSQL, whatever the tests were given, for whoever does it harm.

    Shared by the tests of a module; each finds it running and leaves it so.
    """
    items = 200_000 if full else 20_000
    return make_service("--checkout-ttl", "2", "--user-limit", "4", items=items, embedded=True).start()


@dataclass
class Run:
    """A service under load, while something happens to it."""

    load: Load
    runs: int = 1
    back: list[float] = field(default_factory=list)

    @property
    def failures(self) -> set[str]:
        """The outcomes that nobody meets in a service that is well: no answer, no connection, 5xx."""
        return {
            o.outcome
            for o in self.load.operations
            if o.call is not Call.NONSENSE and ((o.status == 0 and o.reason != "left") or o.status >= 500)
        }

    async def wait_until_back(self, since: float) -> None:
        """Wait until every new connection is served and holds are granted; note how long that took.

        ``since`` is when the fault began, or ended where nobody can serve meanwhile (monotonic seconds).
        """
        async with asyncio.timeout(BACK):
            probes = [_until_ready(address) for address in self.load.addresses for _ in range(PROBES)]
            await asyncio.gather(*probes)
            start = len(self.load.operations)

            def granted() -> bool:
                return any(
                    o.call is Call.CHECKOUT and o.status == 200 and o.started_at >= since
                    for o in self.load.operations[start:]
                )

            await self.load.until(granted, BACK)
        self.back.append(time.monotonic() - since)


Judged = Callable[..., AbstractAsyncContextManager[Run]]


@pytest.fixture
def judged(pytestconfig: pytest.Config) -> Judged:
    """Put services under load for the time of a fault, judge what they did, and report it.

    Leaving it fails the test where anything was not exact. The services must run then.
    """
    tables = [p for p in pytestconfig.pluginmanager.get_plugins() if isinstance(p, FaultTable)]

    @asynccontextmanager
    async def run(fault: str, *services: Service, plan: Plan = CROWD, lag: float = LAG) -> AsyncIterator[Run]:
        addresses = [("127.0.0.1", service.port) for service in services]
        # What was there before must be told from what comes now, by clocks that are not quite the same.
        while await asyncio.to_thread(_has_news, services[0].database_url()):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        async with Load(addresses, replace(plan, seed=crc32(fault.encode()))) as load:
            run = Run(load)
            yield run
        verdict = await judge_load(load, services[0].database_url(), lag=lag)
        for table in tables:
            table.fault(fault).add(verdict, run.runs, run.back)
        assert verdict.exact, str(verdict)

    return run


def _has_news(database_url: str) -> bool:
    """Whether a hold was made within the last moments."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        found = (
            "SELECT EXISTS (SELECT FROM sales_checkout WHERE created_at > now() - %s * interval '1 second')"
        )
        return connection.execute(found, [2 * CLOCK_SLACK]).fetchone() == (True,)


async def until_unavailable(run: Run, *calls: Call) -> None:
    """Wait until somebody was told that the database does not answer, for each of these calls."""
    start = len(run.load.operations)

    def unavailable() -> bool:
        return set(calls) <= {o.call for o in run.load.operations[start:] if o.outcome in UNAVAILABLE}

    await run.load.until(unavailable, BACK)


async def _until_ready(address: Address) -> None:
    while True:
        try:
            connection = await Connection.open(address)
            try:
                response = await connection.request(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            finally:
                connection.abort()
            if response.status == 200:
                return
        except OSError:
            pass
        await asyncio.sleep(0.02)
