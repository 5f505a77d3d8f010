"""The express lane's expression: it says only which way a request takes."""

import re
import time
from collections.abc import Callable
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashsale_project.serving.http import heads, hot, messages
from flashsale_project.serving.http.hot import HOT, Hot
from flashsale_project.serving.http.messages import Reader
from flashsale_project.serving.limits import MAX_FIELDS, MAX_HOT
from tests.unit.serving.http.h11_reader import Message, Outcome, by_h11, is_host, ours, value
from tests.unit.serving.http.streams import HEADERS, HOSTS
from tests.unit.serving.http.test_messages import MANY

HOT_LINES = st.sampled_from(
    [
        *["POST /checkout?user_id=1&item_id=2 HTTP/1.1", "POST /checkout?user_id=1 HTTP/1.1"] * 3,
        "POST /purchase?code=00000000-0000-8000-8000-000000000000 HTTP/1.1",
    ]
)
HOT_HEADERS = st.lists(
    st.one_of(
        st.sampled_from(
            [
                *(
                    "Cookie: a=b",
                    "cache-control: x",
                    "Content-Language: de",
                    "Expires: 0",
                    "Hostess: x",
                    "TE: x",
                ),
                *("Content-Length: 0", "content-length:0 ", "CONTENT-LENGTH: 0", "Content-Length: 00"),
                *("Content-Length: 1", "Content-Type: text/plain", "Content-Type: text/plain; charset=x"),
                *("Connection: keep-alive", "Connection: close", "connection: Keep-Alive, close"),
                *("Idempotency-Key: a", "IDEMPOTENCY-KEY: a", "Expect: 100-continue", "Upgrade: x", "If: x"),
                *("Transfer-Encoding: chunked", "transfer-encoding: x", "Trailer: x", "Content-Length : 0"),
                *(
                    "Content_Length: 5",
                    "Host_: x",
                    "X: \x00",
                    "X: \x7f",
                    "X: \xff",
                    "X:\t y \t",
                    " X: y",
                    "X",
                ),
            ]
        ),
        HOSTS,
        HEADERS.map("\r\n".join).filter(bool),
    ),
    max_size=5,
)


BROWSER = [
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0",
    "Accept: */*",
    "Accept-Encoding: gzip, deflate, br",
    "Content-Type: application/json",
    "Content-Length: 0",
    "Cookie: session=3f2a; consent=yes",
    "Connection: keep-alive",
    "Expires: 0",
    "Sec-Fetch-Mode: cors",
    "TE: trailers",
    "Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "X-Request-ID: 7b0c6f0e-6f2b-4d35-8d3c-1c6a6a0ee5d1",
    "X-Forwarded-For: 198.51.100.7, 203.0.113.9",
    "If-None-Match: *",
    "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA",
]
CALL = b"POST /checkout?user_id=12&item_id=345 HTTP/1.1\r\n"
SMALL = (
    CALL
    + b"Accept: */*\r\nHost: a.b:80\r\nConnection: keep-alive\r\nContent-Length: 0\r\nCookie: a=b\r\n\r\n"
)


READERS: tuple[Callable[[bytes], Outcome], ...] = (lambda data: ours([data])), by_h11


def read_by(reader: Callable[[bytes], Outcome], data: bytes) -> Message:
    """The one request that these bytes are, and nothing more."""
    outcome = reader(data)
    [message] = outcome.messages
    assert (outcome.refusal, outcome.rest, outcome.begun) == (None, 0, None)
    return message


def assert_plain(message: Message, hot: Hot) -> None:
    """A request means what the lane takes it for: these numbers or this code, and nothing besides."""
    assert (message.method, message.version, message.body) == (b"POST", b"1.1", b"")
    user_id, item_id, code, *_ = hot
    target = b"/purchase?code=%b" % code if code else b"/checkout?user_id=%b" % (user_id or b"")
    assert message.target == target + (b"&item_id=%b" % item_id if item_id else b"")
    names = [name for name, _ in message.headers]
    assert names.count(b"host") == 1
    assert is_host(value(message, b"host"))
    assert names.count(b"content-length") <= 1
    assert value(message, b"content-length") in (b"", b"0")
    assert {option.strip() for option in value(message, b"connection").lower().split(b",")} <= {
        b"",
        b"keep-alive",
    }
    assert not {b"idempotency-key", b"expect", b"transfer-encoding"} & set(names)
    assert not any(b"_" in name for name in names)  # Django drops them


@MANY
@given(line=HOT_LINES, before=HOT_HEADERS, host=HOSTS, after=HOT_HEADERS)
def test_the_lane_takes_nothing_that_would_be_read_otherwise(
    line: str, before: list[str], host: str, after: list[str]
) -> None:
    data = "\r\n".join([line, *before, host, *after, "", ""]).encode("latin-1")
    behind = b"5\r\nhello"
    reader = Reader()
    reader.feed(data + behind)
    if (hot := reader.take(HOT, len(data))) is None:
        assert HOT.fullmatch(data) is None
        return
    assert reader.held == len(behind)
    assert hot == HOT.fullmatch(data).groups()  # type: ignore[union-attr]
    for read in READERS:
        assert_plain(read_by(read, data), hot)


