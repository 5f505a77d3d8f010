"""Attacks on the framing, over real sockets on both lanes: one message, one answer, and nothing done that was
refused."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from flashsale_project.serving.limits import MAX_BODY, MAX_FIELDS
from sales.runtime import Runtime
from tests.integration.serving.http.conftest import Connect
from tests.support.lanes import Lane, post, statuses, until
from tests.support.waiting import eventually

HOLD = "/checkout?user_id=1&item_id=5"
INNER = post("/checkout?user_id=666&item_id=6", "Content-Length: 0")
PING = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


async def answers(lane: Lane, data: bytes, number: int) -> None:
    """Send, and wait for so many answers, or the end."""
    await lane.send(data)
    await until(lane, lambda: len(statuses(lane)) >= number or lane.protocol.lost)
    await lane.settle()


# --- what follows a head is its body, whatever Upgrade says

UPGRADES = {
    "an unknown protocol": ("Connection: Upgrade", "Upgrade: foo"),
    "lower case": ("connection: upgrade", "upgrade: foo"),
    "one option of many": ("Connection: keep-alive, Upgrade", "Upgrade: foo"),
    "websocket": (
        "Connection: Upgrade",
        *("Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg=="),
    ),
    "h2c": ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"),
    "TLS": ("Connection: Upgrade", "Upgrade: TLS/1.0, HTTP/1.1"),
    "no Connection": ("Upgrade: foo",),
    "nothing": ("Connection: Upgrade", "Upgrade:"),
}


async def test_the_body_behind_an_upgrade_is_no_request(connect: Connect, rows: Callable[[], Any]) -> None:
    framings = {
        "length": ((f"Content-Length: {len(INNER)}",), INNER),
        "chunks": (("Transfer-Encoding: chunked",), b"%x\r\n" % len(INNER) + INNER + b"\r\n0\r\n\r\n"),
    }
    for case in itertools.product(UPGRADES, framings, ["GET", "POST", "OPTIONS"]):
        upgrade, framing, method = case
        headers, body = framings[framing]
        request = post("/healthz", *UPGRADES[upgrade], *headers, body=body)
        async with connect() as lane:
            await answers(lane, request.replace(b"POST", method.encode(), 1) + PING, 2)
            assert (case, statuses(lane)) == (case, [200 if method == "GET" else 405, 200])
    assert await rows() == (0, 0, 0, 100)


async def test_what_stands_behind_an_upgrade_is_answered(connect: Connect) -> None:
    for item, (what, headers) in enumerate(UPGRADES.items()):
        async with connect() as lane:
            await answers(lane, post(f"/checkout?user_id=1&item_id={item}", *headers) + PING[:20], 1)
            await answers(lane, PING[20:], 2)
            assert (what, statuses(lane)) == (what, [200, 200])


# --- what is refused is not done

BROKEN_BODIES: dict[str, tuple[tuple[str, ...], bytes, int]] = {
    name: (("Transfer-Encoding: chunked",), body, status)
    for name, body, status in [
        ("no size", b"ZZZ\r\n", 400),
        ("nothing for a size", b"\r\n\r\n", 400),
        ("a negative size", b"-1\r\na\r\n0\r\n\r\n", 400),
        ("a signed size", b"+1\r\na\r\n0\r\n\r\n", 400),
        ("a size with 0x", b"0x1\r\na\r\n0\r\n\r\n", 400),
        ("a size with _", b"1_0\r\n0123456789abcdef\r\n0\r\n\r\n", 400),
        ("a space before the size", b" 1\r\na\r\n0\r\n\r\n", 400),
        ("a space behind the size", b"1 \r\na\r\n0\r\n\r\n", 400),
        ("a size that overflows", b"10000000000000001\r\na\r\n0\r\n\r\n", 400),
        ("a size of a pebibyte", b"4000000000000\r\na\r\n0\r\n\r\n", 413),
        ("a size of 16 digits", b"ffffffffffffffff\r\na\r\n0\r\n\r\n", 413),
        ("a bare LF behind the size", b"1\na\r\n0\r\n\r\n", 400),
        ("a bare CR behind the size", b"1\ra\r\n0\r\n\r\n", 400),
        ("more than its size", b"1\r\nab\r\n0\r\n\r\n", 400),
        ("a bare LF behind the chunk", b"1\r\na\n0\r\n\r\n", 400),
        ("nothing behind the chunk", b"1\r\na0\r\n\r\n", 400),
        ("a later chunk", b"1\r\na\r\nx\r\n", 400),
        ("the last chunk", b"1\r\na\r\n0 x\r\n\r\n", 400),
        ("a control character in an extension", b"1;a=\x01\r\na\r\n0\r\n\r\n", 400),
        ("an extension that is none", b"1;=\r\na\r\n0\r\n\r\n", 400),
        ("a bare LF in an extension", b"1;a\n\r\na\r\n0\r\n\r\n", 400),
        ("an endless extension", b"1;a=" + b"b" * 300 + b"\r\na\r\n0\r\n\r\n", 431),
        ("many extensions", (b"1;a=" + b"b" * 200 + b"\r\na\r\n") * 30 + b"0\r\n\r\n", 431),
        ("a trailer that is none", b"0\r\nnonsense\r\n\r\n", 400),
        ("a folded trailer", b"0\r\nA: b\r\n c\r\n\r\n", 400),
        ("a trailer with a space before its colon", b"0\r\nA : b\r\n\r\n", 400),
        ("a trailer with a NUL", b"0\r\nA: \0\r\n\r\n", 400),
        ("a bare LF behind a trailer", b"0\r\nA: b\n\r\n", 400),
        ("a trailer about the length", b"0\r\nContent-Length: 5\r\n\r\n", 400),
        ("a trailer about the encoding", b"0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        ("a trailer about the host", b"0\r\nHost: evil\r\n\r\n", 400),
        ("many trailers", b"0\r\n" + b"A: b\r\n" * (MAX_FIELDS + 1) + b"\r\n", 431),
        ("a long trailer", b"0\r\nA: " + b"b" * 10_000 + b"\r\n\r\n", 431),
        ("too much in chunks", b"ffff\r\n" + b"a" * 65535 + b"\r\nf0002\r\n", 413),
    ]
} | {
    name: (headers, body, status)
    for name, headers, body, status in [
        ("a negative length", ("Content-Length: -1",), b"", 400),
        ("a signed length", ("Content-Length: +1",), b"a", 400),
        ("a length with _", ("Content-Length: 1_0",), b"0123456789", 400),
        ("a list of lengths", ("Content-Length: 1, 1",), b"a", 400),
        ("an empty length", ("Content-Length:",), b"", 400),
        ("a hexadecimal length", ("Content-Length: 0x1",), b"a", 400),
        ("a length with a fraction", ("Content-Length: 1.0",), b"a", 400),
        ("a length in other digits", ("Content-Length: \u0661",), b"a", 400),
        ("a length of 21 digits", ("Content-Length: 000000000000000000001",), b"a", 400),
        ("a length that overflows", ("Content-Length: 18446744073709551617",), b"a", 413),
        ("more than there may be", (f"Content-Length: {MAX_BODY + 1}",), b"a", 413),
        ("two lengths", ("Content-Length: 1", "Content-Length: 1"), b"a", 400),
        ("two lengths of nothing", ("Content-Length: 0", "Content-Length: 0"), b"", 400),
        ("two other lengths", ("Content-Length: 0", "content-length: 1"), b"a", 400),
        ("length and chunks", ("Content-Length: 5", "Transfer-Encoding: chunked"), b"0\r\n\r\n", 400),
        ("chunks and length", ("Transfer-Encoding: chunked", "Content-Length: 0"), b"0\r\n\r\n", 400),
        ("length and an odd encoding", ("Content-Length: 0", "Transfer-Encoding: identity"), b"", 400),
        ("an unknown encoding", ("Transfer-Encoding: xchunked",), b"0\r\n\r\n", 501),
        ("an encoding more", ("Transfer-Encoding: gzip, chunked",), b"0\r\n\r\n", 501),
        ("chunked twice", ("Transfer-Encoding: chunked, chunked",), b"0\r\n\r\n", 501),
        ("two encodings", ("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), b"0\r\n\r\n", 501),
        ("identity", ("Transfer-Encoding: identity",), b"", 501),
        ("chunked with a parameter", ("Transfer-Encoding: chunked;a=b",), b"0\r\n\r\n", 501),
        ("an empty encoding", ("Transfer-Encoding:",), b"", 501),
        ("a vertical tab", ("Transfer-Encoding: chunked\x0b",), b"0\r\n\r\n", 400),
        ("a space before the colon", ("Transfer-Encoding : chunked",), b"0\r\n\r\n", 400),
        ("a folded encoding", ("Transfer-Encoding:\r\n chunked",), b"0\r\n\r\n", 400),
    ]
}


async def test_who_sends_a_broken_body_is_refused_and_nothing_is_done(
    connect: Connect, worker: Runtime, rows: Callable[[], Any]
) -> None:
    async with connect() as lane:
        await answers(lane, post("/checkout?user_id=1&item_id=1"), 1)
        code = lane.codes()[0].decode()
    calls = f"POST {HOLD}", f"POST /purchase?code={code}", f"DELETE /checkouts/{code}"
    for case in itertools.product(BROKEN_BODIES, calls):
        headers, body, status = BROKEN_BODIES[case[0]]
        request = "\r\n".join([f"{case[1]} HTTP/1.1", "Host: localhost", *headers, "", ""])
        async with connect() as lane:
            await lane.send(request.encode() + body + PING)
            await until(lane, lambda lane=lane: lane.protocol.lost)
            await lane.read()
            assert (case, statuses(lane)) == (case, [status])
            assert lane.got.lower().count(b"connection: close\r\n") == 1
        assert worker.current().held == 1, case
    assert await rows() == (1, 0, 0, 99)


async def test_a_body_that_goes_bad_later_is_answered_once(lane: Lane, rows: Callable[[], Any]) -> None:
    for piece in post(HOLD, "Transfer-Encoding: chunked"), b"1\r\n", b"a", b"\r\n":
        await lane.send(piece)
        await lane.settle()
        assert not lane.got
    await lane.send(b"nonsense\r\n")
    await until(lane, lambda: lane.protocol.lost)
    await lane.read()
    assert statuses(lane) == [400]
    assert await rows() == (0, 0, 0, 100)


async def test_who_leaves_in_the_middle_of_a_body_has_asked_for_nothing(
    lane: Lane, rows: Callable[[], Any]
) -> None:
    await lane.send(post(HOLD, "Content-Length: 10", body=b"half"))
    await lane.arrive()
    lane.client.close()
    await eventually(lambda: lane.protocol.lost)
    assert await rows() == (0, 0, 0, 100)


# --- trailers


@pytest.mark.parametrize("is_cut", [False, True], ids=["at once", "byte by byte"])
async def test_a_trailer_is_no_header(lane: Lane, rows: Callable[[], Any], is_cut: bool) -> None:
    trailer = b"0\r\nIdempotency-Key: same\r\nX: y\r\n\r\n"
    request = post(
        "/checkout?user_id=1", "Transfer-Encoding: chunked", "Trailer: Idempotency-Key", body=trailer
    )
    for number in (1, 2):
        for piece in [request[at : at + 1] for at in range(len(request))] if is_cut else [request]:
            await lane.send(piece)
            await lane.arrive()
        await until(lane, lambda number=number: len(statuses(lane)) == number)
    assert statuses(lane) == [200, 200]
    assert len(set(lane.codes())) == 2
    assert await rows() == (2, 0, 0, 98)


async def test_chunks_are_put_together_and_what_is_allowed_is_taken(
    lane: Lane, rows: Callable[[], Any]
) -> None:
    body = b'3;a;b=c;d="e;\\" f"\r\nabc\r\n00A\r\n0123456789\r\n000\r\nA: \xe9\r\n\r\n'
    await answers(lane, post(HOLD, "transfer-encoding: Chunked", body=body) + PING, 2)
    assert statuses(lane) == [200, 200]
    assert await rows() == (1, 0, 0, 99)
