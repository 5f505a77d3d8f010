"""What a cost depends on: the race once more, each time with more of something that should not matter."""

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

from django.conf import settings

from flashsale_project.benchmark import database_alone
from flashsale_project.benchmark.database_server import DatabaseServer
from flashsale_project.benchmark.options import Options
from flashsale_project.benchmark.race import Raced, Say, race_of
from flashsale_project.benchmark.results import FlatRun
from flashsale_project.benchmark.service import Service, sale_period
from flashsale_project.benchmark.verdict import problems_of_purchases
from flashsale_project.benchmark.wrk import RaceOutcome

RACE = 10_000
"""Items that are sold while it is measured."""

ITEMS = 1_000_000
IDLE = 10_000
PAST = 1_000
WORKERS = (1, 2, 4)

SECONDS = 240
"""Seconds to sell what lies between the first and the last items, or to make past sales. What is done then is
what is measured."""

AT_ONCE = 500
"""Idle connections that are opened before the service gets a moment to take them."""

MOMENT = 0.05
"""Seconds of that moment."""


def flat(server: DatabaseServer, options: Options, say: Say) -> list[FlatRun]:
    """Measure all of it. What fails is part of what is returned."""
    found: list[FlatRun] = []
    for measure in (_workers, _idle, _past, _large):
        try:
            for run in measure(server, options):
                say(run.name)
                found.append(run)
        except (RuntimeError, OSError) as error:
            found.append(FlatRun(name=measure.__name__.strip("_"), items=RACE, problems=[str(error)]))
    return found


def _workers(server: DatabaseServer, options: Options) -> Iterator[FlatRun]:
    for workers in WORKERS:
        with _service(server, options, workers=workers) as service:
            raced = race_of(server, service, options, options.connections[0], range(RACE))
        yield _run(f"{workers} worker{'s' if workers > 1 else ''}", RACE, raced)


def _idle(server: DatabaseServer, options: Options) -> Iterator[FlatRun]:
    with _service(server, options) as service, _idle_connections(service.port) as idle:
        raced = race_of(server, service, options, options.connections[0], range(RACE))
        stayed = sum(_is_open(sock) for sock in idle)
    yield _run(f"{IDLE:,} idle connections", RACE, raced, f"{stayed:,} stayed")


def _past(server: DatabaseServer, options: Options) -> Iterator[FlatRun]:
    url = server.renew()
    made = aged(server, url, "past", PAST)
    with _service(server, options, url=url) as service:
        raced = race_of(server, service, options, options.connections[0], range(RACE))
    yield _run(f"{PAST:,} past sales", RACE, raced, f"{made:,} past sales")


def _large(server: DatabaseServer, options: Options) -> Iterator[FlatRun]:
    with _service(server, options, items=ITEMS) as service:
        raced = race_of(server, service, options, options.connections[0], range(RACE))
        url = service.url
    yield _run(f"the first {RACE:,} of {ITEMS:,}", ITEMS, raced)
    sold = aged(server, url, "sell", ITEMS - RACE, RACE)
    with _service(server, options, items=ITEMS, url=url) as service:
        raced = race_of(server, service, options, options.connections[0], range(ITEMS - RACE, ITEMS))
    yield _run(f"the last {RACE:,} of {ITEMS:,}", ITEMS, raced, f"{sold:,} sold before")


def _service(
    server: DatabaseServer, options: Options, *, workers: int = 1, items: int = RACE, url: str | None = None
) -> Service:
    return Service(server, lane=options.lanes[0], workers=workers, items=items, url=url)


def _run(name: str, items: int, raced: Raced, note: str = "") -> FlatRun:
    assert isinstance(raced.outcome, RaceOutcome)
    return FlatRun(
        name=name,
        items=items,
        seconds=raced.seconds,
        cpu=raced.cpu,
        note=note,
        problems=problems_of_purchases(raced.outcome, RACE),
    )


def aged(server: DatabaseServer, url: str, what: str, count: int, first: int = 0) -> int:
    """Let `database_alone` write what a long life leaves behind; how much of it there is then."""
    arguments = [what, str(count), str(first), str(SECONDS), str(sale_period(time.time()))]
    try:
        finished = subprocess.run(
            [sys.executable, "-m", database_alone.__name__, *arguments],
            cwd=settings.BASE_DIR,
            env=server.environment | {"DATABASE_URL": url},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=2 * SECONDS,
            start_new_session=True,  # a Ctrl-C in the terminal is for the command alone
        )
    except subprocess.SubprocessError as error:
        raise RuntimeError(f"The database could not be filled: {error}.") from error
    return int(json.loads(finished.stdout)["items"])


@contextlib.contextmanager
def _idle_connections(port: int) -> Iterator[list[socket.socket]]:
    """Connections that ask nothing, for as long as the service bears that."""
    with contextlib.ExitStack() as stack:
        opened = []
        for number in range(IDLE):
            opened.append(stack.enter_context(socket.create_connection(("127.0.0.1", port))))
            if number % AT_ONCE == 0:
                time.sleep(MOMENT)
        yield opened


def _is_open(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return True
    except OSError:
        return False
