"""nginx in front, with connections that are kept for many clients, and a forwarded Upgrade, as its documents
recommend: every client gets the answers to what it asked, whatever others send."""

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.support.client import Client
from tests.support.service import Service
from tests.support.waiting import DEADLINE

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin:/opt/homebrew/bin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed (Debian: nginx-light)")

CONFIGURATION = """
daemon off;
master_process off;
pid nginx.pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
    upstream workers {{ server 127.0.0.1:{upstream}; keepalive 4; }}
    server {{
        listen 127.0.0.1:{port};
        location = /metrics {{ return 403; }}
        location / {{
            proxy_pass http://workers;
            proxy_http_version 1.1;
            proxy_request_buffering off;
            proxy_set_header Host $host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_set_header X-Request-ID $request_id;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        }}
    }}
}}
"""


@pytest.fixture(scope="module")
def nginx(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of an nginx before the service."""
    assert NGINX is not None
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    directory = tmp_path_factory.mktemp("nginx")
    configuration = directory / "nginx.conf"
    configuration.write_text(CONFIGURATION.format(port=port, upstream=service.port))
    process = subprocess.Popen([NGINX, "-p", str(directory), "-e", "stderr", "-c", str(configuration)])
    try:
        end = time.monotonic() + DEADLINE
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                assert process.poll() is None
                assert time.monotonic() < end
                time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        process.wait(DEADLINE)


SMUGGLED = [
    b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"POST /checkout?user_id=666&item_id=6 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n",
]


async def attack(port: int, times: int) -> None:
    """Hide a request in the body of one that asks for an upgrade; and get one answer, to the outer one."""
    upgrade = "Upgrade: foo\r\nConnection: Upgrade\r\n"
    for number in range(times):
        inner = SMUGGLED[number % 2]
        if number % 3:
            framing, body = f"Content-Length: {len(inner)}\r\n", inner
        else:
            framing, body = "Transfer-Encoding: chunked\r\n", b"%x\r\n%s\r\n0\r\n\r\n" % (len(inner), inner)
        async with Client(port) as client:
            answer = await client.request("POST", "/nothing", upgrade + framing, body)
        assert (answer.status, answer.reason) == (404, "not_found")


async def ask(port: int, numbers: range) -> None:
    """Ask for sales that are not there; each answer names the one that was asked for."""
    async with Client(port) as client:
        for number in numbers:
            answer = await client.get(f"/sales/{number}")
            assert f" {number}." in answer.json["detail"]


async def test_nobody_gets_an_answer_that_is_not_theirs(service: Service, nginx: int) -> None:
    before = service.sql("SELECT count(*) FROM sales_checkout")
    async with asyncio.TaskGroup() as group:
        for client in range(8):
            group.create_task(ask(nginx, range(10_000 * (client + 1), 10_000 * (client + 1) + 60)))
        for _ in range(4):
            group.create_task(attack(nginx, 50))
    assert service.sql("SELECT count(*) FROM sales_checkout") == before


async def test_the_api_through_nginx(service: Service, nginx: int) -> None:
    async with Client(nginx) as client:
        held = await client.post("/checkout?user_id=1&item_id=5")
        assert held.status == 200
        assert (await client.post("/checkout?user_id=2&item_id=5")).reason == "item_held"
        body = b"4\r\nabcd\r\n0\r\nIdempotency-Key: x\r\n\r\n"
        other = await client.request("POST", "/checkout?user_id=1", "Transfer-Encoding: chunked\r\n", body)
        for code in held.text, other.text:
            assert (await client.request("DELETE", f"/checkouts/{code}")).status == 204
        assert (await client.get("/healthz")).text == "ok"
        assert (await client.get("/metrics")).status == 403
