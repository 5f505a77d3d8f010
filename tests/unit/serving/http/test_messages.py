"""Requests out of bytes, compared with what h11 makes of them, and cut at every byte."""

import contextlib
import re
from collections.abc import Callable, Iterable
from ipaddress import IPv6Address
from typing import NamedTuple

import h11
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flashsale_project.serving.http.heads import BadMessage
from flashsale_project.serving.http.messages import Reader
from flashsale_project.serving.limits import (
    MAX_BODY,
    MAX_CHUNK_LINE,
    MAX_EMPTY_LINES,
    MAX_FIELDS,
    MAX_HEADERS,
    MAX_LINE,
    MAX_TARGET,
    MAX_TRAILERS,
)


class Message(NamedTuple):
    """What both have to say about a request."""

    method: bytes
    target: bytes
    version: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes


class Outcome(NamedTuple):
    """Requests up to the one that closes the connection or is refused; the refusal's status and reason."""

    messages: list[Message]
    refusal: tuple[int, str] | None
    rest: int
    begun: Message | None = None
    """What h11 has of a message whose end has not come."""


def ours(pieces: Iterable[bytes]) -> Outcome:
    """What the reader makes of bytes that come in pieces."""
    reader = Reader()
    messages = []
    is_open = True
    rest = 0
    for piece in pieces:
        if not is_open:
            rest += len(piece)
            continue
        reader.feed(piece)
        try:
            while is_open and (request := reader.next()) is not None:
                head = request.head
                messages.append(
                    Message(
                        *(head.method.encode(), head.target, head.version.encode(), head.headers),
                        request.body,
                    )
                )
                is_open = head.keep_alive
        except BadMessage as refusal:
            return Outcome(messages, (refusal.status, refusal.reason), 0)
    return Outcome(messages, None, rest + reader.held)


def by_h11(data: bytes) -> Outcome:
    """What h11 makes of bytes, but that empty lines before a request are overlooked: RFC 9112, 2.2."""
    messages: list[Message] = []
    while data := re.sub(rb"\A(\r\n){1,%d}" % MAX_EMPTY_LINES, b"", data):
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=10**7)
        connection.receive_data(data)
        body = b""
        try:
            request = connection.next_event()
            if not isinstance(request, h11.Request):
                break
            while isinstance(event := connection.next_event(), h11.Data):
                body += event.data
        except h11.RemoteProtocolError:
            return Outcome(messages, (400, ""), 0)
        line = request.method, request.target, request.http_version
        message = Message(*line, [(name, value) for name, value in request.headers], body)
        if not isinstance(event, h11.EndOfMessage):
            return Outcome(messages, None, 0, message)
        messages.append(message)
        data = connection.trailing_data[0]
        options = re.split(rb"[ \t]*,[ \t]*", value(message, b"connection").lower())
        if message.version != b"1.1" or b"close" in options:
            break
    return Outcome(messages, None, len(data))


def count(message: Message, name: bytes) -> int:
    """How often a header is there."""
    return sum(found == name for found, _ in message.headers)


def value(message: Message, name: bytes) -> bytes:
    """All values of a header."""
    return b",".join(value for found, value in message.headers if found == name)


HOST = re.compile(rb"((?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+|\[[^\]]+\])(?::[0-9]{0,5})?")


def is_host(text: bytes) -> bool:
    """Whether this is a host and perhaps a port; RFC 3986."""
    match = HOST.fullmatch(text)
    if match is None or not match[1].startswith(b"["):
        return match is not None
    if re.fullmatch(rb"\[v[0-9A-Fa-f]+\.[A-Za-z0-9._~!$&'()*+,;=:-]+\]", match[1]):
        return True
    with contextlib.suppress(ValueError):
        return bool(IPv6Address(match[1][1:-1].decode("latin-1"))) or True
    return False


STRICTER_BYTES: dict[str, "re.Pattern[bytes]"] = {
    "a line that ends with a bare LF": re.compile(rb"(?<!\r)\n"),
    "a folded header": re.compile(rb"\n[ \t]"),
    "control characters in a value": re.compile(rb"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)"),
    "a length that is given twice": re.compile(
        rb"\ncontent-length:([^\r\n]*,|[^\r\n]*\r\n([^\r\n]+\r\n)*content-length:)", re.IGNORECASE
    ),
    "a chunk size of more than 16 digits": re.compile(rb"\n[0-9A-Fa-f]{17}"),
    "a chunk of more than a mebibyte": re.compile(rb"\n0*[1-9A-Fa-f][0-9A-Fa-f]{5}"),
    "spaces behind a chunk's size": re.compile(rb"\n[0-9A-Fa-f]+[ \t]+\r\n"),
    "a chunk extension that is none": re.compile(rb"\n[0-9A-Fa-f]+;"),
    "a trailer about framing": re.compile(
        rb"\n0+(;[^\r\n]*)?\r\n(?s:.*)\n(?i:host|content-length|transfer-encoding):"
    ),
}
"""What h11 takes and we refuse, whatever the message: seen in its bytes."""

