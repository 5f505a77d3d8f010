"""What h11 makes of bytes, beside what ours does, and by which rules ours is stricter."""

import contextlib
import re
from collections.abc import Callable, Iterable
from ipaddress import IPv6Address
from typing import NamedTuple

import h11

from flashsale_project.serving.http.heads import BadMessage
from flashsale_project.serving.http.messages import Reader
from flashsale_project.serving.limits import (
    MAX_BODY,
    MAX_EMPTY_LINES,
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
    rest = theirs.target.split(b"//", 1)[1]
    end = min(index for sign in b"/?" if (index := (rest + b"/").find(sign)) >= 0)
    authority, path = rest[:end], rest[end:]
    others = [header for header in theirs.headers if header[0] != b"host"]
    return (
        mine.headers == [(b"host", authority), *others]
        and mine.target == (path if path.startswith(b"/") else b"/" + path)
        and mine.body == theirs.body
    )


def assert_as_h11(data: bytes) -> None:
    """The reader takes what h11 takes, or refuses it by a rule of its own; what h11 refuses it refuses."""
    mine, theirs = ours([data]), by_h11(data)
    for one, other in zip(mine.messages, theirs.messages, strict=False):
        assert one == other or (other.target[:1] not in (b"/", b"*") and only_host_differs(one, other))
    if mine.refusal is None and mine.rest == 1 and data.endswith(b"\r"):
        assert_as_h11(data[:-1])  # half of an empty line, which h11 does not wait for
    elif mine.refusal is None:
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
