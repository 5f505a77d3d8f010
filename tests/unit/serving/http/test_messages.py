"""Requests out of bytes, compared with what h11 makes of them, and cut at every byte."""

import pytest
from hypothesis import HealthCheck, given, settings

from flashsale_project.serving.http.heads import BadMessage
from flashsale_project.serving.http.messages import Reader
from flashsale_project.serving.limits import (
    MAX_BODY,
    MAX_CHUNK_LINE,
    MAX_FIELDS,
    MAX_HEADERS,
    MAX_LINE,
    MAX_TARGET,
    MAX_TRAILERS,
)
from tests.unit.serving.http.h11_reader import assert_as_h11, ours
from tests.unit.serving.http.streams import STREAMS

MANY = settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
SOME = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


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
