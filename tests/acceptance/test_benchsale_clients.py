"""The crowd of benchsale against services that are not what they should be, and its references."""

import asyncio
import contextlib
import http.client
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from flashsale_project.benchmark.crowd import GREETING, Crowd
from flashsale_project.benchmark.loads import EachItemOnce, OpenLoop, RandomItems
from flashsale_project.benchmark.references import Reference
from flashsale_project.benchmark.wrk import is_installed, race_with_wrk, run_wrk
from sales.refusals import ITEM_SOLD
from sales.views import refused
from tests.support.waiting import DEADLINE

Answer = Callable[[int, bytes], Awaitable[bytes | None]]


CODE = b"00000040-0072-80d2-8b06-7bc5baa26c1e"


def response(status: int, body: bytes = b"") -> bytes:
    return b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body)


@contextlib.asynccontextmanager
async def stub(answer: Answer) -> AsyncIterator[int]:
    """A service whose nth answer, to this request, is this; ``None`` closes the connection."""
    numbers = itertools.count()
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while request := await reader.readuntil(b"\r\n\r\n"):
                if request == GREETING:
                    writer.write(response(400))
                    continue
                if (data := await answer(next(numbers), request)) is None:
                    break
                writer.write(data)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
    await asyncio.gather(*serving)


async def against(answer: Answer, crowd: Crowd, connections: int = 1) -> Crowd:
    """Run a crowd against a stub."""
    async with stub(answer) as port:
        await crowd.connect(port, connections)
        assert await crowd.run(DEADLINE)
        for connection in crowd.connections:
            connection.transport.abort()
    return crowd


async def test_an_open_loop_counts_from_intended_times() -> None:
    stall = 0.5

    async def answer(number: int, request: bytes) -> bytes:
        await asyncio.sleep(stall if number == 0 else 0)
        return response(409)

    crowd = await against(answer, OpenLoop(items=10, rate=100, seconds=0.2))
    latencies = crowd.latencies["refusal"]
    assert len(latencies) == 20
    # All came while the first one was waiting on the only connection, 10 ms after each other.
    for number, seconds in enumerate(latencies):
        assert seconds >= stall - number * 0.01 - 0.02
    assert crowd.unanswered == 0


async def test_a_closed_loop_does_not_charge_who_did_not_ask() -> None:
    async def answer(number: int, request: bytes) -> bytes:
        await asyncio.sleep(0.3 if number == 0 else 0.1)
        return response(409)

    crowd = await against(answer, RandomItems(items=10, seconds=2))
    first, *others = crowd.latencies["refusal"]
    assert first >= 0.28
    assert others


async def test_codes_are_bought_next_and_the_last_question_is_whether_it_is_sold_out() -> None:
    answers = [
        *(response(200, CODE), response(200, b"purchased")),
        *(response(409, b'{"reason": "item_held"}'), response(200, CODE), response(200, b"purchased")),
        *(response(409, b'{"reason": "all_held"}'), response(409, b'{"reason": "sold_out"}')),
    ]

    async def answer(number: int, request: bytes) -> bytes:
        return answers[number]

    crowd = await against(answer, EachItemOnce(2))
    assert isinstance(crowd, EachItemOnce)
    assert crowd.told_sold_out
    assert (crowd.codes, crowd.bought) == ([CODE] * 2, [CODE] * 2)
    assert [len(crowd.latencies[kind]) for kind in ("checkout", "purchase", "refusal")] == [2, 2, 3]
    assert crowd.connections[0].answers == len(answers)


async def test_failures_and_closed_connections_are_counted() -> None:
    answers = [response(503), response(500), response(200, b"what?"), response(409) * 2]

    async def answer(number: int, request: bytes) -> bytes | None:
        return answers[number] if number < len(answers) else None

    crowd = await against(answer, RandomItems(items=10, seconds=DEADLINE), connections=2)
    assert crowd.failed == {503: 1, 500: 1, 200: 1}
    assert [error[:23] for error in crowd.errors] == ["More than one answer to"]
    assert crowd.resets == 2
    assert crowd.unanswered == 0


async def test_a_connection_that_is_closed_before_the_start_is_asked_nothing() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response(400))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        crowd = RandomItems(items=10, seconds=DEADLINE)
        await crowd.connect(server.sockets[0].getsockname()[1], 2)
        async with asyncio.timeout(DEADLINE):
            while crowd.open:  # noqa: ASYNC110
                await asyncio.sleep(0)
        assert await crowd.run(DEADLINE)
    assert [connection.answers for connection in crowd.connections] == [0, 0]
    assert (crowd.resets, crowd.unanswered) == (0, 0)


