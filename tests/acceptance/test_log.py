"""What an operator reads: the events of the log, each once, and the status line."""

import asyncio
import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.client import Client
from tests.support.service import PROJECT, MakeService, Service
from tests.support.waiting import DEADLINE, START, eventually

STATUS = r"\d\d:\d\d:\d\d  \|  sale \d+: sold 0  held 0  free 100  \|  0 answers/s  \|  (\d)/\1 workers"

Event = dict[str, Any]


@pytest.fixture(scope="module")
def lane() -> str:
    """The usual one: no lane logs what the other does not."""
    return "express"


def events(service: Service, name: str) -> list[Event]:
    """The events of this name so far, from a log in JSON."""
    lines = [json.loads(line) for line in service.output.splitlines() if line.startswith("{")]
    return [line for line in lines if line.get("event") == name]


def pids(found: list[Event]) -> list[int]:
    return [event["pid"] for event in found]


async def buy(service: Service, count: int) -> None:
    """Buy so many items, each as another user."""
    async with Client(service.port) as client:
        for user in range(count):
            code = (await client.post(f"/checkout?user_id={user}")).text
            assert (await client.post(f"/purchase?code={code}")).text == "purchased"


async def answers(service: Service) -> int:
    """How many answers are counted; a worker counts its own in the end, or twice a second."""
    async with Client(service.port) as client:
        figures = (await client.get("/metrics")).text
    counts = re.findall(r"^flashsale_answers_total{.*} (.*)$", figures, re.MULTILINE)
    return sum(int(float(count)) for count in counts)


async def test_the_life_of_a_service_is_told_in_events(make_service: MakeService) -> None:
    service = make_service(items=20, FLASHSALE_LOG_FORMAT="json").start()
    pid = service.pid
    workers = service.workers()
    (started,) = events(service, "service.started")
    assert started["address"] == f"http://127.0.0.1:{service.port}"
    assert (started["level"], started["pid"], started["workers"]) == ("INFO", pid, 2)
    assert sorted(pids(events(service, "worker.ready"))) == sorted(workers)
    assert [event["items"] for event in events(service, "sale.created")] == [20, 20]
    ((sale,),) = service.sql("SELECT id FROM sales_sale WHERE starts_at <= now()")
    (begun,) = await eventually(lambda: events(service, "sale.started"))
    assert (begun["sale_id"], begun["items"]) == (sale, 20)

    # Both workers see it.
    await buy(service, 20)
    (sold_out,) = await eventually(lambda: events(service, "sale.sold_out"))
    assert (sold_out["level"], sold_out["sale_id"]) == ("INFO", sale)
    async with asyncio.timeout(DEADLINE):
        while await answers(service) < 40:  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    # One that dies is replaced, and what its successor finds is no news.
    os.kill(workers[0], signal.SIGKILL)
    (replaced,) = await eventually(lambda: events(service, "worker.replaced"))
    assert (replaced["level"], replaced["pid"], replaced["reason"]) == (
        "ERROR",
        workers[0],
        "ended with -9",
    )
    await eventually(lambda: len(events(service, "worker.ready")) == 3)

    before = service.workers()
    service.signal(signal.SIGHUP)
    await eventually(lambda: events(service, "service.reloaded"))
    assert pids(events(service, "service.reloading")) == [pid]
    await eventually(lambda: sorted(pids(events(service, "worker.retired"))) == sorted(before))
    after = service.workers()

    service.signal(signal.SIGTERM)
    assert service.wait() == 0
    (stopping,), (stopped,) = events(service, "service.stopping"), events(service, "service.stopped")
    assert (stopping["signal"], stopping["pid"]) == ("SIGTERM", pid)
    assert stopped["answers"] == 40
    assert sorted(pids(events(service, "worker.stopped"))) == sorted(after)
    for name in ("sale.started", "sale.sold_out", "worker.replaced"):
        assert len(events(service, name)) == 1
    assert len(events(service, "worker.ready")) == 5


async def test_a_sell_out_at_the_last_moment_is_told(make_service: MakeService) -> None:
    service = make_service(items=3, workers=1, FLASHSALE_LOG_FORMAT="json").start()
    await buy(service, 3)
    assert service.stop() == 0
    assert len(events(service, "sale.sold_out")) == 1


async def test_every_rotation_is_told_once_also_where_workers_die(make_service: MakeService) -> None:
    service = make_service("--period", "3", items=5, FLASHSALE_LOG_FORMAT="json").start()
    for number in range(1, 4):
        await eventually(lambda number=number: len(events(service, "sale.started")) > number)
        with contextlib.suppress(ProcessLookupError):
            os.kill(service.workers()[0], signal.SIGKILL)
    assert service.stop() == 0
    told = [event["sale_id"] for event in events(service, "sale.started")]
    begun = [sale for (sale,) in _sales(service)]
    assert told == [sale for sale in begun if told[0] <= sale <= told[-1]]
    created = [event["sale_id"] for event in events(service, "sale.created")]
    assert created == sorted(set(created))
    assert set(told) <= set(created)


def _sales(service: Service) -> list[tuple[int]]:
    """The sales that have begun, from a service that is stopped."""
    code = (
        "from sales.models import Sale; from django.utils import timezone;"
        "print([s.pk for s in Sale.objects.filter(starts_at__lte=timezone.now()).order_by('starts_at')])"
    )
    return [(sale,) for sale in json.loads(service.manage("shell", "-v", "0", "-c", code).stdout)]


