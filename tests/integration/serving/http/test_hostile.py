"""Clients that mean harm, or just leave: both lanes keep their order, their memory and their logs."""

import asyncio
import contextlib
import logging
import re
import socket
from collections.abc import Awaitable, Callable, Iterator
from uuid import UUID

import pytest
import uvloop

from sales.codes import place_of
from sales.conf import SaleOptions
from sales.connections import connection_info
from sales.models import Sale
from sales.runtime import Runtime
from tests.integration.serving.http.test_differential import request
from tests.support.lanes import LANES, Express, Lane, Stock, connected, until
from tests.support.waiting import DEADLINE

Kind = type[Express] | type[Stock]
Attack = Callable[[Runtime], Awaitable[None]]

UNKNOWN = "/purchase?code=00000040-0072-80d2-8b06-7bc5baa26c1e"
HEALTH = request("/healthz", method="GET")
RECEIPT = request("/checkouts/00000040-0072-80d2-8b06-7bc5baa26c1e", method="GET")

SLOW_RECEIPT = "SELECT 1 FROM pg_sleep({}) AS slept WHERE slept IS NULL AND %s::uuid[] IS NOT NULL"
"""Takes its seconds, and finds nothing."""


@pytest.fixture(params=LANES, ids=lambda kind: kind.__name__.lower())
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each lane in its turn."""
    lane: Kind = request.param
    return lane


@pytest.fixture
def attack(
    make_sale: Callable[..., Sale], options: SaleOptions, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Attack], None]]:
    """Run a coroutine with a worker, on the loop that workers use."""
    monkeypatch.setattr("sales.limits.TICK", 3600)
    make_sale(items=2_000, user_limit=2_000)

    async def run(attack: Attack) -> None:
        async with Runtime(connection_info(), options) as runtime:
            await attack(runtime)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield lambda attack: runner.run(run(attack))


def answers(data: bytes | bytearray) -> list[tuple[int, bytes]]:
    """Status and body of each whole answer."""
    found = []
    rest = bytes(data)
    while (end := rest.find(b"\r\n\r\n")) >= 0:
        length = re.search(rb"content-length: (\d+)", rest[:end])
        size = end + 4 + (int(length[1]) if length else 0)
        if len(rest) < size:
            break
        found.append((int(rest[9:12]), rest[end + 4 : size]))
        rest = rest[size:]
    return found


def first_status(lane: Lane) -> int:
    """Status of the first answer, however its body is sent; 0 before it is there."""
    return int(lane.got[9:12]) if b"\r\n\r\n" in lane.got else 0


async def until_lost(lane: Lane) -> None:
    """Wait until the server knows that its client is gone, and has finished what it was doing."""
    async with asyncio.timeout(DEADLINE):
        while not lane.protocol.lost or lane.state.tasks:  # noqa: ASYNC110
            await asyncio.sleep(0)


async def read_to_the_end(lane: Lane) -> bytes:
    """Read until the server closes."""
    await until(lane, lambda: lane.protocol.lost)
    await lane.read()
    return bytes(lane.got)


def test_a_client_that_has_said_all_it_wants_still_gets_its_answer(
    attack: Callable[[Attack], None], kind: Kind
) -> None:
    """A half-closed connection: the hold is committed, and its client is listening."""

    async def run(runtime: Runtime) -> None:
        async with connected(kind, runtime) as lane:
            await lane.send(request("/checkout?user_id=1&item_id=5"))
            lane.client.shutdown(socket.SHUT_WR)
            assert [status for status, _ in answers(await read_to_the_end(lane))] == [200]

    attack(run)


def test_a_client_that_leaves_its_pipeline_behind_is_no_error(
    attack: Callable[[Attack], None],
    kind: Kind,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It leaves while its second request is looked up and the third one waits."""
    monkeypatch.setattr("sales.statements.RECEIPT", SLOW_RECEIPT.format(0.2))

    async def run(runtime: Runtime) -> None:
        async with connected(kind, runtime) as lane:
            await lane.send(RECEIPT * 3)
            await until(lane, lambda: lane.state.total_requests)
            lane.client.close()
            await until_lost(lane)

    attack(run)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_what_stands_behind_an_upgrade_is_answered(attack: Callable[[Attack], None], kind: Kind) -> None:
    """An upgrade that is not taken is an ordinary request."""

    async def run(runtime: Runtime) -> None:
        async with connected(kind, runtime) as lane:
            upgrade = request("/checkout?user_id=1", "Connection: Upgrade", "Upgrade: h2c")
            await lane.send(upgrade + HEALTH + HEALTH[:20])
            await lane.send(HEALTH[20:])
            await until(lane, lambda: len(answers(lane.got)) == 3 or lane.protocol.lost)
            assert [status for status, _ in answers(lane.got)] == [200, 200, 200]

    attack(run)


