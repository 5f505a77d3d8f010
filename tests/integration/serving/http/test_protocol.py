"""What one connection may send, keep waiting and leave unread, on both lanes."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from flashsale_project.serving.http.protocol import Protocol, budget
from flashsale_project.serving.limits import FREE, MAX_HEADERS, MAX_LINE, REQUEST_TIMEOUT, WRITE_TIMEOUT
from sales.runtime import Runtime
from tests.support.lanes import (
    KEEP_ALIVE,
    NEVER,
    Lane,
    commits_held,
    connected,
    post,
    reasons,
    statuses,
    until,
)
from tests.support.waiting import eventually

PING = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


def seconds_pass(lane: Lane, seconds: int) -> None:
    """What the worker does once a second."""
    for _ in range(seconds):
        lane.protocol.on_second()


async def closed(lane: Lane) -> None:
    """Wait until the server has closed, and read what it said before."""
    await eventually(lambda: lane.protocol.lost)
    await lane.read()


CHUNKED = "Transfer-Encoding: chunked"
ENDLESS: dict[str, tuple[bytes, bytes, int]] = {
    "header value": (b"POST /checkout?user_id=1 HTTP/1.1\r\nX: ", b"a" * 1000, 431),
    "header name": (b"POST /checkout?user_id=1 HTTP/1.1\r\n", b"a" * 1000, 431),
    "headers": (b"POST /checkout?user_id=1 HTTP/1.1\r\n", b"A: b\r\n" * 200, 431),
    "target": (b"POST /checkout?user_id=1", b"1" * 1000, 414),
    "line ends": (b"", b"\r\n" * 500, 400),
    "chunk extension": (post("/checkout?user_id=1", CHUNKED) + b"3;a=", b"b" * 1000, 431),
    "chunk extensions": (post("/checkout?user_id=1", CHUNKED), b"1;a=" + 200 * b"b" + b"\r\nx\r\n", 431),
    "trailer": (post("/checkout?user_id=1", CHUNKED) + b"0\r\nA: ", b"b" * 1000, 431),
    "trailers": (post("/checkout?user_id=1", CHUNKED) + b"0\r\n", b"A: b\r\n" * 200, 431),
}


@pytest.mark.parametrize("what", ENDLESS)
async def test_what_never_ends_is_refused(lane: Lane, what: str) -> None:
    begin, more, status = ENDLESS[what]
    await lane.send(begin)
    await lane.arrive()
    while not lane.protocol.transport.is_closing():
        assert lane.sent <= MAX_LINE + MAX_HEADERS + len(begin) + len(more)
        await lane.send(more)
        await lane.arrive()
    await closed(lane)
    assert statuses(lane) == [status]


async def test_a_long_pipeline_is_read_as_it_is_answered(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    ping = PING[:-2] + b"Cookie: " + b"x" * 2000 + b"\r\n\r\n"
    async with commits_held(monkeypatch):
        sending = asyncio.create_task(lane.send(post("/checkout?user_id=1") + ping * 500))
        await eventually(lambda: lane.protocol.flow.read_paused)
        assert lane.protocol.received <= 300_000  # what was read at once
        await lane.read()
        assert not lane.got
    await until(lane, sending.done)
    await lane.settle()
    assert statuses(lane) == [200] * 501


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, 300_000, 1024 * 1024])
async def test_a_body_is_skipped_whatever_its_size(lane: Lane, size: int) -> None:
    request = post("/checkout?user_id=1", f"Content-Length: {size}", body=b"x" * size)
    await lane.send(request + post(f"/purchase?code={NEVER}"))
    await lane.settle()
    assert statuses(lane) == [200, 409]


async def test_a_head_that_comes_too_slowly_is_refused(lane: Lane) -> None:
    await lane.send(post("/checkout?user_id=1")[:-2])
    await lane.arrive()
    seconds_pass(lane, REQUEST_TIMEOUT)
    assert not lane.protocol.transport.is_closing()
    await lane.send(b"X: y\r\n")  # a byte now and then does not help
    await lane.arrive()
    seconds_pass(lane, 1)
    await closed(lane)
    assert (statuses(lane), reasons(lane)) == ([408], ["request_timeout"])


@pytest.mark.parametrize(
    "begin",
    [
        post("/checkout?user_id=1", "Content-Length: 10", body=b"x"),
        post("/checkout?user_id=1", CHUNKED, body=b"1\r\nx"),
        post("/checkout?user_id=1", CHUNKED, body=b"1\r\nx\r\n0\r\nA: b\r\n"),
    ],
    ids=["length", "chunk", "trailer"],
)
async def test_a_body_that_comes_too_slowly_is_refused(lane: Lane, worker: Runtime, begin: bytes) -> None:
    await lane.send(begin)
    await lane.settle()
    seconds_pass(lane, REQUEST_TIMEOUT + 1)
    await closed(lane)
    assert (statuses(lane), reasons(lane)) == ([408], ["request_timeout"])
    assert worker.current().held == 0


async def test_a_connection_that_sends_nothing_is_closed(lane: Lane) -> None:
    seconds_pass(lane, REQUEST_TIMEOUT)
    assert not lane.protocol.transport.is_closing()
    seconds_pass(lane, 1)
    await closed(lane)
    assert not lane.got


@pytest.mark.parametrize(
    "request_",
    [f"/purchase?code={NEVER}", "/checkout?user_id=x", "/checkout?user_id=1"],
    ids=["refused", "invalid", "granted"],
)
async def test_an_idle_connection_is_closed(lane: Lane, request_: str) -> None:
    await lane.send(post(request_))
    await lane.settle()
    seconds_pass(lane, KEEP_ALIVE)
    assert not lane.protocol.transport.is_closing()
    seconds_pass(lane, 1)
    await closed(lane)
    assert len(statuses(lane)) == 1


async def test_who_waits_for_us_is_not_too_slow(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    async with commits_held(monkeypatch):
        await lane.send(post("/checkout?user_id=1"))
        await lane.arrive()
        seconds_pass(lane, 100)
    await lane.settle()
    seconds_pass(lane, KEEP_ALIVE)
    await lane.send(post("/checkout?user_id=1"))
    await lane.settle()
    assert statuses(lane) == [200, 200]


async def test_who_does_not_read_is_hung_up_on(lane: Lane) -> None:
    async def fill() -> None:
        while True:
            await lane.send(post(f"/purchase?code={NEVER}") * 30)

    filling = asyncio.create_task(fill())
    await eventually(lambda: lane.protocol.flow.write_paused and lane.protocol.flow.read_paused)
    filling.cancel()
    seconds_pass(lane, WRITE_TIMEOUT)
    assert not lane.protocol.transport.is_closing()
    seconds_pass(lane, 1)
    await eventually(lambda: lane.protocol.lost)


async def test_nonsense_is_refused_after_the_answers_before_it(
    lane: Lane, monkeypatch: pytest.MonkeyPatch, sql: Callable[..., Any]
) -> None:
    """Else the refusal would be taken for the answer to a request that is then committed."""
    async with commits_held(monkeypatch):
        await lane.send(post("/checkout?user_id=1") * 2 + b"\0nonsense")
        await lane.arrive()
        await lane.read()
        assert not lane.got
        assert not lane.protocol.transport.is_closing()
    await closed(lane)
    assert statuses(lane) == [200, 200, 400]


async def test_a_broken_body_behind_others_is_no_answer_to_them(
    lane: Lane, worker: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with commits_held(monkeypatch):
        broken = post("/checkout?user_id=1", CHUNKED, body=b"nonsense\r\n")
        await lane.send(post("/checkout?user_id=1") + broken)
        await lane.arrive()
        await lane.read()
        assert not lane.got
    await closed(lane)
    assert statuses(lane) == [200, 400]
    assert worker.current().held == 1


async def test_a_lost_connection_leaves_nothing(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    async with commits_held(monkeypatch):
        await lane.send(post("/checkout?user_id=1") + PING * 1000)
        await eventually(lambda: lane.protocol.flow.read_paused)
        lane.protocol.transport.abort()
        await eventually(lambda: lane.protocol.lost)
        assert lane.protocol._reader.held == lane.protocol._share.size == 0
        assert lane.protocol.cycle is None
        assert lane.state.total_requests == 0


async def test_all_bodies_together_have_a_bound(
    lane: Lane, worker: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = type(lane.protocol)
    monkeypatch.setattr(budget, "total", 100_000)
    large = post("/checkout?user_id=1", "Content-Length: 200000")
    async with connected(kind, worker) as other, connected(kind, worker) as third:
        await lane.send(large + b"x" * 90_000)
        await lane.arrive()
        await other.send(large)  # no more than is free
        await other.arrive()
        assert 0 < budget.used < 100_000
        await other.send(b"x" * 40_000)
        await closed(other)
        assert (statuses(other), reasons(other)) == ([503], ["overloaded"])
        assert b"\r\nRetry-After: 1\r\n" in other.got
        request = post("/checkout?user_id=1", "Cookie: " + "x" * 2000)
        for piece in request[:1500], request[1500:]:
            await third.send(piece)
            await third.arrive()
        await third.settle()
        assert statuses(third) == [200]
    lane.client.close()
    await eventually(lambda: lane.protocol.lost)
    assert budget.used == 0
    assert worker.current().held == 1


async def test_what_waits_behind_an_answer_counts_too(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "total", 50_000)
    async with commits_held(monkeypatch):
        await lane.send(post("/checkout?user_id=1"))
        await lane.arrive()
        await lane.send(PING * 3000)
        await eventually(lambda: lane.protocol._reader._refusal is not None)
        assert budget.used == 0
        await lane.read()
        assert not lane.got
    await closed(lane)
    assert statuses(lane) == [200, 503]


async def test_a_body_counts_until_it_is_answered(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    async with commits_held(monkeypatch):
        size = 200_000
        await lane.send(post("/checkout?user_id=1", f"Content-Length: {size}", body=b"x" * size))
        await eventually(lambda: lane.protocol.cycle is not None)
        assert budget.used == size - FREE
    await lane.settle()
    assert budget.used == 0
    assert statuses(lane) == [200]


async def test_one_connection_too_many_is_told_so(
    lane: Lane, worker: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Protocol, "max_connections", 0)
    async with connected(type(lane.protocol), worker) as other:
        await closed(other)
        assert (statuses(other), reasons(other)) == ([503], ["overloaded"])
    await lane.send(post("/checkout?user_id=1"))
    await lane.settle()
    assert statuses(lane) == [200]
