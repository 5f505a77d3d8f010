"""A worker that reaches its database through a proxy only, and a server that can be made to crash."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator

import psycopg
import pytest
from django.conf import settings
from django.db import OperationalError, connection

from sales.conf import SaleOptions
from sales.connections import connection_info
from sales.models import Sale
from sales.runtime import Runtime
from tests.integration.sales.faults.cuts import Stored, connected
from tests.support.database import Sql, django_url
from tests.support.outcomes import CHECKOUTS
from tests.support.proxy import Proxy
from tests.support.waiting import DEADLINE, eventually, wait_for


@pytest.fixture
async def proxy(transactional_db: None) -> AsyncIterator[Proxy]:
    async with Proxy(django_url()) as proxy:
        yield proxy
        assert not proxy.cuts, "a cut was not made"


@pytest.fixture
async def worker(
    sale: Sale, proxy: Proxy, options: SaleOptions, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Runtime]:
    """A worker that reaches its database through the proxy only."""
    monkeypatch.setattr("sales.limits.TICK", 3600)
    monkeypatch.setattr("sales.limits.LOOK_TIMEOUT", DEADLINE)
    monkeypatch.setattr("sales.limits.CHECKOUT_PATIENCE", DEADLINE)
    monkeypatch.setattr("sales.limits.CONNECT_TIMEOUT", 1.0)
    async with Runtime(proxy.url, options) as runtime:
        # Its first look for certificates goes on beside us, and would take a cut that is meant for others.
        await eventually(lambda: runtime.housekeeping._certifier._task is None)
        await connected(runtime)
        yield runtime


@pytest.fixture
def stored(sql: Sql) -> Stored:
    """What the database has, asked past the proxy."""
    return lambda: asyncio.to_thread(sql, f"SELECT code, state FROM {CHECKOUTS}")


@pytest.fixture
def crash(sql: Sql, transactional_db: None) -> Iterator[Callable[[], None]]:
    """Kill a process of the server, which then ends all others, recovers and goes on, without a restart."""
    if "EMBEDDED_DATA_DIR" not in settings.DATABASES["default"]:
        pytest.skip("needs a server whose processes may be killed")

    def is_back() -> bool:
        with contextlib.suppress(OperationalError):
            return bool(sql("SELECT 1"))
        return False

    def kill() -> None:
        with psycopg.connect(connection_info(), autocommit=True) as victim:
            os.kill(victim.info.backend_pid, signal.SIGKILL)
            with contextlib.suppress(psycopg.OperationalError):
                victim.execute("SELECT pg_sleep(60)")
        wait_for(is_back)

    yield kill
    connection.close()  # that of this thread did not survive it either