STRICTER: dict[str, Callable[[Message], bool]] = {
    "methods are upper case": lambda m: re.fullmatch(rb"[A-Z][A-Z-]{0,31}", m.method) is None,
    "there are two versions": lambda m: m.version not in (b"1.0", b"1.1"),
    "no tunnels": lambda m: m.method == b"CONNECT",
    "a target is a path, or of http or https": lambda m: not re.match(rb"/|(?i:https?)://", m.target),
    "a target has no fragment": lambda m: b"#" in m.target,
    "a target's host is one": lambda m: (
        b"://" in m.target and not is_host(re.split(rb"[/?]", m.target.split(b"://")[1])[0])
    ),
    "one host, in HTTP/1.0 too": lambda m: count(m, b"host") > 1,
    "a host is one": lambda m: count(m, b"host") == 1 and not is_host(value(m, b"host")),
    "a length or chunks": lambda m: (
        count(m, b"transfer-encoding") > 0 and (count(m, b"content-length") > 0 or m.version == b"1.0")
    ),
    "so much and no more": lambda m: int(value(m, b"content-length") or 0) > MAX_BODY,
}
"""What h11 takes and we refuse: seen in the message."""


def only_host_differs(mine: Message, theirs: Message) -> bool:
    """An absolute target: its host counts, and the path is what is asked for."""
    authority, _, path = theirs.target.split(b"//", 1)[1].partition(b"/")
    authority, _, query = authority.partition(b"?")
    others = [header for header in theirs.headers if header[0] != b"host"]
    return (
        mine.headers == [(b"host", authority), *others]
        and mine.target == b"/" + path + (b"?" + query if query or theirs.target.endswith(b"?") else b"")
        and mine.body == theirs.body
    )


def assert_as_h11(data: bytes) -> None:
    """The reader takes what h11 takes, or refuses it by a rule of its own; what h11 refuses it refuses."""
    mine, theirs = ours([data]), by_h11(data)
    for one, other in zip(mine.messages, theirs.messages, strict=False):
        assert one == other or (other.target[:1] not in (b"/", b"*") and only_host_differs(one, other))
    if mine.refusal is None:
        assert theirs.refusal is None
        assert len(mine.messages) == len(theirs.messages)
        assert mine.rest == theirs.rest or theirs.begun is not None
    elif theirs.refusal is None:
        assert is_stricter(data, mine, theirs) or is_stricter(data, mine, by_h11(data + b"\r\n\r\n"))


def is_stricter(data: bytes, mine: Outcome, theirs: Outcome) -> bool:
    """Whether a rule of ours says why we refused what comes next."""
    seen = theirs.messages[len(mine.messages) :] + ([theirs.begun] if theirs.begun else [])
    return (
        theirs.refusal is not None
        or any(rule.search(data) for rule in STRICTER_BYTES.values())
        or any(rule(message) for message in seen for rule in STRICTER.values())
    )


# --- what is sent

