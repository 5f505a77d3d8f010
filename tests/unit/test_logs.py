"""The two forms of the log."""

import json
import logging
import sys
from datetime import datetime
from types import TracebackType
from typing import Any

import pytest

from flashsale_project.logs import MAX_TEXT, MAX_TRACEBACK, JsonFormatter, TextFormatter

TEXT, JSON = TextFormatter(), JsonFormatter()
STAMP = "2026-11-21 15:00:00,125"

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]


def record(message: str, *args: object, exc_info: ExcInfo | None = None, **fields: Any) -> logging.LogRecord:
    """A record of a fixed moment, of an event where there are fields."""
    made = logging.LogRecord("sales.runtime", logging.INFO, "", 0, message, args, exc_info)
    made.created = datetime.fromisoformat(STAMP).timestamp()  # this process's own time zone, as logging does
    made.msecs, made.process = 125, 7
    if fields:
        made.fields = fields
    return made


def failure(text: str, depth: int = 0) -> ExcInfo:
    """An exception from so many calls down."""

    def fail(depth: int) -> None:
        if depth:
            fail(depth - 1)
        raise ValueError(text)

    try:
        fail(depth)
    except ValueError as error:
        return ValueError, error, error.__traceback__
    raise AssertionError


def test_an_event_is_its_name_and_its_fields() -> None:
    event = record("sale.started", sale_id=3, items=10_000)
    assert TEXT.format(event) == f"{STAMP} INFO sale.started sale_id=3 items=10000"
    document = json.loads(JSON.format(event))
    assert datetime.fromisoformat(document.pop("time")).timestamp() == pytest.approx(event.created)
    assert document == {
        "level": "INFO",
        "logger": "sales.runtime",
        "process": 7,
        "event": "sale.started",
        "sale_id": 3,
        "items": 10_000,
    }


def test_any_other_record_is_a_message() -> None:
    message = record("%d of %s", 2, "them")
    assert TEXT.format(message) == f"{STAMP} INFO sales.runtime[7]: 2 of them"
    document = json.loads(JSON.format(message))
    assert document["message"] == "2 of them"
    assert "event" not in document


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        (1.5, "1.5"),
        (True, "True"),
        (None, "None"),
        ("", '""'),
        ("two words", '"two words"'),
        ('a"b', '"a\\"b"'),
        ("a=b", '"a=b"'),
        ("ü", "ü"),
    ],
)
def test_a_field_is_quoted_where_it_would_not_be_one_word(value: object, text: str) -> None:
    assert TEXT.format(record("it", of=value)) == f"{STAMP} INFO it of={text}"
    assert json.loads(JSON.format(record("it", of=value)))["of"] == value


HOSTILE = [
    "first\n2026-11-21 15:00:00,000 INFO sale.sold_out sale_id=3",
    "\r\x1b[2K\x1b[1A",
    "a\u2028b\u2029c\x85d",
    "\udc80",
    "\u202e",
    "x" * 1_000_000,
    "\n" * 1_000_000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_what_a_client_sends_neither_ends_a_line_nor_makes_it_grow(text: str) -> None:
    for made in (record("%s", text), record("it", of=text)):
        for form in (TEXT, JSON):
            line = form.format(made)
            assert line.isprintable()
            assert len(line) < 7 * MAX_TEXT
            line.encode()


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_an_exception_follows_its_line_and_cannot_look_like_one(text: str) -> None:
    first, *others = TEXT.format(record("it failed", exc_info=failure(text))).split("\n")
    assert first.endswith("it failed")
    assert others[0] == "  Traceback (most recent call last):"
    assert all(line.startswith("  ") and line.isprintable() for line in others)
    assert sum(map(len, others)) < 7 * MAX_TRACEBACK


def test_an_exception_is_one_field_of_json() -> None:
    line = JSON.format(record("it failed", exc_info=failure("this\nand that")))
    assert "\n" not in line
    exception = json.loads(line)["exception"]
    assert exception.startswith("Traceback (most recent call last):\n")
    assert exception.endswith("ValueError: this\nand that")


def test_a_long_traceback_keeps_its_beginning_and_its_end() -> None:
    depth = sys.getrecursionlimit() // 2
    text = json.loads(JSON.format(record("it failed", exc_info=failure("x" * 6_000, depth))))["exception"]
    assert len(text) <= MAX_TRACEBACK + 10
    assert text.startswith("Traceback (most recent call last):\n")
    assert text.endswith("xxx")