@pytest.mark.parametrize("target", ["/admin/login/", "/checkout?user_id=1&item_id=5", "/nothing"])
def test_a_body_without_measure_is_refused(attack: Callable[[Attack], None], kind: Kind, target: str) -> None:
    """Django keeps the body of a request to the admin in a file before it looks at anything."""

    async def run(runtime: Runtime) -> None:
        async with connected(kind, runtime) as lane:
            await lane.send(request(target, f"Content-Length: {10**12}", body=b"a" * 100_000))
            await until(lane, lambda: first_status(lane) or lane.protocol.lost)
            assert first_status(lane) == 413

    attack(run)


@pytest.mark.parametrize(
    "nonsense",
    [
        pytest.param(b"GET /admin/ HTTP/1.1\r\nHost: evil.example\r\n\r\n", id="host"),
        pytest.param(request("/admin/login/?" + "a=1&" * 1001, method="GET"), id="parameters"),
    ],
)
def test_nonsense_for_the_admin_is_not_logged(
    attack: Callable[[Attack], None], kind: Kind, nonsense: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def run(runtime: Runtime) -> None:
        async with connected(kind, runtime) as lane:
            await lane.send(nonsense)
            await until(lane, lambda: first_status(lane) or lane.protocol.lost)
            assert first_status(lane) == 400

    attack(run)
    assert [record.name for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.parametrize(
    ("target", "status"), [("/admin/../sale", 302), ("/admin/../static/x", 302), ("/static/../sale", 404)]
)
def test_a_path_that_climbs_is_not_there(
    attack: Callable[[Attack], None], kind: Kind, target: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """In the admin nothing is there for whoever has not logged in."""

    async def run(runtime: Runtime) -> None:
        async with connected(kind, runtime) as lane:
            await lane.send(request(target, method="GET"))
            await until(lane, lambda: first_status(lane) or lane.protocol.lost)
            assert first_status(lane) == status

    attack(run)
    assert [record.name for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_those_who_read_do_not_keep_the_sale_from_its_database(
    attack: Callable[[Attack], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many receipts as anyone likes, each of them slow: there is still a connection for a hold."""
    monkeypatch.setattr("sales.statements.RECEIPT", SLOW_RECEIPT.format(2.5))

    async def run(runtime: Runtime) -> None:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(30):
                reader = await stack.enter_async_context(connected(Express, runtime))
                await reader.send(RECEIPT)
                await reader.arrive()
            buyer = await stack.enter_async_context(connected(Express, runtime))
            await buyer.send(request("/checkout?user_id=1&item_id=5"))
            await until(buyer, lambda: answers(buyer.got))
            assert answers(buyer.got)[0][0] == 200

    attack(run)


def test_a_slow_reader_gets_every_answer_in_order(attack: Callable[[Attack], None], kind: Kind) -> None:
    """Nothing is read until the server can write no more: then all of it comes."""
    script: list[tuple[bytes, int | None]] = []
    for number in range(1000):
        if number % 100 == 50:
            item = number // 100
            script.append((request(f"/checkout?user_id=1&item_id={item}"), item))
        elif number % 100 == 75:
            script.append((HEALTH, None))
        else:
            script.append((request("/checkout?user_id=1&item_id=99999"), None))

    async def run(runtime: Runtime) -> None:
        async with connected(kind, runtime) as lane:
            transport = lane.protocol.transport
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            async with asyncio.TaskGroup() as group:
                sending = group.create_task(lane.send(b"".join(data for data, _ in script)))
                async with asyncio.timeout(DEADLINE):
                    while not lane.protocol.flow.write_paused:  # noqa: ASYNC110
                        await asyncio.sleep(0)
                await until(lane, lambda: sending.done() and lane.is_idle())
            await lane.read()
            for (data, item), (status, body) in zip(script, answers(lane.got), strict=True):
                if item is not None:
                    assert status == 200
                    assert (place_of(UUID(body.decode())) or (0, -1))[1] == item
                else:
                    assert status == (200 if data is HEALTH else 400)
            assert lane.state.total_requests == len(script)

    attack(run)