@MANY
@given(
    headers=st.lists(st.sampled_from(BROWSER), unique=True),
    host=st.sampled_from(["Host: shop.example", "Host: 127.0.0.1:8080", "Host: a_b"]),
    place=st.integers(0, len(BROWSER)),
    is_lower=st.booleans(),
    line=HOT_LINES,
)
def test_the_lane_takes_plain_heads_whatever_they_say(
    headers: list[str], host: str, place: int, is_lower: bool, line: str
) -> None:
    headers.insert(place, host)
    names = "\r\n".join(headers)
    data = f"{line}\r\n{names.lower() if is_lower else names}\r\n\r\n".encode()
    hot = HOT.fullmatch(data)
    assert hot is not None
    for read in READERS:
        assert_plain(read_by(read, data), hot.groups())


def test_a_plain_head_with_a_byte_changed_is_read_as_what_it_is() -> None:
    """Each byte of it replaced by each other, lost, or preceded by any."""
    taken = 0
    for place in range(len(SMALL)):
        before, behind = SMALL[:place], SMALL[place + 1 :]
        changed = [before + behind]
        for byte in range(256):
            changed += [before + bytes([byte]) + behind, before + bytes([byte]) + SMALL[place:]]
        for data in changed:
            if (hot := HOT.fullmatch(data)) is not None:
                taken += 1
                for read in READERS:
                    assert_plain(read_by(read, data), hot.groups())
    assert taken > 5000


@MANY
@given(
    headers=st.lists(st.sampled_from(BROWSER), max_size=4),
    changes=st.lists(
        st.tuples(
            st.floats(0, 1),
            st.integers(0, 2),
            st.one_of(
                st.sampled_from(["\r", "\n", "\r\n", ":", " ", "\t", "_", "\0", "\r\n\r\n"]),
                st.characters(max_codepoint=255),
            ),
        ),
        min_size=1,
        max_size=3,
    ),
)
def test_what_is_left_of_plain_heads_is_read_as_what_it_is(
    headers: list[str], changes: list[tuple[float, int, str]]
) -> None:
    text = "\r\n".join(["POST /checkout?user_id=1 HTTP/1.1", "Host: h", *headers, "", ""])
    for where, lost, added in changes:
        place = int(where * len(text))
        text = text[:place] + added + text[place + lost :]
    data = text.encode("latin-1")
    if (hot := HOT.fullmatch(data)) is not None:
        for read in READERS:
            assert_plain(read_by(read, data), hot.groups())


def test_the_lane_takes_a_head_however_it_is_cut() -> None:
    for place in range(1, len(SMALL)):
        reader = Reader()
        for data in SMALL[:place], SMALL[place:] + SMALL + SMALL[:place]:
            assert reader.take(HOT, MAX_HOT) is None
            assert reader.next() is None
            reader.feed(data)
        for _ in range(2):
            assert reader.take(HOT, MAX_HOT) == (b"12", b"345", None, b"", b"")
        assert reader.take(HOT, MAX_HOT) is None
        assert reader.held == place


HOSTILE = {
    "names": b"A",
    "careful names": b"Content-",
    "digits": b"1",
    "blanks": b" ",
    "colons": b":",
    "ends": b"\r\n",
    "halves of ends": b"\r",
    "headers": b"A:\r\n",
    "headers that begin like careful ones": b"Con: x\r\n",
    "headers without an end": b"A: b\r",
    "hosts": b"Host: a\r\n",
    "hosts without an end": b"Host: a.",
    "ports": b"Host: a:1",
    "lengths": b"Content-Length: 0\r\n",
    "connections": b"Connection: keep-alive\r\n",
    "calls": CALL,
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_heads_take_no_longer_than_others(what: str) -> None:
    """A head of this size that is taken takes some 30 µs; one that goes back and forth, many milliseconds."""
    for before in b"", CALL, CALL + b"Host: a\r\n", CALL[:28], CALL + b"Host: ", CALL + b"X: ":
        for behind in b"", b"\0", b"\r\n", b"\r\n\r\n":
            data = (before + HOSTILE[what] * MAX_HOT)[: MAX_HOT - len(behind)] + behind
            assert min(cpu_seconds(data) for _ in range(5)) < 0.002


def cpu_seconds(data: bytes) -> float:
    """What it takes to look at a head."""
    started = time.process_time()
    HOT.fullmatch(data)
    return time.process_time() - started


@pytest.mark.parametrize("module", [heads, hot, messages])
def test_no_group_has_a_possessive_quantifier(module: ModuleType) -> None:
    """Before Python 3.11.5 such a group matches what it must not: python/cpython#106052."""
    patterns = [thing.pattern for thing in vars(module).values() if isinstance(thing, re.Pattern)]
    assert patterns
    for pattern in patterns:
        plain = re.sub(rb"\\.", b"x", pattern)
        without_classes = re.sub(rb"\[[^\]]*\]", b"x", plain)
        assert re.search(rb"\)(?:[*+?]|\{[0-9,]*\})\+", without_classes) is None


@pytest.mark.parametrize("number", [0, 1, MAX_FIELDS - 1, MAX_FIELDS, 500])
def test_the_lane_has_as_many_headers_as_the_reader(number: int) -> None:
    data = b"POST /checkout?user_id=1 HTTP/1.1\r\nHost: h\r\n" + b"A: b\r\n" * number + b"\r\n"
    assert (HOT.fullmatch(data) is not None) == (number < MAX_FIELDS) == (not ours([data]).refusal)
