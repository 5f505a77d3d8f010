"""Fixtures: sales in real PostgreSQL, and workers opened and closed around a test."""

import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.conf import settings
from django.db import connection

from flashsale_project.postgres.base import embedded_postgres
from sales.conf import SaleOptions
from sales.connections import connection_info
from sales.models import Sale
from sales.rotation import create_sale
from sales.runtime import Runtime
from tests.support.database import empty_tables_fast
from tests.support.waiting import DEADLINE

LONG = {"test_simulation.py", "test_supervisor.py", "test_embedded_postgres.py", "test_differential.py"}
"""Modules that take as long as those that start services."""


def pytest_configure(config: pytest.Config) -> None:
    """Prepare this process."""
    # Take Ctrl-C even if who starts us ignores it (``nohup``, ``&`` in a script): children inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    empty_tables_fast()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first: nobody is left alone with it while the other processes are idle."""
    items.sort(key=_is_short)


def _is_short(item: pytest.Item) -> bool:
    return item.path.name not in LONG and item.get_closest_marker("acceptance") is None


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the embedded server of this run and remove its files."""
    database = settings.DATABASES["default"]
    if "EMBEDDED_DATA_DIR" in database:
        connection.close()
        server = embedded_postgres(database)
        server.release()
        shutil.rmtree(server.location, ignore_errors=True)
    shutil.rmtree(settings.FLASHSALE_DATA_DIR, ignore_errors=True)


@pytest.fixture
def options() -> SaleOptions:
    """What a worker of a test would make its next sales like."""
    return SaleOptions(items=100, user_limit=10, checkout_ttl=60, period=3600)


@pytest.fixture
def make_sale(transactional_db: None) -> Callable[..., Sale]:
    """Make a sale that began ``started`` seconds ago, or at ``starts_at``, and lasts ``lasts`` seconds."""

    def make(
        *,
        items: int = 100,
        user_limit: int = 10,
        checkout_ttl: int = 60,
        started: float = 60,
        starts_at: datetime | None = None,
        lasts: float = 7200,
        paused: bool = False,
    ) -> Sale:
        starts_at = starts_at or datetime.now(UTC) - timedelta(seconds=started)
        return create_sale(
            Sale(
                starts_at=starts_at,
                ends_at=starts_at + timedelta(seconds=lasts),
                items=items,
                user_limit=user_limit,
                checkout_ttl=checkout_ttl,
                paused=paused,
            )
        )

    return make


@pytest.fixture
def sale(make_sale: Callable[..., Sale]) -> Sale:
    """A sale of 100 items that goes on for two hours."""
    return make_sale()


@pytest.fixture
async def open_worker(
    transactional_db: None, options: SaleOptions, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[[], Awaitable[Runtime]]]:
    """Open workers that know nothing of each other but the database.

    They learn what others did only from conflicts or when the test says so: the clock of their
    housekeeping is stopped. However slow the machine is, who asks is told what was looked for, and nobody
    has waited too long for a batch.
    """
    monkeypatch.setattr("sales.limits.TICK", 3600)
    monkeypatch.setattr("sales.limits.LOOK_TIMEOUT", DEADLINE)
    monkeypatch.setattr("sales.limits.CHECKOUT_PATIENCE", DEADLINE)
    async with AsyncExitStack() as stack:

        async def open_one() -> Runtime:
            return await stack.enter_async_context(Runtime(connection_info(), options))

        yield open_one


@pytest.fixture
async def worker(sale: Sale, open_worker: Callable[[], Awaitable[Runtime]]) -> Runtime:
    """One worker on `sale`."""
    return await open_worker()


@pytest.fixture
async def workers(sale: Sale, open_worker: Callable[[], Awaitable[Runtime]]) -> tuple[Runtime, Runtime]:
    """Two workers on `sale`."""
    return await open_worker(), await open_worker()


@pytest.fixture
def sql(transactional_db: None) -> Callable[..., list[tuple[Any, ...]]]:
    """Run a statement behind everybody's back; from a coroutine, through `asyncio.to_thread`."""

    def run(statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement, parameters or None)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    return run
