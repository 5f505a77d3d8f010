"""Requests out of bytes, without I/O: one message, one framing.

A request is given out when all of it is there and right, its chunks and trailers included; until then nothing
has been done about it. The same bytes give the same requests, and the same refusal, however they are cut.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from flashsale_project.serving.http.heads import (
    TEXT,
    TOKEN,
    BadMessage,
    Head,
    Line,
    bad_fields,
    bad_line,
    content_too_large,
    headers_too_large,
    invalid,
    read_fields,
    read_head,
    read_line,
    uri_too_long,
)
from flashsale_project.serving.limits import (
    MAX_BODY,
    MAX_CHUNK_LINE,
    MAX_EMPTY_LINES,
    MAX_EXTENSIONS,
    MAX_HEADERS,
    MAX_LINE,
    MAX_TRAILERS,
)

_FRAMING = {b"content-length", b"transfer-encoding", b"host"}

# What cannot become right any more, whatever comes behind it.
_BROKEN_LINE = re.compile(rb"\A[^A-Z]|[^ -~\r]|\r[^\n]")
_BROKEN_FIELDS = re.compile(rb"[^\t\r\n -~\x80-\xff]|\r[^\n]|(?<!\r)\n|\n[ \t]")
_CHUNK_BEGINS = re.compile(rb"[0-9a-fA-F]{0,16}+(?:;" + TEXT + rb"*+)?\r?")
_QUOTED = rb'"(?>(?:[\t !#-\[\]-~\x80-\xff]|\\' + TEXT + rb')*)"'
_CHUNK = re.compile(
    rb"([0-9a-fA-F]{1,16})((?>(?:;" + TOKEN + rb"++(?:=(?:" + TOKEN + rb"++|" + _QUOTED + rb"))?)*))"
)


@dataclass(slots=True)
class Request:
    """A whole request."""

    head: Head
    body: bytes


class Reader:
    """What one connection has sent: bytes in, whole requests out."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._step: Callable[[Reader], bool] = Reader._read_line
        self._seen = 0  # bytes at the beginning that were looked at in vain
        self._empty_lines = 0
        self._at = 0  # where the line ends that fields come behind
        self._line: Line | None = None
        self._head: Head | None = None
        self._body = bytearray()
        self._left = 0
        self._extensions = 0
        self._wants_continue = False
        self._whole: Request | None = None
        self._refusal: BadMessage | None = None

    def feed(self, data: bytes) -> None:
        """Take what has come. After a refusal it counts for nothing."""
        if self._refusal is None:
            self._data += data

    def next(self) -> Request | None:
        """The next whole request, if it is there.

        Raises `BadMessage` where there can be none any more, now and ever after.
        """
        if self._refusal is not None:
            raise self._refusal
        try:
            while self._whole is None:
                if not self._step(self):
                    return None
        except BadMessage as refusal:
            self.refuse(refusal)
            raise
        request, self._whole = self._whole, None
        return request

    def take(self, pattern: "re.Pattern[bytes]", most: int) -> tuple[bytes | None, ...] | None:
        """Take a request that a pattern matches as a whole, in so many bytes at most; return its groups.

        The pattern must match nothing that `next` would read otherwise.
        """
        if self._head is not None or (match := pattern.match(self._data, 0, most)) is None:
            return None
        groups = match.groups()
        del self._data[: match.end()]
        self._begin()
        return groups

    def refuse(self, refusal: BadMessage) -> None:
        """Forget what is there, and raise this from now on."""
        self._refusal = refusal
        self._data.clear()
        self._body.clear()

    @property
    def held(self) -> int:
        """Bytes that are kept here."""
        return len(self._data) + len(self._body)

    @property
    def is_receiving(self) -> bool:
        """Whether a request has begun to come."""
        return bool(self._data) or self._head is not None

    @property
    def is_fresh(self) -> bool:
        """Whether nothing has come since the last request, not even an empty line, and none was refused."""
        return not self._data and self._head is None and not self._empty_lines and self._refusal is None

    def take_expectation(self) -> bool:
        """Whether the client waits for a word before it sends its body; true once for each."""
        wanted, self._wants_continue = self._wants_continue, False
        return wanted

    # --- steps: each returns whether it came to its end

    def _begin(self) -> None:
        self._step = Reader._read_line
        self._seen = self._empty_lines = self._extensions = 0
        self._line = self._head = None

    def _read_line(self) -> bool:
        data = self._data
        while data.startswith(b"\r\n"):
            del data[:2]
            self._empty_lines += 1
            self._seen = 0
            if self._empty_lines > MAX_EMPTY_LINES:
                raise bad_line()
        if not data or data == b"\r":
            return False
        end = data.find(b"\r\n", max(self._seen - 1, 0), MAX_LINE)
        if end < 0:
            if _BROKEN_LINE.search(data, max(self._seen - 1, 0), MAX_LINE):
                raise bad_line()
            if len(data) >= MAX_LINE:
                raise uri_too_long()
            self._seen = len(data)
            return False
        self._line = read_line(bytes(data[:end]))
        self._at = self._seen = end
        self._step = Reader._read_fields
        return True

    def _read_fields(self) -> bool:
        lines = self._lines(MAX_HEADERS)
        if lines is None:
            return False
        assert self._line is not None
        self._head = read_head(self._line, read_fields(lines))
        self._left = self._head.length or 0
        self._wants_continue = self._head.expects_continue
        self._step = Reader._read_chunk_line if self._head.length is None else Reader._read_body
        return True

    def _lines(self, most: int) -> bytes | None:
        """Take all up to the next empty line, and return what stands behind the end of the first line."""
        data = self._data
        begin = max(self._at, self._seen - 3)
        stop = self._at + most + 4
        end = data.find(b"\r\n\r\n", begin, stop)
        if end >= 0:
            lines = bytes(data[self._at + 2 : end + 2])
            del data[: end + 4]
            self._seen = 0
            return lines
        if _BROKEN_FIELDS.search(data, begin, stop):
            raise bad_fields()
        if len(data) >= stop:
            raise headers_too_large()
        self._seen = len(data)
        return None

    def _read_body(self) -> bool:
        self._move()
        return self._left == 0 and self._finish()

    def _read_chunk_line(self) -> bool:
        data = self._data
        end = data.find(b"\r\n", 0, MAX_CHUNK_LINE)
        if end < 0:
            if _CHUNK_BEGINS.fullmatch(data, 0, MAX_CHUNK_LINE) is None:
                raise _bad_chunk()
            if len(data) >= MAX_CHUNK_LINE:
                raise _too_much_beside()
            return False
        match = _CHUNK.fullmatch(data, 0, end)
        if match is None:
            raise _bad_chunk()
        self._left = int(match[1], 16)
        self._extensions += len(match[2])
        if self._extensions > MAX_EXTENSIONS:
            raise _too_much_beside()
        if len(self._body) + self._left > MAX_BODY:
            raise content_too_large()
        if self._left:
            del data[: end + 2]
            self._step = Reader._read_chunk
        else:
            del data[:end]
            self._at = self._seen = 0
            self._step = Reader._read_trailers
        return True

    def _read_chunk(self) -> bool:
        self._move()
        if self._left:
            return False
        end = bytes(self._data[:2])
        if end == b"\r\n":
            del self._data[:2]
            self._step = Reader._read_chunk_line
            return True
        if end not in (b"", b"\r"):
            raise _bad_chunk()
        return False

    def _read_trailers(self) -> bool:
        lines = self._lines(MAX_TRAILERS)
        if lines is None:
            return False
        if any(name in _FRAMING for name, _ in read_fields(lines)):
            raise invalid("A trailer cannot tell where its message ends, or for whom it is.")
        return self._finish()

    def _move(self) -> None:
        """Put into the body what has come of it."""
        piece = self._data[: self._left]
        del self._data[: len(piece)]
        self._body += piece
        self._left -= len(piece)

    def _finish(self) -> bool:
        assert self._head is not None
        self._whole = Request(self._head, bytes(self._body))
        self._body.clear()
        self._wants_continue = False
        self._begin()
        return True


def _too_much_beside() -> BadMessage:
    return BadMessage(431, "headers_too_large", "The extensions of the chunks are too long.")


def _bad_chunk() -> BadMessage:
    return invalid("A chunk of the body is malformed.")