async def test_many_who_ask_for_new_workers_get_them_once_more_at_most(service: Service) -> None:
    said = len(service.output)

    def count(event: str) -> int:
        return service.output[said:].count(event)

    service.signal(signal.SIGHUP)
    await eventually(lambda: count("service.reloading"))
    for _ in range(30):
        service.signal(signal.SIGHUP)
        await asyncio.sleep(0.001)
    async with asyncio.timeout(START):
        while count("service.reloaded") < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert (count("service.reloading"), count("worker.ready")) == (2, 4)


async def test_who_asks_for_new_workers_before_there_are_any_ends_nothing(
    make_service: MakeService,
) -> None:
    service = make_service(workers=1)
    starting = asyncio.create_task(asyncio.to_thread(service.start))
    await eventually(lambda: service.process)
    assert service.process is not None
    await eventually(lambda: _ignores_hangup(service))
    while not starting.done():
        service.signal(signal.SIGHUP)
        await asyncio.sleep(0.01)
    await starting
    assert service.stop() == 0


def _ignores_hangup(service: Service) -> bool:
    """Whether SIGHUP would not end it. The interpreter needs a moment until a line of ours is run."""
    assert service.process is not None
    with open(f"/proc/{service.process.pid}/status") as file:
        masks = dict(line.split(":\t") for line in file.read().splitlines() if line.startswith("Sig"))
    return any(int(masks[name], 16) & 1 << signal.SIGHUP - 1 for name in ("SigIgn", "SigCgt"))


def test_it_tells_what_it_does_while_it_starts(service: Service) -> None:
    steps = [
        "Connecting to the database",
        "Bringing the tables up to date …",
        "Making sales of 100 items each …",
        "Starting 2 workers …",
        "Flash sale on",
    ]
    assert sorted(steps, key=service.output.index) == steps


def test_options_that_do_not_apply_yet_are_told_and_how_to_begin_afresh(make_service: MakeService) -> None:
    service = make_service("--user-limit", "7", items=100, workers=1).start()
    assert "as it was made" not in service.output
    assert service.stop() == 0
    code = "from sales.models import Sale; print(f'{Sale.objects.first().ends_at:%H:%M:%S}')"
    begins = service.manage("shell", "-v", "0", "-c", code).stdout.strip()
    service.arguments += ["--items", "50", "--user-limit", "8", "--period", "10"]
    service.start()
    found = service.wait_for(
        r"(Sale \d+ exists and stays as it was made: 100 items, not 50; 7 for each user, not 8; "
        r"3,600 seconds long, not 10\.\n){2}"
        r"Your options hold for sales that start at (.*) UTC or later\.\n"
    )
    assert found[2] == begins
    service.wait_for("python manage.py flush")
    service.wait_for(r"free 100  \|")
    assert service.stop() == 0
    assert service.manage("flush", "--no-input").returncode == 0
    service.start()
    service.wait_for(r"free 50  \|")
    assert "as it was made" not in service.output
    assert service.stop() == 0


# --- the status line


def test_in_a_file_the_status_is_a_line_a_minute(make_service: MakeService) -> None:
    service = make_service(workers=1).start()
    service.wait_for(STATUS + "\n")
    service.signal(signal.SIGHUP)
    service.wait_for("service.reloaded")  # which takes more than a second
    assert service.stop() == 0
    assert len(re.findall(STATUS, service.output)) == 1
    assert "\x1b" not in service.output


def on_a_terminal(service: Service, *arguments: str, until: Callable[[str], bool]) -> str:
    """All that it writes to a terminal, until that is so and it is interrupted by Ctrl-C."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "manage.py", "runsale", "--port", "0", *service.arguments, *arguments],
        cwd=PROJECT,
        env=service.environment | {"TERM": "xterm"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    written, end, interrupted = b"", time.monotonic() + START + DEADLINE, False
    with contextlib.suppress(OSError):  # how a terminal says that nobody writes any more
        while piece := os.read(ours, 65_536):
            written += piece
            assert time.monotonic() < end, written.decode()
            if not interrupted and until(written.decode(errors="ignore")):
                interrupted = True
                process.send_signal(signal.SIGINT)
    os.close(ours)
    assert process.wait(START) == 0
    return written.decode()


def shown(written: str) -> list[str]:
    """The lines of a terminal to which this was written."""
    lines, column = [""], 0
    for part in re.split(r"(\r|\n|\x1b\[K)", written):
        if part == "\r":
            column = 0
        elif part == "\n":
            lines.append("")
        elif part == "\x1b[K":
            lines[-1] = lines[-1][:column]
        else:
            lines[-1] = lines[-1][:column] + part + lines[-1][column + len(part) :]
            column += len(part)
    return lines


def test_on_a_terminal_the_status_stays_below_the_help_and_no_line_is_garbled(
    make_service: MakeService,
) -> None:
    service = make_service(workers=1)
    written = on_a_terminal(
        service, until=lambda text: len(re.findall(STATUS, text)) >= 3 and "sale.started" in text
    )
    lines = shown(written)
    assert not any(re.search(STATUS, line) for line in lines)  # drawn over, and at last by what followed
    assert "  stop           Ctrl-C" in lines
    log = [line for line in lines if re.search(r"(INFO|ERROR) \w+\.\w+", line)]
    assert {line.split()[3] for line in log} >= {"service.started", "sale.started", "worker.stopped"}
    whole = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO [\w.]+( \w+=\S+)+"
    assert all(re.fullmatch(whole, line) for line in log)
    assert lines[-2].startswith("Stopped after 0 answers.")


def test_on_a_terminal_there_is_no_status_line_where_it_is_quiet(make_service: MakeService) -> None:
    written = on_a_terminal(
        make_service("--quiet", workers=1), until=lambda text: "sale.started" in text and "Ctrl-C" in text
    )
    assert not re.search(STATUS, written)
