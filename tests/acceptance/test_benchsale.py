"""benchsale as its user runs it, and its crowd against services that are not what they should be."""

import asyncio
import contextlib
import http.client
import itertools
import json
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from django.db import connection

from flashsale_project.benchmark.books import read_books
from flashsale_project.benchmark.crowd import GREETING, Crowd, EachItemOnce, OpenLoop, RandomItems
from flashsale_project.benchmark.references import Reference
from flashsale_project.benchmark.verdict import problems_of_sell_out
from flashsale_project.benchmark.wrk import is_installed, run_wrk
from sales import services
from sales.models import Sale
from sales.refusals import ITEM_SOLD
from sales.runtime import Runtime
from sales.views import refused
from tests.support.processes import WORKER, told_of
from tests.support.service import clean_environment, launch
from tests.support.waiting import DEADLINE, START, wait_for
from tests.unit.benchmark.test_benchmark import OUTCOME

SMALL = ["--items", "200", "--connections", "8", "--workers", "1", "--seconds", "1", "--lanes", "express"]


@pytest.fixture
def directory() -> Iterator[Path]:
    """One for the temporary files of a run, which the account of the database can enter."""
    path = Path(tempfile.mkdtemp(prefix="benchsale-tests-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def start(directory: Path, *arguments: str) -> "subprocess.Popen[str]":
    """Run the command with its temporary files in this directory."""
    (directory / "tmp").mkdir(mode=0o755)
    return launch(
        *("benchsale", *SMALL, "--client", "builtin", *arguments),
        env=clean_environment(directory) | {"TMPDIR": str(directory / "tmp")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_small_run_measures_everything(directory: Path) -> None:
    document, drawing = directory / "results.json", directory / "chart.svg"
    process = start(directory, "--json", str(document), "--svg", str(drawing))
    stdout, stderr = process.communicate(timeout=4 * START)
    assert (process.returncode, stderr) == (0, ""), stdout
    found = json.loads(document.read_text())
    assert found["ok"] is True
    assert found["options"]["items"] == 200
    assert found["machine"]["cpus"] >= 1
    assert set(found["machine"]["packages"]) == {"django", "uvicorn", "uvloop", "httptools", "psycopg"}

    (shape,) = found["configurations"]
    assert shape["database"]["settings"]["fsync"] == "on"
    assert shape["database"]["settings"]["synchronous_commit"] == "on"
    assert (shape["lane"], shape["workers"], shape["connections"]) == ("express", 1, 8)
    assert shape["problems"] == []
    sell_out = shape["sell_out"]
    assert sell_out["bought"] == 200
    assert sell_out["sales_rate"] == pytest.approx(200 / sell_out["seconds"])
    assert sell_out["answer_rate"] == pytest.approx(400 / sell_out["seconds"])
    assert sell_out["client_cpu"] > 0
    for part in (sell_out, shape["random_items"]):
        for kind in ("checkouts", "purchases"):
            assert_ordered(part["latency"][kind], 200)
    for cpu in (sell_out["cpu"], shape["sold_out"]["cpu"]):
        assert cpu["workers"] > 0
        assert cpu["postgres"] >= 0
    assert shape["sold_out"]["client"] == "builtin"
    assert shape["sold_out"]["refusal_rate"] > 0
    assert_ordered(shape["sold_out"]["latency"])
    (memory,) = shape["memory"]
    assert 10 < memory["pss"] <= memory["rss"] < 1000
    random_items = shape["random_items"]
    assert random_items["bought"] == 200
    assert 0 < random_items["bought_99_percent_after"] <= random_items["bought_last_after"]
    assert shape["mixed"] is None  # that is for wrk
    open_loop = shape["open_loop"]
    assert (open_loop["rate"], open_loop["connections"]) == (2000, 8)
    assert_ordered(open_loop["sending_lag"], 2000)
    answers = [open_loop["latency"][kind]["count"] for kind in ("checkouts", "purchases", "refusals")]
    assert sum(answers) == 2000

    assert [run["name"] for run in found["references"]] == ["bare", "stock"] * 2
    for run in found["references"]:
        assert run["problems"] == []
        assert run["traffic"]["refused"] > 0
        assert run["cpu"] > 0
    assert len(found["database_alone"]) == 2
    for run in found["database_alone"]:
        assert run["seconds"] > 0
        assert run["problems"] == []
    (ratios,) = found["ratios"]
    assert all(ratios[name] > 0 for name in ratios if "_to_" in name)

    for title in ("Sell-out: ", "Sold out: ", "Random items: ", "Open loop: ", "References: ", "Ratios "):
        assert f"\n{title}" in stdout
    assert "Every certificate holds" in stdout
    assert "FAILED" not in stdout
    ET.fromstring(drawing.read_text())
    assert list((directory / "tmp").iterdir()) == []
    assert told_of(str(directory)) == []


def assert_ordered(latency: dict[str, Any], count: int | None = None) -> None:
    assert 0 < latency["p50"] <= latency["p99"] <= latency["p999"] <= latency["maximum"]
    assert latency["count"] == (count or latency["count"])


def test_an_interrupted_run_leaves_nothing(directory: Path) -> None:
    process = start(directory, "--no-references")
    assert process.stdout is not None
    with process:
        assert "express, workers: 1" in process.stdout.readline()
        wait_for(lambda: any(WORKER in line for line in told_of(str(directory))))
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=START)
    assert process.returncode == 130
    assert stderr == "CommandError: Interrupted; everything was stopped.\n"
    assert list((directory / "tmp").iterdir()) == []
    assert told_of(str(directory)) == []


async def test_damage_after_a_sell_out_is_found(
    make_sale: Callable[..., Sale],
    open_worker: Callable[[], Awaitable[Runtime]],
    sql: Callable[..., list[tuple[Any, ...]]],
    tmp_path: Path,
) -> None:
    await asyncio.to_thread(make_sale, items=3)
    worker = await open_worker()
    codes = [await services.checkout(worker, user_id=item, item_id=item) for item in range(3)]
    for code in codes:
        await services.purchase(worker, code=code)
    told = [str(code) for code in codes]
    outcome = replace(OUTCOME, held=3, bought=3, codes=told, bought_codes=told)
    where = connection.settings_dict
    url = f"postgresql://{where['USER']}:{where['PASSWORD']}@{where['HOST']}:{where['PORT']}/{where['NAME']}"

    healthy = await asyncio.to_thread(read_books, url, clean_environment(tmp_path))
    assert problems_of_sell_out(outcome, healthy, 3) == []

    await asyncio.to_thread(sql, "DELETE FROM sales_checkout WHERE code = %s", codes[0])
    await asyncio.to_thread(
        sql, "UPDATE sales_saleitem SET state = 'held', purchased_at = NULL WHERE code = %s", codes[1]
    )
    damaged = await asyncio.to_thread(read_books, url, clean_environment(tmp_path))
    *others, certificate = sorted(problems_of_sell_out(outcome, damaged, 3), key=len)
    assert set(others) == {
        "1 acknowledged holds are not in the database",
        "1 acknowledged purchases are not in the database",
        "3 purchases were acknowledged, 2 items are sold",
    }
    assert certificate.startswith("the certificate does not hold: Sale ")
    assert f"item 0 is sold to user 0 by {codes[0]}" in certificate


# --- the references


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


# --- the clients

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
        await asyncio.sleep(0.3 if number == 0 else 0.01)
        return response(409)

    crowd = await against(answer, RandomItems(items=10, seconds=0.5))
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
