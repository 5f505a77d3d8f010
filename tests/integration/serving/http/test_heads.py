"""Heads over real sockets, on both lanes: doubtful ones, unusual ones, and a word before the body."""

from collections.abc import Callable
from typing import Any

import pytest

from flashsale_project.serving.limits import MAX_BODY, MAX_FIELDS
from tests.integration.serving.http.conftest import Connect
from tests.integration.serving.http.test_framing import HOLD, PING, answers
from tests.support.lanes import NEVER, Lane, post, reasons, statuses, until

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