TARGETS = st.sampled_from(
    [
        *(
            "/",
            "/checkout?user_id=1",
            "/a?b=c&d=%20",
            "//a",
            "/a//b?",
            "/?",
            "*",
            "a",
            "/a#b",
            "/\xe9",
            "/a b",
        ),
        *("http://h/", "http://h", "https://h:1/x?y", "HTTP://h?x", "http://u@h/", "http:///x", "ftp://h/"),
        *("h:80", "/a\tb", "/" + "x" * 50, "/\x7f", "http://[::1]/", "http://[x]/"),
    ]
)
METHODS = st.sampled_from(
    ["GET"] * 4 + ["POST"] * 4 + ["M-SEARCH", "get", "CONNECT", "OPTIONS", "G\x00T", "", "GET ", "A" * 33]
)
VERSIONS = st.sampled_from(
    ["HTTP/1.1"] * 12
    + ["HTTP/1.0"] * 4
    + ["HTTP/1.2", "HTTP/2.0", "HTTP/0.9", "HTTP/9.9", "RTSP/1.0", "ICE/1.0", "http/1.1", "HTTP/1.1 ", ""]
    + ["HTTP/11", "HTTP/1.10", "HTTP/1", "1.1", "HTTP/1.1\t"]
)
HOSTS = st.sampled_from(
    ["Host: h"] * 10
    + ["host:h", "HOST: a.b:80", "Host:", "Host: a b", "Host: a,b", "Host: a/b", "Host: u@h", "Host: h:x"]
    + ["Host: [::1]:80", "Host: [::1", "Host: [1:2]", "Host: %41", "Host: %4", "Host: h:", "Host: \xe9"]
    + ["X: y", "Host : h", "Host: h\r\nHost: h", "Host: h\r\n\tx", "Ho\x00st: h", "Host: [v1.a:b]"]
)
HEADERS = st.lists(
    st.sampled_from(
        [
            *("A: b", "a:b", "A:", "A: \t b \t", "A:b c\td", "A_B: c", "!#$%&'*+.^_`|~0: 1", "A: \xe9\xff"),
            *("Connection: Upgrade\r\nUpgrade: foo", "Connection: close", "Connection: keep-alive, Close"),
            *("Connection: keep-alive", "Upgrade: websocket", "Expect: 100-continue", "TE: trailers"),
            *("A : b", "A", ": b", "A: b\x00", "A: b\x01", "A: b\x7f", "A: b\rc", "A: b\nC: d", "A: b\r\n c"),
            *("A\xe9: b", "A(: b", " A: b", "\tA: b", "Content-Type: text/plain", "Trailer: A"),
            *("Content-Length: 0", "Content-Length: 00"),
        ]
    ),
    max_size=4,
)
LENGTHS = st.sampled_from(
    ["{}"] * 14
    + ["+{}", "-{}", "{}_0", "{},{}", "{}, {}", " ", "0x{}", "{}.0", "\xb2", "9" * 13, "9" * 21, "{}\x0b"]
    + ["{}\r\nContent-Length: {}", "{}\r\nContent-Length: 9", "{}\r\ncontent-length:{}"]
    + ["{}\r\nTransfer-Encoding: chunked", "{}\r\nTransfer-Encoding: identity", "000{}", "{} {}"]
)
ENCODINGS = st.sampled_from(
    ["chunked"] * 12
    + ["Chunked", "gzip, chunked", "chunked, chunked", "identity", "xchunked", "chunked;q=1", "", "gzip"]
    + [
        "chunked\r\nTransfer-Encoding: chunked",
        "chunked\r\nTransfer-Encoding: gzip",
        "chunked\x0b",
        ",chunked",
    ]
)
EXTENSIONS = st.sampled_from(
    [""] * 8
    + [";a", ";a=b", ';a="b c;\\""', ";", ";a=", " ;a", ";a b", ";a\x01", " ", "\t", ';a="', ";\xe9", ",a"]
)
SIZES = st.sampled_from(
    ["{:x}"] * 12
    + ["{:X}", "0{:x}", "{:016x}", "{:017x}", "-{:x}", "+{:x}", "0x{:x}", "{:x}g", "", "1{:015x}", "f" * 17]
    + ["{:x}_0", "ffffffff", "fffffffffffffffffff"]
)
CHUNK_ENDS = st.sampled_from(["\r\n"] * 12 + ["\n", "\r", "", "x\r\n", "\r\r\n"])
TRAILERS = st.sampled_from(
    [""] * 6
    + [
        "A: b\r\n",
        "Idempotency-Key: x\r\nB: c\r\n",
        "A : b\r\n",
        "A\r\n",
        " A: b\r\n",
        "A: b\n",
        "A: \x00\r\n",
    ]
    + ["Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n", "Host: evil\r\n", "\r\n"]
)
BODIES = st.sampled_from(
    ["", "", "a", "hello", "\r\n", "0\r\n\r\n", "GET / HTTP/1.1\r\nHost: h\r\n\r\n", "x" * 40]
)


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """A message, right or wrong."""
    head = [f"{draw(METHODS)} {draw(TARGETS)} {draw(VERSIONS)}", draw(HOSTS), *draw(HEADERS)]
    kind = draw(st.sampled_from(["none", "length", "chunks"]))
    body = ""
    if kind == "length":
        body = draw(BODIES)
        head.append(f"Content-Length: {draw(LENGTHS)}".replace("{}", str(len(body))))
    elif kind == "chunks":
        head.append(f"Transfer-Encoding: {draw(ENCODINGS)}")
        for piece in draw(st.lists(BODIES.filter(bool), max_size=3)):
            body += draw(SIZES).format(len(piece)) + draw(EXTENSIONS) + "\r\n" + piece + draw(CHUNK_ENDS)
        body += draw(st.sampled_from(["0", "0", "0", "000", "00" * 10])) + draw(EXTENSIONS) + "\r\n"
        body += draw(TRAILERS) + "\r\n"
    before = draw(st.sampled_from([""] * 9 + ["\r\n", "\r\n" * (MAX_EMPTY_LINES + 1), "\n"]))
    return (before + "\r\n".join([*head, "", ""]) + body).encode("latin-1")