async def test_connections_that_are_refused_are_counted() -> None:
    async def answer(number: int, request: bytes) -> None:
        raise AssertionError

    async with stub(answer) as port:
        pass
    crowd = EachItemOnce(5)
    await crowd.connect(port, 3)
    assert crowd.connect_errors == 3
    assert await crowd.run(DEADLINE)
    assert not crowd.told_sold_out


@pytest.mark.skipif(not is_installed(), reason="needs wrk")
async def test_wrk_buys_every_code_that_it_gets_once() -> None:
    codes = [CODE[:-2] + b"%02d" % number for number in range(20)]
    unsold = list(codes)
    wanted = []

    async def answer(number: int, request: bytes) -> bytes:
        target = request.split(b" ")[1]
        if target.startswith(b"/checkout?user_id="):
            assert 0 <= int(target.partition(b"&item_id=")[2]) < 7
            return response(200, unsold.pop()) if unsold else response(409)
        wanted.append(target.removeprefix(b"/purchase?code="))
        return response(503 if len(wanted) == 1 else 200, b"purchased")

    async with stub(answer) as port:
        traffic = await asyncio.to_thread(run_wrk, port=port, connections=3, items=7, seconds=1)
    assert sorted(wanted) == codes
    assert (traffic.held, traffic.bought, traffic.failed, traffic.connection_errors) == (20, 19, 1, 0)
    assert traffic.answers == traffic.held + traffic.bought + traffic.failed + traffic.refused
    assert traffic.refused > 0
    assert traffic.seconds >= 1
    assert traffic.latency.count == traffic.answers
    assert traffic.latency.p50 is not None


@pytest.mark.skipif(not is_installed(), reason="needs wrk")
async def test_wrk_has_new_heads_for_each_request_where_it_is_to() -> None:
    heads = []

    async def answer(number: int, request: bytes) -> bytes:
        heads.append(request.partition(b"\r\n")[2])
        return response(409)

    async with stub(answer) as port:
        for kind in ("same", "new"):
            heads.clear()
            await asyncio.to_thread(run_wrk, port=port, connections=2, items=7, seconds=1, heads=kind)
            kinds = len(set(heads))
            assert kinds == 1 if kind == "same" else kinds > 0.99 * len(heads)  # they are drawn
    assert {line.split(b":")[0] for line in heads[-1].split(b"\r\n") if line} == {
        *(b"Host", b"X-Request-ID", b"X-Forwarded-For", b"Cookie")
    }


@pytest.mark.skipif(not is_installed(), reason="needs wrk")
async def test_the_race_of_wrk_asks_for_each_item_once_and_ends_when_all_are_bought() -> None:
    asked: list[int] = []
    codes = {item: CODE[:-2] + b"%02d" % item for item in range(5, 25)}
    bought = []

    async def answer(number: int, request: bytes) -> bytes:
        target = request.split(b" ")[1]
        if target.startswith(b"/purchase?code="):
            bought.append(target.removeprefix(b"/purchase?code="))
            return response(200, b"purchased")
        user, _, item = target.removeprefix(b"/checkout?user_id=").partition(b"&item_id=")
        if user == b"0":  # nobody, who asks once nothing is left
            return response(409)
        asked.append(int(item))
        return response(200, codes[int(item)])

    ends = []
    async with stub(answer) as port:
        outcome = await asyncio.to_thread(
            race_with_wrk,
            port=port,
            connections=3,
            items=range(5, 25),
            seconds=DEADLINE,
            after=lambda: ends.append(len(bought)),
        )
    assert sorted(asked) == list(range(5, 25))
    assert asked != sorted(asked)
    assert sorted(bought) == sorted(codes.values())
    assert (outcome.held, outcome.bought, outcome.failed, ends) == (20, 20, 0, [20])
    assert 0 < outcome.seconds < DEADLINE


def test_a_bare_function_lets_a_race_end() -> None:
    with Reference("open") as running:
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=DEADLINE)
        for target, expected in [
            ("/checkout?user_id=1&item_id=1", 200),
            (f"/purchase?code={CODE.decode()}", 200),
            ("/checkout?user_id=1", 409),
            ("/checkout?user_id=0&item_id=1", 409),
        ]:
            connection.request("POST", target)
            answer = connection.getresponse()
            answer.read()
            assert (target, answer.status) == (target, expected)
        connection.close()


@pytest.mark.parametrize("name", ["bare", "stock"])
def test_a_reference_sends_what_the_service_sends(name: str) -> None:
    expected = refused(ITEM_SOLD)
    with Reference(name) as running:
        assert running.cpu_seconds() > 0
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=DEADLINE)
        connection.request("POST", "/checkout?user_id=1&item_id=1")
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (409, expected.content)
        assert {header.lower() for header, _ in answer.getheaders()} == {
            *("date", "server", "content-type", "content-length")
        }
        assert answer.headers["content-type"] == expected["Content-Type"]
        connection.close()
