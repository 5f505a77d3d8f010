"""The head of an HTTP/1 request, read strictly: RFC 9112 without what it allows for the sake of old programs.

Whoever stands in front of a worker may read a doubtful head differently, and then one of us answers what
nobody asked. So there is no doubtful head: line ends are CRLF, nothing is folded, a name stands right before
its colon, a length is given once, as a plain number, and not beside ``Transfer-Encoding``, of which
``chunked`` alone is known. An ``Upgrade`` is never done here, so it says nothing.
"""

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address

from flashsale_project.serving.limits import MAX_BODY, MAX_FIELDS, MAX_HEADERS, MAX_TARGET

TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]"
TEXT = rb"[\t -~\x80-\xff]"
NAME = rb"[A-Za-z0-9._~!$&'()*+,;=-]"
"""Pieces of patterns: one character of a name or method, of a header's value, and of a host's name."""

_REQUEST_LINE = re.compile(rb"([A-Z][A-Z-]{0,31}) ([!\"$-~]++) HTTP/([0-9]\.[0-9])")
_FIELD = re.compile(rb"(" + TOKEN + rb"++):(" + TEXT + rb"*+)\r\n")
_FIELDS = re.compile(rb"(?>(?:" + TOKEN + rb"++:" + TEXT + rb"*+\r\n)*)")
_AUTHORITY = (
    rb"((?>(?:"
    + NAME
    + rb"|%[0-9A-Fa-f]{2})+)|\[[0-9A-Fa-f:.]++\]|\[v[0-9A-Fa-f]++\.(?>(?:"
    + NAME
    + rb"|:)+)\])"
    rb"(?::[0-9]{0,5})?"
)
_HOST = re.compile(_AUTHORITY)
_ABSOLUTE = re.compile(rb"(?i:https?)://(" + _AUTHORITY + rb")([/?][!-~]*)?")
_LENGTH = re.compile(rb"[0-9]{1,20}")

_TELLING = {b"host", b"content-length", b"transfer-encoding", b"connection", b"expect"}

Fields = list[tuple[bytes, bytes]]
"""Names, in lower case, and values."""


class BadMessage(Exception):
    """What was received is not a request that can be answered here, nor can what comes after it be read."""

    def __init__(self, status: int, reason: str, detail: str, *, retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.reason = reason
        self.detail = detail
        self.retry_after = retry_after


@dataclass(slots=True)
class Line:
    """A request line."""

    method: str
    target: bytes
    version: str


@dataclass(slots=True)
class Head:
    """All that comes before the body; ``length`` is that of the body in bytes, ``None`` if it is chunked."""

    method: str
    target: bytes
    version: str
    headers: Fields
    length: int | None
    keep_alive: bool
    expects_continue: bool


def invalid(detail: str) -> BadMessage:
    """The refusal of what breaks a rule of HTTP."""
    return BadMessage(400, "invalid_request", detail)


def uri_too_long() -> BadMessage:
    """The refusal of a target that is too long."""
    return BadMessage(414, "uri_too_long", f"The target is longer than {MAX_TARGET} bytes.")


def headers_too_large() -> BadMessage:
    """The refusal of too many headers, or too long ones."""
    return BadMessage(
        431, "headers_too_large", f"There are more than {MAX_HEADERS} bytes or {MAX_FIELDS} lines of headers."
    )


def content_too_large() -> BadMessage:
    """The refusal of a body that is too long."""
    return BadMessage(413, "content_too_large", f"The body is longer than {MAX_BODY} bytes.")


def not_implemented(detail: str) -> BadMessage:
    """The refusal of what HTTP allows and nobody needs here."""
    return BadMessage(501, "invalid_request", detail)


def bad_line() -> BadMessage:
    """The refusal of a request line that is none."""
    return invalid("The request line is malformed.")


def bad_fields() -> BadMessage:
    """The refusal of headers, or trailers, that are none."""
    return invalid("A header is malformed.")


def read_line(line: bytes) -> Line:
    """Read a request line, without its end."""
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise bad_line()
    method, target, version = match.groups()
    if len(target) > MAX_TARGET:
        raise uri_too_long()
    if version not in (b"1.1", b"1.0"):
        raise BadMessage(505, "invalid_request", "Only versions 1.0 and 1.1 of HTTP are spoken here.")
    return Line(method.decode(), target, version.decode())


def read_fields(lines: bytes) -> Fields:
    """Read the lines of headers, or of trailers, each with its end."""
    if _FIELDS.fullmatch(lines) is None:
        raise bad_fields()
    fields = [(name.lower(), value.strip(b" \t")) for name, value in _FIELD.findall(lines)]
    if len(fields) > MAX_FIELDS:
        raise headers_too_large()
    return fields


def read_head(line: Line, headers: Fields) -> Head:
    """What a request line and its headers mean together."""
    told: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        if name in _TELLING:
            told.setdefault(name, []).append(value)
    hosts = told.get(b"host", [])
    if len(hosts) > 1 or (not hosts and line.version == "1.1"):
        raise invalid("There must be one Host.")
    if hosts and not _is_authority(hosts[0]):
        raise invalid("The Host is malformed.")
    length = _length(line, told) if b"content-length" in told or b"transfer-encoding" in told else 0
    target, headers = _origin(line, headers)
    is_current = line.version == "1.1"
    return Head(
        method=line.method,
        target=target,
        version=line.version,
        headers=headers,
        length=length,
        keep_alive=is_current and not (b"connection" in told and b"close" in _options(told[b"connection"])),
        expects_continue=is_current and length != 0 and b"100-continue" in _options(told.get(b"expect", [])),
    )


def _options(values: list[bytes]) -> list[bytes]:
    return [option.strip(b" \t") for option in b",".join(values).lower().split(b",")]


def _is_authority(text: bytes) -> bool:
    match = _HOST.fullmatch(text)
    if match is None:
        return False
    if match[1].startswith(b"[") and match[1][1:2] != b"v":
        try:
            IPv6Address(match[1][1:-1].decode())
        except AddressValueError:
            return False
    return True


def _length(line: Line, told: dict[bytes, list[bytes]]) -> int | None:
    """Bytes of the body, or ``None`` where chunks tell it."""
    lengths, encodings = told.get(b"content-length", []), told.get(b"transfer-encoding", [])
    if encodings:
        if lengths or line.version == "1.0":
            raise invalid("Transfer-Encoding stands beside Content-Length, or in HTTP/1.0.")
        if len(encodings) > 1 or encodings[0].lower() != b"chunked":
            raise not_implemented("No other Transfer-Encoding than chunked is known here.")
        return None
    if len(lengths) > 1 or _LENGTH.fullmatch(lengths[0]) is None:
        raise invalid("The Content-Length is malformed.")
    length = int(lengths[0])
    if length > MAX_BODY:
        raise content_too_large()
    return length


def _origin(line: Line, headers: Fields) -> tuple[bytes, Fields]:
    """The target as path and query, and the headers; what an absolute target says of the host counts."""
    if line.method == "CONNECT":
        raise not_implemented("This is not a proxy.")
    if line.target.startswith(b"/") or (line.target == b"*" and line.method == "OPTIONS"):
        return line.target, headers
    match = _ABSOLUTE.fullmatch(line.target)
    if match is None or not _is_authority(match[1]):
        raise bad_line()
    target = match[3] or b"/"
    others = [(name, value) for name, value in headers if name != b"host"]
    return target if target.startswith(b"/") else b"/" + target, [(b"host", match[1]), *others]
