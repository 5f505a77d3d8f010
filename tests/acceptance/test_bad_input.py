"""Bad input through a real socket: a clear refusal, nothing touched, no neighbour harmed."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from uuid import UUID, uuid4

import pytest

from sales.codes import new_code
from tests.support.client import Answer, Client
from tests.support.service import MakeService, Service

NEW = "a5f1c2d4-7e36-4b8a-9c0d-1e2f3a4b5c6d"


@pytest.fixture(autouse=True)
def untouched(service: Service) -> Iterator[None]:
    """None of these tests leaves a trace in the rows of the shared sale."""
    yield
    assert service.sql("SELECT item_id, state FROM sales_saleitem WHERE state <> 'available'") == []


@pytest.fixture
async def client(service: Service) -> AsyncIterator[Client]:
    async with Client(service.port) as client:
        yield client


CHECKOUTS = [
    "",
    "?",
    "?user_id",
    "?user_id=",
    "?user_id=%20",
    "?item_id=5",
    "?user_id=1&user_id=1",
    "?user_id=1&user_id=2",
    "?user_id=1&item_id=5&item_id=5",
    "?user_id=-1",
    "?user_id=+1",
    "?user_id=9223372036854775808",
    "?user_id=" + "9" * 100,
    "?user_id=" + "0" * 30,
    "?user_id=1.0",
    "?user_id=1e3",
    "?user_id=0x10",
    "?user_id=1_000",
    "?user_id=null",
    "?user_id=%D9%A3",
    "?user_id=%00",
    "?user_id=1%00",
    "?user_id=%ff",
    "?user_id=%",
    "?user_id=1;item_id=5",
    "?user_id=1&item_id=",
    "?user_id=1&item_id=-1",
    "?user_id=1&item_id=100",
    "?user_id=1&item_id=100000000000000000000",
    "?user_id=1&item_id=9223372036854775807",
    "?user_id=1&item_id=1e3",
    "?user_id=1&item_id=%D9%A3",
    "?user_id=1&item_id=%00",
    "?user_id=1&item_id=5%0A",
    "?user_id=1&item_id=abc",
    "?USER_ID=1",
    "?" + "&".join(f"x{n}" for n in range(1200)) + "&user_id=1",
]


@pytest.mark.parametrize("query", CHECKOUTS)
async def test_a_wrong_checkout_is_refused_with_its_reason(client: Client, query: str) -> None:
    answer = await client.post("/checkout" + query)
    assert (answer.status, answer.reason) == (400, "invalid_parameter")
    assert answer.json["detail"]


async def test_bytes_that_are_no_text_are_refused(client: Client) -> None:
    answer = await client.send(b"POST /checkout?user_id=\xd9\xa3 HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.status == 400


CODES = [
    "",
    "?code",
    "?code=",
    "?code=abc",
    "?code=" + "0" * 32,
    f"?code={{{NEW}}}",
    f"?code={NEW}&code={NEW}",
]
CODES += [
    f"?code={NEW}%00",
    f"?code=%20{NEW}",
    f"?code={NEW[:-1]}",
    f"?code={NEW[:-1]}g",
    "?code=" + "a" * 5000,
]


@pytest.mark.parametrize("query", CODES)
async def test_a_malformed_code_is_refused(client: Client, query: str) -> None:
    answer = await client.post("/purchase" + query)
    assert (answer.status, answer.reason) == (400, "invalid_parameter")


async def test_an_unknown_code_is_refused_everywhere(client: Client) -> None:
    unknown = [
        uuid4(),
        UUID(int=0),
        UUID(int=2**128 - 1),
        new_code(1, 5),
        new_code(999, 5),
        new_code(1, 10**6),
    ]
    for code in unknown:
        for answer in (
            await client.post(f"/purchase?code={code}"),
            await client.get(f"/checkouts/{code}"),
            await client.request("DELETE", f"/checkouts/{code}"),
        ):
            assert (answer.status, answer.reason) == (409, "unknown_code")


async def test_a_code_altered_in_one_digit_is_unknown(service: Service, client: Client) -> None:
    code = (await client.post("/checkout?user_id=1")).text
    try:
        for place in range(36):
            if code[place] != "-":
                altered = code[:place] + ("0" if code[place] != "0" else "1") + code[place + 1 :]
                answer = await client.post(f"/purchase?code={altered}")
                assert (answer.status, answer.reason) == (409, "unknown_code")
        assert (await client.get(f"/checkouts/{code}")).json["state"] == "held"
    finally:
        assert (await client.request("DELETE", f"/checkouts/{code}")).status == 204


@pytest.mark.parametrize(
    "path", ["/checkouts/", "/checkouts/abc", f"/checkouts/{NEW}x", "/sales/x", "/sales/-1"]
)
async def test_a_malformed_path(client: Client, path: str) -> None:
    answer = await client.get(path)
    assert (answer.status, answer.reason) in ((400, "invalid_parameter"), (404, "not_found"))


@pytest.mark.parametrize(
    "path",
    ["/", "/checkout/", "/purchases", "/sale/", "//checkout", "/%00", "/../sale", "/static/../../etc/passwd"],
)
async def test_paths_that_are_not_there(client: Client, path: str) -> None:
    answer = await client.post(path + "?user_id=1")
    assert (answer.status, answer.reason) == (404, "not_found")


@pytest.mark.parametrize("path", ["/sales/0", "/sales/999999", f"/sales/{2**63 - 1}"])
async def test_a_sale_that_is_not_there(client: Client, path: str) -> None:
    answer = await client.get(path)
    assert (answer.status, answer.reason) == (409, "no_sale")


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/checkout?user_id=1", "POST"),
        ("/purchase?code=" + NEW, "POST"),
        (f"/checkouts/{NEW}", "DELETE, GET, HEAD"),
        ("/sale", "GET, HEAD"),
        ("/healthz", "GET, HEAD"),
    ],
)
async def test_a_wrong_method_is_told_the_right_ones(client: Client, path: str, allow: str) -> None:
    for method in ("GET", "PUT", "PATCH", "POST", "OPTIONS", "DELETE"):
        if method not in allow:
            answer = await client.request(method, path)
            assert (answer.status, answer.reason) == (405, "method_not_allowed")
            assert answer.headers["allow"] == allow


async def test_head_is_get_without_its_body(client: Client) -> None:
    answer = await client.request("HEAD", "/sale")
    assert (answer.status, answer.body) == (200, b"")
    assert (await client.get("/healthz")).text == "ok"


async def test_a_target_that_is_too_long(client: Client) -> None:
    for size in (8_200, 30_000, 33_000, 100_000):
        answer = await client.post("/checkout?user_id=1&x=" + "a" * size)
        assert (answer.status, answer.reason) == (414, "uri_too_long")
    assert (await client.get("/healthz")).status == 200


async def test_a_megabyte_of_target_kills_nobody(service: Service, client: Client) -> None:
    async with Client(service.port) as other:
        with contextlib.suppress(ConnectionError):  # it may be closed before all of it is sent
            answer = await other.post("/checkout?user_id=1&x=" + "a" * 1_000_000)
            assert (answer.status, answer.reason) == (414, "uri_too_long")
    assert (await client.get("/healthz")).status == 200


async def test_headers_that_are_too_long(client: Client) -> None:
    answer = await client.request("GET", "/healthz", "".join(f"X-{n}: {'a' * 900}\r\n" for n in range(100)))
    assert (answer.status, answer.reason) == (431, "headers_too_large")
    assert (await client.get("/healthz")).status == 200


async def test_unknown_parameters_are_ignored(client: Client) -> None:
    held = await client.post("/checkout?a=1&user_id=1&b=2&a=3&c")
    assert held.status == 200
    assert (await client.request("DELETE", f"/checkouts/{held.text}?x=1")).status == 204


async def test_a_body_nobody_asked_for_is_ignored(client: Client) -> None:
    for headers, body in (
        ("Content-Length: 9\r\n", b"user_id=7"),
        ("Content-Length: 200000\r\n", b"x" * 200_000),
        ("Transfer-Encoding: chunked\r\n", b"4\r\nabcd\r\n0\r\n\r\n"),
        ("Content-Type: application/json\r\nContent-Length: 2\r\n", b"{}"),
        ("Content-Type: multipart/form-data\r\nContent-Length: 3\r\n", b"bad"),
    ):
        answer = await client.request("POST", "/checkout?user_id=1&item_id=5", headers, body)
        assert answer.status == 200, answer
        assert (await client.request("DELETE", f"/checkouts/{answer.text}")).status == 204


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\r\n\r\n\x00\xff",
        b"GET\r\n\r\n",
        b"POST /checkout?user_id=1 HTTP/9.9\r\n\r\n",
        b"POST /checkout?user_id=1 HTTP/1.1\r\n\r\n",
        b"POST /checkout?user_id=1 HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"POST /checkout?user_id=1 RTSP/1.0\r\nHost: x\r\n\r\n",
        b"POST /checkout?user_id=1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n",
        b"POST /checkout?user_id=1 HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /checkout?user_id=1 HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST /checkout user_id=1 HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
async def test_what_is_not_http_ends_its_connection_only(
    service: Service, client: Client, nonsense: bytes
) -> None:
    assert (await client.get("/healthz")).status == 200
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(nonsense)
    writer.write_eof()
    received = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    assert received.count(b"HTTP/1.1 ") == 1
    assert b'"reason": "invalid_request"' in received
    assert (await client.get("/healthz")).status == 200


async def test_the_smallest_and_the_largest_user_work_to_the_end(make_service: MakeService) -> None:
    own = make_service(items=5, workers=1).start()
    async with Client(own.port) as client:
        for user_id in ("0", str(2**63 - 1), "007"):
            code = (await client.post(f"/checkout?user_id={user_id}")).text
            assert (await client.get(f"/checkouts/{code}")).json["user_id"] == int(user_id)
            assert (await client.post(f"/purchase?code={code}")).text == "purchased"
    result = own.manage("verifysale")
    assert result.returncode == 0, result.stdout
    assert own.stop() == 0


async def test_bad_neighbours_do_not_harm_a_batch(make_service: MakeService) -> None:
    """Good and bad requests at the same time, on one worker, so that they share batches."""
    own = make_service(items=200, workers=1).start()

    async def call(target: str) -> Answer:
        async with Client(own.port) as client:
            return await client.post(target)

    bad = [
        "?user_id=9223372036854775808",
        "?user_id=1&item_id=200",
        "?user_id=1&user_id=2",
        "?user_id=3&item_id=x",
    ]
    answers = await asyncio.gather(
        *(call(f"/checkout?user_id={n}") for n in range(100)),
        *(call("/checkout" + bad[n % len(bad)]) for n in range(100)),
    )
    assert [answer.status for answer in answers] == [200] * 100 + [400] * 100
    answers = await asyncio.gather(
        *(call(f"/purchase?code={answer.text}") for answer in answers[:100]),
        *(call(f"/purchase?code={new_code(1, n)}") for n in range(100)),
    )
    assert [answer.status for answer in answers] == [200] * 100 + [409] * 100
    assert own.stop() == 0
