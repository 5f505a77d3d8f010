"""Attacks on the framing, over real sockets on both lanes: one message, one answer, and nothing done that was
refused."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

import pytest

from flashsale_project.serving.limits import MAX_BODY, MAX_FIELDS
from sales.models import Sale
from sales.runtime import Runtime
from tests.conftest import eventually
from tests.support.lanes import LANES, NEVER, Lane, connected, post, reasons, statuses, until

Connect = Callable[[], AbstractAsyncContextManager[Lane]]

HOLD = "/checkout?user_id=1&item_id=5"
INNER = post("/checkout?user_id=666&item_id=6", "Content-Length: 0")
PING = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(params=LANES, ids=lambda kind: kind.__name__.lower())
async def lane(worker: Runtime, request: pytest.FixtureRequest) -> AsyncIterator[Lane]:
    """A connection to each of the lanes."""
    async with connected(request.param, worker) as connection:
        yield connection


@pytest.fixture(params=LANES, ids=lambda kind: kind.__name__.lower())
def connect(worker: Runtime, request: pytest.FixtureRequest) -> Connect:
    """Connect to each of the lanes, as often as one likes."""
    return partial(connected, request.param, worker)


@pytest.fixture
def rows(sql: Callable[..., Any], sale: Sale) -> Callable[[], Any]:
    """What the database says that was done: holds, purchases, keys, and how many items are still free."""

    async def look() -> tuple[int, ...]:
        found = await asyncio.to_thread(
            sql,
            "SELECT (SELECT count(*) FROM sales_checkout WHERE state = 'held'),"
            " (SELECT count(*) FROM sales_checkout WHERE state = 'purchased'),"
            " (SELECT count(*) FROM sales_idempotencykey),"
            " (SELECT count(*) FROM sales_saleitem WHERE code IS NULL)",
        )
        return tuple(found[0])

    return look


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


# --- heads

REASONS = {431: "headers_too_large"}
HEADS: dict[str, tuple[bytes, int]] = {
    name: (f"POST {HOLD} {rest}\r\n\r\n".encode("latin-1"), status)
    for name, rest, status in [
        ("no host", "HTTP/1.1", 400),
        ("two hosts", "HTTP/1.1\r\nHost: a\r\nHost: a", 400),
        ("two spellings of a host", "HTTP/1.1\r\nHost: a\r\nhOST: b", 400),
        ("an empty host", "HTTP/1.1\r\nHost:", 400),
        ("a host of blanks", "HTTP/1.1\r\nHost: \t ", 400),
        ("a host with a space", "HTTP/1.1\r\nHost: a b", 400),
        ("a host with a path", "HTTP/1.1\r\nHost: a/b", 400),
        ("a host with a user", "HTTP/1.1\r\nHost: u@a", 400),
        ("a host with a bad port", "HTTP/1.1\r\nHost: a:b", 400),
        ("a host with two ports", "HTTP/1.1\r\nHost: a:1:2", 400),
        ("a list of hosts", "HTTP/1.1\r\nHost: a, b", 400),
        ("a URL for a host", "HTTP/1.1\r\nHost: http://a", 400),
        ("half an escape in a host", "HTTP/1.1\r\nHost: a%4", 400),
        ("an open bracket", "HTTP/1.1\r\nHost: [::1", 400),
        ("a bad address", "HTTP/1.1\r\nHost: [1::2::3]", 400),
        ("a zone", "HTTP/1.1\r\nHost: [fe80::1%eth0]", 400),
        ("a name in brackets", "HTTP/1.1\r\nHost: [localhost]", 400),
        ("bytes for a host", "HTTP/1.1\r\nHost: \xe9", 400),
        ("two hosts in 1.0", "HTTP/1.0\r\nHost: a\r\nHost: a", 400),
        ("a bad host in 1.0", "HTTP/1.0\r\nHost: a b", 400),
        ("chunks in 1.0", "HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked", 400),
        ("an obsolete version", "HTTP/0.9\r\nHost: a", 505),
        ("a coming version", "HTTP/1.2\r\nHost: a", 505),
        ("another version", "HTTP/2.0\r\nHost: a", 505),
        ("any version", "HTTP/9.9\r\nHost: a", 505),
        ("a version of three digits", "HTTP/1.12\r\nHost: a", 400),
        ("a version of one digit", "HTTP/1\r\nHost: a", 400),
        ("RTSP", "RTSP/1.0\r\nHost: a", 400),
        ("ICE", "ICE/1.0\r\nHost: a", 400),
        ("lower case", "http/1.1\r\nHost: a", 400),
        ("something behind the version", "HTTP/1.1 x\r\nHost: a", 400),
        ("a blank behind the version", "HTTP/1.1 \r\nHost: a", 400),
        ("no version", "\r\nHost: a", 400),
        ("two blanks", " HTTP/1.1\r\nHost: a", 400),
        ("a tab", "\tHTTP/1.1\r\nHost: a", 400),
        ("a folded header", "HTTP/1.1\r\nHost: a\r\nX: a\r\n b", 400),
        ("a folded first line", "HTTP/1.1\r\n Host: a", 400),
        ("a space before a colon", "HTTP/1.1\r\nHost: a\r\nX : a", 400),
        ("a space before a name", "HTTP/1.1\r\nHost: a\r\nX: y\r\n\x0bZ: a", 400),
        ("no colon", "HTTP/1.1\r\nHost: a\r\nX", 400),
        ("no name", "HTTP/1.1\r\nHost: a\r\n: x", 400),
        ("brackets in a name", "HTTP/1.1\r\nHost: a\r\nX[]: x", 400),
        ("bytes in a name", "HTTP/1.1\r\nHost: a\r\nX\xe9: x", 400),
        ("a NUL", "HTTP/1.1\r\nHost: a\r\nX: a\0b", 400),
        ("a control character", "HTTP/1.1\r\nHost: a\r\nX: a\x01b", 400),
        ("a DEL", "HTTP/1.1\r\nHost: a\r\nX: a\x7fb", 400),
        ("a bare CR", "HTTP/1.1\r\nHost: a\r\nX: a\rb: c", 400),
        ("a bare LF", "HTTP/1.1\r\nHost: a\r\nX: a\nb: c", 400),
        ("bare LFs", "HTTP/1.1\nHost: a\n\n", 400),
        ("too many headers", "HTTP/1.1\r\nHost: a" + "\r\nX: a" * MAX_FIELDS, 431),
    ]
} | {
    name: (f"{line}\r\nHost: localhost\r\n\r\n".encode("latin-1"), status)
    for name, line, status in [
        ("a tunnel", "CONNECT localhost:80 HTTP/1.1", 501),
        ("a tunnel to a path", f"CONNECT {HOLD} HTTP/1.1", 501),
        ("a host for a target", "POST localhost:80 HTTP/1.1", 400),
        ("no slash", "POST checkout?user_id=1 HTTP/1.1", 400),
        ("a star", "POST * HTTP/1.1", 400),
        ("a fragment", f"POST {HOLD}#x HTTP/1.1", 400),
        ("another scheme", f"POST ftp://localhost{HOLD} HTTP/1.1", 400),
        ("a user in the target", f"POST http://u@localhost{HOLD} HTTP/1.1", 400),
        ("no host in the target", f"POST http://{HOLD} HTTP/1.1", 400),
        ("bytes in the target", f"POST {HOLD}&\xe9 HTTP/1.1", 400),
        ("a control character in the target", f"POST {HOLD}&\x01 HTTP/1.1", 400),
        ("a lower-case method", f"post {HOLD} HTTP/1.1", 400),
        ("a method with a colon", f"PO:ST {HOLD} HTTP/1.1", 400),
        ("an endless method", f"{'A' * 40} {HOLD} HTTP/1.1", 400),
        ("the preface of HTTP/2", "PRI * HTTP/2.0", 505),
    ]
}


async def test_a_doubtful_head_is_refused(connect: Connect, rows: Callable[[], Any]) -> None:
    for what, (head, status) in HEADS.items():
        async with connect() as lane:
            await lane.send(head + PING)
            await until(lane, lambda lane=lane: lane.protocol.lost)
            await lane.read()
            assert (what, statuses(lane), reasons(lane)) == (
                what,
                [status],
                [REASONS.get(status, "invalid_request")],
            )
    assert await rows() == (0, 0, 0, 100)


UNUSUAL = [
    "POST {} HTTP/1.0",
    "POST {} HTTP/1.0\r\nHost: a",
    "POST {} HTTP/1.1\r\nHost: [::1]:8080",
    "POST {} HTTP/1.1\r\nHost: a_b.c-d:",
    "POST {} HTTP/1.1\r\nhost:\tlocalhost\t",
    "POST http://localhost{} HTTP/1.1\r\nHost: a",
    "POST HTTPS://127.0.0.1:80{} HTTP/1.1\r\nHost: a",
    "\r\nPOST {} HTTP/1.1\r\nHost: a",
    "POST {} HTTP/1.1\r\nHost: a\r\nX_Y: 1\r\nX-Z: \xe9",
]


async def test_what_is_unusual_and_right_is_served(connect: Connect) -> None:
    for item, head in enumerate(UNUSUAL):
        async with connect() as lane:
            target = f"/checkout?user_id=1&item_id={item}"
            await answers(lane, f"{head.format(target)}\r\n\r\n".encode("latin-1"), 1)
            assert (head, statuses(lane)) == (head, [200])


async def test_options_of_the_server(lane: Lane) -> None:
    await answers(lane, post("*").replace(b"POST", b"OPTIONS") + PING, 2)
    assert statuses(lane) == [404, 200]


# --- a word before the body

EXPECTING = post(HOLD, "Expect: 100-continue", "Content-Length: 2")


async def test_who_waits_for_a_word_gets_it_once(lane: Lane) -> None:
    await lane.send(EXPECTING)
    await until(lane, lambda: statuses(lane))
    assert lane.got == b"HTTP/1.1 100 Continue\r\n\r\n"
    await lane.send(b"o")
    await lane.arrive()
    await answers(lane, b"k", 2)
    assert statuses(lane) == [100, 200]


async def test_the_word_comes_in_its_turn(lane: Lane, rows: Callable[[], Any]) -> None:
    await answers(lane, post("/checkout?user_id=2&item_id=2") + EXPECTING, 2)
    assert statuses(lane) == [200, 100]
    await answers(lane, b"ok", 3)
    assert statuses(lane) == [200, 100, 200]


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (EXPECTING + b"ok", [200]),
        (post(HOLD, "Expect: 100-continue"), [200]),
        (post(HOLD, "Expect: 100-continue", "Content-Length: 0"), [200]),
        (EXPECTING.replace(b"HTTP/1.1", b"HTTP/1.0"), []),
        (post(HOLD, "Expect: 100-continue", "Content-Length: 2", "Host: x"), [400]),
        (post(HOLD, "Expect: 100-continue", f"Content-Length: {MAX_BODY + 1}"), [413]),
    ],
    ids=["body there", "no body", "length 0", "1.0", "bad head", "too long"],
)
async def test_who_needs_no_word_gets_none(lane: Lane, request_: bytes, expected: list[int]) -> None:
    await answers(lane, request_, len(expected))
    assert statuses(lane) == expected


@pytest.mark.parametrize(
    "content_type",
    ["text/plain; x*=nosuch''b%41", 'a;x="' + ";" * 50_000, "x" * 5_000, "multipart/form-data"],
)
async def test_the_type_of_a_body_that_nobody_reads_does_not_matter(
    connect: Connect, content_type: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with connect() as lane:
        await answers(lane, post("/purchase?code=" + NEVER, f"Content-Type: {content_type}"), 1)
        await answers(lane, PING[:-2] + f"Content-Type: {content_type}\r\n\r\n".encode(), 2)
        assert statuses(lane) == [409, 200]
    assert not caplog.records


async def test_empty_lines_count_for_the_request_behind_them(connect: Connect) -> None:
    async with connect() as lane:
        for number in range(1, 4):
            await lane.send(b"\r\n" * 8)
            await lane.arrive()
            await answers(lane, post("/purchase?code=" + NEVER), number)
        assert statuses(lane) == [409, 409, 409]
