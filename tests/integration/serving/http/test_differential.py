"""Both lanes give the same answers, byte for byte, to whatever is sent."""

import asyncio
import itertools
from collections.abc import Callable, Iterator

import pytest
import uvloop
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sales.conf import SaleOptions
from sales.connections import connection_info
from sales.models import Sale
from sales.runtime import Runtime
from tests.support.lanes import both

FEW, MANY = 1_000, 60_000
"""Items of the sale of a script, and of that of hundreds of scripts, each of which takes a hundred."""


@pytest.fixture
def items() -> int:
    """Of the sale."""
    return FEW


@pytest.fixture
def lanes(
    items: int, make_sale: Callable[..., Sale], options: SaleOptions, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[list[list[bytes]]], None]]:
    """Compare what both lanes answer to a script (see `both`), with items of its own."""
    monkeypatch.setattr("sales.limits.TICK", 3600)
    make_sale(items=items, user_limit=3)
    numbers = itertools.count(0, 100)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runtime = Runtime(connection_info(), options)
        runner.run(runtime.__aenter__())

        def compare(script: list[list[bytes]]) -> None:
            express, stock = runner.run(both(runtime, script, next(numbers)))
            assert express == stock

        yield compare
        runner.run(runtime.__aexit__(None, None, None))


def request(
    target: str, *headers: str, method: str = "POST", version: str = "HTTP/1.1", body: bytes = b""
) -> bytes:
    """A request; the host comes first."""
    lines = [f"{method} {target} {version}", "Host: localhost", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def browser(target: str, number: int) -> bytes:
    """A request of a browser behind a proxy that marks each."""
    headers = (
        "User-Agent: Mozilla/5.0 (X11)\r\nAccept: */*\r\nContent-Length: 0\r\nConnection: keep-alive\r\n"
        f"Cookie: session={number}\r\nX-Request-ID: {number:032x}\r\nX-Forwarded-For: 198.51.100.{number}"
    )
    return request(target, headers.lower() if number % 2 else headers)


ITEM = "/checkout?user_id={user0}&item_id={item0}"
ANY = "/checkout?user_id={user0}"
BUY = "/purchase?code={code0}"
NOBODY = "/checkout?user_id=7&item_id=99999999"

TRICKY: dict[str, list[list[bytes]]] = {
    "hold and buy": [
        [request(ITEM)],
        [request(BUY)],
        [request(BUY)],
        [request("/checkouts/{code0}", method="GET")],
    ],
    "any item": [[request(ANY)], [request(ANY)], [request(ANY)], [request(ANY)]],
    "upper case code": [
        [request(ANY)],
        [request(BUY.replace("{code0}", "ABCDEFAB-0000-8000-8000-000000000000"))],
    ],
    "pipelined": [[request(ITEM) + request(ITEM) + request("/sale?", method="PUT") + request(ITEM)]],
    "refusal behind a purchase": [
        [request(ITEM)],
        [request(BUY) + request(ITEM) + request(BUY) + request(ITEM)],
    ],
    "stock between hot": [
        [request("/healthz", method="GET") + request(ITEM) + request("/healthz", method="GET") * 2]
    ],
    "hot between stock": [[request(ITEM) + request("/healthz", method="GET") + request(ITEM)]],
    "hundred at once": [[request(ITEM) * 100]],
    "byte by byte": [[bytes([byte]) for byte in request(NOBODY)]],
    "bytes of many": [
        [bytes([b]) for b in request("/purchase?code=00000000-0000-8000-8000-000000000000") * 2]
    ],
    "browsers": [[browser(ITEM, n)] for n in range(4)],
    "browsers at once": [[b"".join(browser(ITEM if n % 3 else NOBODY, n) for n in range(50))]],
    "browsers cut anywhere": [
        [data[:place], data[place:] + data[:9], data[9:]]
        for data in [browser(NOBODY, 1)]
        for place in range(1, len(data))
    ],
    "close": [[request(ITEM, "Connection: close")], [request(ITEM)]],
    "close, more behind": [[request("/healthz", "Connection: close", method="GET") + request("/nothing")]],
    "hot, then close": [[request(ITEM) + request("/healthz", "Connection: close", method="GET")]],
    "keep-alive": [[request(ITEM, "Connection: keep-alive")], [request(ITEM, "connection: Keep-Alive")]],
    "both": [[request(ITEM, "Connection: keep-alive, close")], [request(ITEM)]],
    "1.0": [[request(ITEM, version="HTTP/1.0")], [request(ITEM)]],
    "1.0 keep-alive": [[request(ITEM, "Connection: keep-alive", version="HTTP/1.0")], [request(ITEM)]],
    "2.0": [[request(ITEM, version="HTTP/2.0")]],
    "1.2": [[request(ITEM, version="HTTP/1.2")]],
    "no version": [[b"POST /checkout?user_id=1\r\n\r\n"]],
    "no host": [[b"POST /checkout?user_id={user0} HTTP/1.1\r\n\r\n"]],
    "bare line feeds": [[b"POST /checkout?user_id={user0} HTTP/1.1\nHost: x\n\n"]],
    "line feeds before": [[b"\r\n\r\n" + request(ITEM) + b"\r\n" + request(ITEM)]],
    "body": [[request(ITEM, "Content-Length: 5", body=b"hello") + request(ITEM)]],
    "body in pieces": [[request(ITEM, "Content-Length: 5", body=b"he"), b"ll", b"o" + request(ITEM)]],
    "no body": [[request(ITEM, "Content-Length: 0") + request(ITEM, "content-length: 0")]],
    "zeros": [[request(ITEM, "Content-Length: 00") + request(ITEM)]],
    "upgrade with a body": [
        [
            request(
                *("/healthz", "Connection: Upgrade", "Upgrade: x", "Content-Length: 13"),
                method="GET",
                body=b"GET / HTTP/1.",
            )
            + request(ITEM)
        ]
    ],
    "trailers": [
        [request(ANY, "Transfer-Encoding: chunked", body=b"0\r\nIdempotency-Key: a\r\n\r\n")],
        [request(ANY, "Transfer-Encoding: chunked", body=b"0\r\nIdempotency-Key: a\r\n\r\n")],
    ],
    "broken chunk": [[request(ITEM) + request(ITEM, "Transfer-Encoding: chunked", body=b"ZZZ\r\n")]],
    "underscores": [[request(ITEM, "Content_Length: 5", "Idempotency_Key: a") + request(ITEM)]],
    "empty lines": [[b"\r\n" * n + request(ITEM)] for n in (1, 8, 9)],
    "two lengths": [[request(ITEM, "Content-Length: 0", "Content-Length: 0") + request(ITEM)]],
    "two other lengths": [[request(ITEM, "Content-Length: 0", "Content-Length: 3", body=b"abc")]],
    "bad length": [[request(ITEM, "Content-Length: -1")]],
    "chunked": [[request(ITEM, "Transfer-Encoding: chunked", body=b"3\r\nabc\r\n0\r\n\r\n") + request(ITEM)]],
    "chunked, none": [[request(ITEM, "Transfer-Encoding: chunked", body=b"0\r\n\r\n") + request(ITEM)]],
    "smuggling": [[request(ITEM, "Content-Length: 5", "Transfer-Encoding: chunked", body=b"0\r\n\r\n")]],
    "identity": [[request(ITEM, "Transfer-Encoding: identity")]],
    "expect": [[request(ITEM, "Expect: 100-continue", "Content-Length: 0")]],
    "upgrade": [[request(ITEM, "Connection: Upgrade", "Upgrade: websocket")]],
    "h2c": [[request(ITEM, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: x")]],
    "idempotency": [[request(ITEM, "Idempotency-Key: abc")]],
    "folded": [[request(ITEM, "X-Folded: a\r\n b")]],
    "space before colon": [[request(ITEM, "Accept : x")]],
    "no colon": [[request(ITEM, "Accept")]],
    "empty name": [[request(ITEM, ": x")]],
    "nul": [[request(ITEM, "Accept: a\0b")]],
    "latin-1": [[request(ITEM, "User-Agent: \xe9\xff")]],
    "long value": [[request(ITEM, f"Cookie: {'x' * 5000}")]],
    "many headers": [[request(ITEM, *[f"Accept: {n}" for n in range(50)])]],
    "too much of headers": [[request(ITEM, *[f"X-H{n}: {'x' * 7000}" for n in range(10)])]],
    "too long": [[request("/checkout?user_id=1&x=" + "y" * 9000)]],
    "much too long": [[request("/checkout?user_id=1&x=" + "y" * 70_000)]],
    "charset": [[request(ITEM, "Content-Type: text/plain; charset=utf-16")]],
    "absolute": [[request("http://localhost/checkout?user_id={user0}")]],
    "other methods": [
        [request(ITEM, method=m)] for m in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE")
    ],
    "head": [[request(ITEM, method="HEAD") + request("/sale?", method="POST")]],
    "no method": [[request(ITEM, method="BREW")]],
    "lower case": [[request(ITEM, method="post")]],
    "connect": [[request("localhost:80", method="CONNECT")]],
    "numbers": [
        [request(f"/checkout?user_id={n}&item_id={FEW}"), request(f"/checkout?user_id=5&item_id={n}")]
        for n in (
            "9" * 18,
            "0" * 13 + "60005",
            "0" * 14 + "60005",
            2**63 - 1,
            2**63,
            "9" * 19,
            "9" * 20,
            "0060005",
        )
    ],
    "limit": [[request(f"/checkout?user_id={{user0}}&item_id={{item{n}}}")] for n in range(5)],
    "tls": [[b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"]],
    "nothing": [[b"\r\n"]],
    "rubbish behind": [[request(ITEM) + b"\0\0\0"]],
    "preface": [[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]],
}


@pytest.mark.parametrize("name", TRICKY)
def test_tricky_requests(lanes: Callable[[list[list[bytes]]], None], name: str) -> None:
    lanes(TRICKY[name])


NUMBERS = st.one_of(
    st.sampled_from(
        ["{user0}", "{user1}", "{item0}", "{item1}", "0", "7", "007", "59999", "60000", "1_0", "-1", "+5"]
    ),
    st.sampled_from(
        ["", "%31", "1%20", "٣", "9" * 18, "9" * 19, "9" * 30, "9223372036854775807", "1.0", "1e3", "x"]
    ),
    st.integers(0, 2**64).map(str),
)
NAMES = st.sampled_from(["user_id", "user_id", "item_id", "code", "USER_ID", "user%5Fid", "x", ""])
QUERIES = st.one_of(
    st.sampled_from(
        ["user_id={user0}", "user_id={user0}&item_id={item0}", "item_id={item0}&user_id={user0}"]
    ),
    st.sampled_from(
        ["code={code0}", "code={code1}", "code={code0}&x=1", "code={{code0}}", "code=urn:uuid:{code0}"]
    ),
    st.sampled_from(
        [
            "user_id={user0}#f",
            "user_id={user0}&",
            "&user_id={user0}",
            "user_id={user0};item_id=1",
            "?user_id=1",
        ]
    ),
    st.builds("user_id={}&item_id={}".format, NUMBERS, NUMBERS),
    st.lists(st.builds("{}={}".format, NAMES, NUMBERS), max_size=4).map("&".join),
)
PATHS = st.sampled_from(
    [
        "/checkout",
        "/checkout",
        "/checkout",
        "/purchase",
        "/purchase",
        "/checkout/",
        "//checkout",
        "/%63heckout",
        "/Checkout",
        "/sale%3F",
        "/healthz",
        "/nothing",
        "/checkouts/{code0}",
        "*",
        "/purchase/../checkout",
    ]
)
TARGETS = st.one_of(st.builds("{}?{}".format, PATHS, QUERIES), PATHS)
METHODS = st.sampled_from(["POST"] * 8 + ["GET", "DELETE", "HEAD", "OPTIONS", "post"])
HEADERS = st.lists(
    st.sampled_from(
        [
            "Accept: */*",
            "accept: x",
            "User-Agent: curl",
            "Content-Length: 0",
            "content-length: 0",
            "Connection: keep-alive",
            "Connection: close",
            "X-Other: 1",
            "Cookie: a=b",
            "Expect: 100-continue",
            "Idempotency-Key: k",
            "TE: trailers",
            "Content-Type: application/json",
            "Content-Type: text/plain; charset=utf-7",
            "ACCEPT: x",
            "Upgrade: x",
            "Connection: Upgrade",
            "Content-Type: text/plain",
            "CONTENT-LENGTH: 0",
            "Transfer-Encoding: chunked",
            "X_Y: 1",
            "Host: b",
        ]
    ),
    max_size=4,
)
VERSIONS = st.sampled_from(["HTTP/1.1"] * 8 + ["HTTP/1.0", "HTTP/0.9", "HTTP/1.12"])
REQUESTS = st.builds(
    lambda target, headers, method, version: request(
        target, *headers, method=method, version=version
    ).replace("٣".encode("latin-1", "replace"), b"\xd9\xa3"),
    TARGETS.map(lambda target: target.encode().decode("latin-1")),
    HEADERS,
    METHODS,
    VERSIONS,
)


@st.composite
def mutilated(draw: st.DrawFn) -> bytes:
    """A request with a few bytes changed, lost or added."""
    data = bytearray(draw(REQUESTS))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(data) - 1))
        what = draw(st.sampled_from(["change", "lose", "add"]))
        if what == "lose":
            del data[place]
        else:
            byte = draw(st.one_of(st.integers(0, 255), st.sampled_from(list(b"\r\n :?&=%\0"))))
            data[place : place + (what == "change")] = bytes([byte])
        if not data:
            break
    return bytes(data)


@st.composite
def scripts(draw: st.DrawFn) -> list[list[bytes]]:
    """Some steps of some requests, cut into chunks anywhere but inside of a placeholder."""
    script = []
    for _ in range(draw(st.integers(1, 4))):
        data = b"".join(
            draw(st.lists(st.one_of(REQUESTS, REQUESTS, REQUESTS, mutilated()), min_size=1, max_size=4))
        )
        cuts = draw(st.lists(st.integers(0, len(data)), max_size=3)) if b"{" not in data else []
        places = [0, *sorted(cuts), len(data)]
        script.append([data[a:b] for a, b in itertools.pairwise(places)])
    return script


@pytest.mark.parametrize("items", [MANY])
@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)
@given(script=scripts())
def test_whatever_is_sent(
    items: int, lanes: Callable[[list[list[bytes]]], None], script: list[list[bytes]]
) -> None:
    lanes(script)