@st.composite
def proper(draw: st.DrawFn) -> bytes:
    """A message that is right: so that what comes behind is looked at."""
    body = draw(BODIES).encode()
    if draw(st.booleans()):
        return b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    chunk = b"%x;a=b\r\n" % len(body) + body + b"\r\n" if body else b""
    return b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk + b"0\r\nA: b\r\n\r\n"


@st.composite
def mutilated(draw: st.DrawFn) -> bytes:
    """A message with some bytes changed, lost or added."""
    data = bytearray(draw(st.one_of(messages(), proper())))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(data) - 1))
        byte = draw(st.one_of(st.integers(0, 255), st.sampled_from(list(b"\r\n :;,\t\0"))))
        match draw(st.sampled_from(["change", "lose", "add"])):
            case "change":
                data[place] = byte
            case "lose":
                del data[place]
            case "add":
                data.insert(place, byte)
    return bytes(data)


STREAMS = st.lists(st.one_of(messages(), messages(), proper(), mutilated()), min_size=1, max_size=4).map(
    b"".join
)
MANY = settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
SOME = settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))


@MANY
@given(data=STREAMS)
def test_the_framing_is_that_of_h11(data: bytes) -> None:
    assert_as_h11(data)


@SOME
@given(data=STREAMS)
def test_it_does_not_matter_how_bytes_are_cut(data: bytes) -> None:
    whole = ours([data])
    assert ours([data[place : place + 1] for place in range(len(data))]) == whole
    for place in range(1, len(data)):
        assert ours([data[:place], data[place:]]) == whole


HEAD = b"POST /a HTTP/1.1\r\nHost: h\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
FILLED = MAX_HEADERS - len("Host: h\r\nX: \r\n")
LIMITS = {
    "target": (b"GET /%s HTTP/1.1\r\nHost: h\r\n\r\n", MAX_TARGET - 1, 414),
    "request line": (b"GET /%s", MAX_LINE - 1 - len("GET /"), 414),
    "header": (HEAD + b"X: %s\r\n\r\n", FILLED, 431),
    "header without end": (HEAD + b"X: %s", FILLED + 3, 431),
    "body": (CHUNKED + b"100000\r\n%s\r\n0\r\n\r\n", MAX_BODY, 400),
    "chunk extension": (CHUNKED + b"0;%s\r\n\r\n", MAX_CHUNK_LINE - len("0;\r\n"), 431),
    "trailer": (CHUNKED + b"0\r\nX: %s\r\n\r\n", MAX_TRAILERS - len("X: \r\n"), 431),
}


@pytest.mark.parametrize("what", LIMITS)
def test_so_much_is_taken_and_not_a_byte_more(what: str) -> None:
    """However it is cut, near the limit at least."""
    pattern, most, status = LIMITS[what]
    for size, refusal in (most, None), (most + 1, status), (most + 2, status), (most + 100, status):
        data = pattern % (b"x" * size)
        whole = ours([data])
        assert (whole.refusal and whole.refusal[0]) == refusal, size
        for place in range(max(1, len(data) - 120), len(data)):
            assert ours([data[:place], data[place:]]) == whole
        assert ours([data[: most - 20], *(data[at : at + 1] for at in range(most - 20, len(data)))]) == whole


@pytest.mark.parametrize(
    ("number", "refusal"), [(MAX_FIELDS, None), (MAX_FIELDS + 1, (431, "headers_too_large"))]
)
def test_so_many_headers_and_trailers_are_taken(number: int, refusal: tuple[int, str] | None) -> None:
    assert ours([HEAD + b"X: y\r\n" * (number - 1) + b"\r\n"]).refusal == refusal
    assert ours([CHUNKED + b"0\r\n" + b"X: y\r\n" * number + b"\r\n"]).refusal == refusal


def test_nothing_is_read_behind_a_refusal() -> None:
    reader = Reader()
    reader.feed(b"nonsense\r\n\r\n")
    for _ in range(3):
        with pytest.raises(BadMessage):
            reader.next()
        reader.feed(HEAD + b"\r\n")
        assert reader.held == 0
        assert not reader.is_receiving
