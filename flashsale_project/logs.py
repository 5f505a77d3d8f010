"""The form of the log: a line for each record, as text for people or as JSON for programs.

An event is logged with its stable name as the message, and its facts as fields:
``logger.info("sale.started", extra={"fields": {"sale_id": 3}})``. All other records have a message only.
"""

import json
import logging
import os
import re
import sys
import traceback
from datetime import UTC, datetime
from typing import Any, TextIO

MAX_TEXT = 2_000
"""Characters of a message or of a field. Both may hold what a client sent: no line grows with it."""

MAX_TRACEBACK = 8_000
"""Characters of an exception with its traceback; the middle is left out of longer ones."""

UNQUOTED = re.compile(r"[\w.:/@+-]+")
"""A value that needs no quotation marks in a line of text."""


class TextFormatter(logging.Formatter):
    """``2026-11-21 15:00:00,000 INFO sale.started sale_id=3 items=10000``

    A traceback follows, indented, so that no line of it can be taken for a record.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Called by logging."""
        text = f"{self.formatTime(record)} {record.levelname} "
        fields = _fields(record)
        if fields is None:
            text += f"{record.name}[{record.process}]: {_message(record)}"
        else:
            text += " ".join([_message(record), *(f"{name}={_quoted(it)}" for name, it in fields.items())])
        return "\n  ".join([text, *(_printable(line) for line in _exception(record).splitlines())])


class JsonFormatter(logging.Formatter):
    """An object on one line: ``time``, ``level``, ``logger``, ``process``, then ``event`` and its fields or
    ``message``, and ``exception`` where there was one."""

    def format(self, record: logging.LogRecord) -> str:
        """Called by logging."""
        fields = _fields(record)
        document: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "message" if fields is None else "event": _message(record),
        }
        for name, value in (fields or {}).items():
            document[name] = value if isinstance(value, int | float | None) else _cut(str(value))
        if exception := _exception(record):
            document["exception"] = exception
        return json.dumps(document)


class Handler(logging.StreamHandler[TextIO]):
    """Writes to standard error; on a terminal over the status line of `runsale`, which is drawn again."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self._start = "\r\x1b[K" if is_terminal(sys.stderr) else ""

    def format(self, record: logging.LogRecord) -> str:
        """Called by logging."""
        return self._start + super().format(record)


def is_terminal(stream: Any) -> bool:
    """Whether what was written to it can be written over."""
    return stream is not None and bool(stream.isatty()) and os.environ.get("TERM", "dumb") != "dumb"


def _fields(record: logging.LogRecord) -> dict[str, Any] | None:
    """The facts of an event; ``None`` for all other records."""
    fields: dict[str, Any] | None = getattr(record, "fields", None)
    return fields


def _message(record: logging.LogRecord) -> str:
    """The message on one line, whatever it holds."""
    lines = (line.strip() for line in record.getMessage().splitlines())
    return _cut(_printable(" / ".join(line for line in lines if line)))


def _exception(record: logging.LogRecord) -> str:
    if not record.exc_info or record.exc_info[1] is None:
        return ""
    text = "".join(traceback.format_exception(record.exc_info[1])).rstrip()
    if len(text) > MAX_TRACEBACK:
        text = f"{text[: MAX_TRACEBACK // 2]}\n…\n{text[-MAX_TRACEBACK // 2 :]}"
    return text


def _quoted(value: object) -> str:
    text = _cut(str(value))
    return text if UNQUOTED.fullmatch(text) else json.dumps(_printable(text), ensure_ascii=False)


def _printable(text: str) -> str:
    """What could move a terminal's cursor, or end the line, as its escape sequence."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"
