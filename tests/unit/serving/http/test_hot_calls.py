"""The express lane's expression: it says only which way a request takes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashsale_project.serving.http.hot import HOT
from flashsale_project.serving.http.messages import Reader
from flashsale_project.serving.limits import MAX_FIELDS
from tests.unit.serving.http.h11_reader import ours, value
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
    [message], refusal, rest, _ = ours([data + behind])
    assert (message.method, message.version, message.body) == (b"POST", b"1.1", b"")
    assert b"%s" % message.target == line.split(" ")[1].encode()
    assert refusal in (None, (400, "invalid_request"))
    assert rest == len(behind) or refusal is not None
    careful = {b"idempotency-key", b"expect", b"transfer-encoding"}
    assert not careful & {name for name, _ in message.headers}
    assert value(message, b"content-length") in (b"", b"0")
    assert set(value(message, b"connection").lower().split(b",")) in ({b""}, {b"keep-alive"})


@pytest.mark.parametrize("number", [MAX_FIELDS - 1, MAX_FIELDS, 500])
def test_the_lane_has_no_more_headers_than_the_reader(number: int) -> None:
    data = b"POST /checkout?user_id=1 HTTP/1.1\r\nHost: h\r\n" + b"A: b\r\n" * number + b"\r\n"
    assert HOT.fullmatch(data) is None


def test_ordinary_heads_are_for_the_lane() -> None:
    browser = (
        "Accept: */*\r\nUser-Agent: Mozilla/5.0 (X11)\r\nCookie: a=b; c=d\r\nTE: trailers\r\n"
        "Content-Type: application/json\r\nContent-Length: 0\r\nConnection: keep-alive\r\nTE: trailers\r\n"
    )
    for host in "Host: shop.example\r\n", "host: 127.0.0.1:8080\r\n", "HOST: a_b\r\n":
        for headers in host, host + browser, browser + host, (host + browser).lower():
            head = f"POST /checkout?user_id=1 HTTP/1.1\r\n{headers}\r\n".encode()
            assert HOT.fullmatch(head) is not None
