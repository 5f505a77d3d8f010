"""locustfile.py: it sells out, tells outcomes apart, and fails where counts do not add up."""

import asyncio
import importlib.util
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from sales.codes import new_code
from tests.support.service import PROJECT, MakeService
from tests.support.waiting import START

# Not by importing it: that would patch the sockets of all tests.
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("locust") is None, reason="locust is not installed: pip install -e '.[load]'"
)


@pytest.fixture(scope="module")
def lane() -> str:
    """The usual one: to its clients both are the same."""
    return "express"


async def start_locust(port: int, users: int, seconds: int) -> asyncio.subprocess.Process:
    """So many users, for so long at most."""
    return await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-m",
            "locust",
            "--headless",
            "--only-summary",
            "--host",
            f"http://127.0.0.1:{port}",
        ),
        *("--users", str(users), "--spawn-rate", str(users), "--run-time", f"{seconds}s"),
        cwd=PROJECT,
        env={name: value for name, value in os.environ.items() if not name.startswith("FLASHSALE_")},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def test_a_crowd_sells_out_and_its_outcomes_are_told_apart(make_service: MakeService) -> None:
    service = make_service("--user-limit", "2", "--checkout-ttl", "1", items=150).start()
    locust = await start_locust(service.port, users=40, seconds=10 * START)
    async with asyncio.timeout(3 * START):
        while 'outcome="sold_out"' not in await _metrics(service.port):  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    locust.send_signal(signal.SIGTERM)
    output = (await locust.communicate())[0].decode()
    assert locust.returncode == 0, output
    assert service.sql("SELECT count(*) FROM sales_saleitem WHERE state = 'sold'") == [(150,)]
    for name in ("/checkout held", "/checkout refused sold_out", "/purchase bought", "/sale"):
        assert f" {name} " in output
    assert service.stop() == 0


async def _metrics(port: int) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    try:
        return (await reader.read()).decode()
    finally:
        writer.close()


@contextmanager
def impostor(sale: dict[str, Any]) -> Iterator[tuple[int, list[dict[str, str]]]]:
    """Something that grants everything and always tells these counts; its port, and the heads it was sent."""
    heads: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(json.dumps(sale))

        def do_POST(self) -> None:
            self._answer(str(new_code(sale["id"], 0)) if self.path.startswith("/checkout") else "purchased")

        def do_DELETE(self) -> None:
            self._answer("")

        def log_message(self, *args: object) -> None:
            heads.append(dict(self.headers))

        def _answer(self, text: str) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port, heads
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("sold", "available", "words"),
    [(5, 4, "the counts do not add up"), (0, 10, "items were bought here, and only 0 are sold")],
)
async def test_counts_that_are_wrong_fail_the_run(sold: int, available: int, words: str) -> None:
    with impostor({"id": 3, "items": 10, "sold": sold, "held": 0, "available": available}) as (port, heads):
        # Not by a signal: its exit code is settled then before the counts are looked at.
        locust = await start_locust(port, users=10, seconds=5)
        output = (await locust.communicate())[0].decode()
    assert locust.returncode == 2, output
    assert words in output
    # As from browsers behind a proxy: no two alike.
    assert len({head["X-Request-ID"] for head in heads}) == len(heads) > 10
    assert len({head["Cookie"] for head in heads}) > 5
