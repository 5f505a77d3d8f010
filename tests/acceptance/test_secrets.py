"""The password of the database is shown to nobody, whatever goes wrong."""

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import sql

from flashsale_project.postgres.server import LOG_FILE
from tests.support import processes
from tests.support.client import Client
from tests.support.service import MakeService, Service
from tests.support.waiting import START

WRONG = "sesame-0123456789"
SESSION = "Cookie: sessionid=0123456789abcdefghijklmnopqrstuv\r\n"
"""Makes the admin ask the database."""


@pytest.fixture(scope="module")
def lane() -> str:
    """The usual one: no lane knows the password."""
    return "express"


@contextmanager
def command_lines(service: Service) -> Iterator[set[str]]:
    """The command lines of the service and of all its processes, from its start on."""
    seen: set[str] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.1):
            if service.process is not None:
                seen.update(" ".join(words) for words in processes.descendants(service.pid).values())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


async def until_answered(service: Service, path: str, wanted: int) -> None:
    """Ask until the answer has this status code."""
    async with asyncio.timeout(START):
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                async with Client(service.port) as client:
                    if (await client.request("GET", path, SESSION)).status == wanted:
                        return
            await asyncio.sleep(0.05)


def set_password(connection: psycopg.Connection, password: str) -> None:
    """Give the service's role this password, and end the connections of all others."""
    connection.execute(sql.SQL("ALTER ROLE CURRENT_USER PASSWORD {}").format(password))
    connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE usename = CURRENT_USER AND pid <> pg_backend_pid()"
    )


async def test_the_password_of_the_database_is_never_shown(make_service: MakeService) -> None:
    service = make_service(embedded=True)  # whose password can be changed
    outputs = []
    with command_lines(service) as seen:
        await asyncio.to_thread(service.start)
        url = urlsplit(service.database_url())
        password = str(url.password)
        assert len(password) > 20

        # The password is refused.
        with psycopg.connect(service.database_url(), autocommit=True) as connection:
            row = connection.execute("SHOW data_directory").fetchone()
            assert row is not None
            log = Path(row[0]) / LOG_FILE
            set_password(connection, WRONG)
            await until_answered(service, "/readyz", 503)
            await until_answered(service, "/admin/", 500)
            result = await asyncio.to_thread(service.manage, "verifysale")
            assert result.returncode != 0
            outputs += [result.stdout, result.stderr]
            set_password(connection, password)
        await until_answered(service, "/readyz", 200)

        # Somebody gives a wrong one.
        netloc = url.netloc.replace(password, WRONG)
        other = make_service()
        other.environment["DATABASE_URL"] = urlunsplit(url._replace(netloc=netloc))
        result = await asyncio.to_thread(other.manage, "runsale", "--port", "0")
        assert "password authentication failed" in result.stderr
        outputs += [result.stdout, result.stderr]

        # The server dies.
        os.kill(processes.postmaster(service.pid), signal.SIGKILL)
        service.wait_for("The database server ended; starting it again")
        await until_answered(service, "/readyz", 200)
        assert service.stop() == 0
    assert any("initdb " in command for command in seen)
    assert any(processes.WORKER in command for command in seen)
    outputs += [service.output, log.read_text()]
    assert "Traceback" in service.output
    assert "password authentication failed" in service.output
    assert not any(secret in command for command in seen for secret in (password, WRONG))
    assert not any(secret in output for output in outputs for secret in (password, WRONG))
