"""The single measurements, each of a new service on a new database, or of a reference."""

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
from django.conf import settings

from flashsale_project.benchmark import database_alone, machine
from flashsale_project.benchmark.books import Books, read_books
from flashsale_project.benchmark.crowd_process import Job, run_crowd
from flashsale_project.benchmark.database_server import DatabaseServer
from flashsale_project.benchmark.options import Options
from flashsale_project.benchmark.references import Reference
from flashsale_project.benchmark.results import (
    Configuration,
    Cpu,
    DatabaseRun,
    Mixed,
    OpenLoop,
    RandomItems,
    ReferenceRun,
    SellOut,
    SoldOut,
    Successes,
)
from flashsale_project.benchmark.service import Service, sale_period
from flashsale_project.benchmark.verdict import (
    problems_of_crowd,
    problems_of_database,
    problems_of_refusals,
    problems_of_sell_out,
    problems_of_traffic,
)
from flashsale_project.benchmark.wrk import Traffic, run_wrk

SELL_OUT_SECONDS = 60.0
"""Seconds that selling everything may take."""

RANDOM_SECONDS = 6.0
"""Seconds that random draws get to find everything."""

DATABASE_SECONDS = 120.0
"""Seconds that the database alone may take, its tables included."""

REUSE_SECONDS = 1.0
"""An open loop has no more connections than get a request so often: the service closes those that are idle
for five seconds, and a request that crosses that would count as lost."""


def configuration(
    server: DatabaseServer, options: Options, shape: Configuration, *, everything: bool
) -> None:
    """Measure the service in this shape: the sell-out, or with random items and an open loop too.

    A failure is noted among its problems.
    """
    try:
        _sell_out(server, options, shape)
        if everything:
            _random_items(server, options, shape)
            if options.client == "wrk":
                _mixed(server, options, shape)
            _open_loop(server, options, shape)
    except (RuntimeError, OSError, psutil.Error) as error:
        shape.problems.append(str(error))


def reference(options: Options, name: str) -> ReferenceRun:
    """Let a reference refuse as a sold-out service does. Raises `RuntimeError` where it cannot."""
    with Reference(name) as running:
        before = running.cpu_seconds()
        traffic = random_traffic(options, running.port, options.connections[0])
        cpu = (running.cpu_seconds() - before) / max(traffic.answers, 1) * 1e6
    return ReferenceRun(name=name, traffic=traffic, cpu=cpu, problems=problems_of_refusals(traffic))


def statements(server: DatabaseServer, options: Options) -> DatabaseRun:
    """Sell everything without a service. Raises `RuntimeError` where that fails."""
    environment = server.environment | {"DATABASE_URL": server.renew()}
    period = sale_period(time.time())
    arguments = ["all", str(options.items), "0", str(DATABASE_SECONDS), str(period)]
    try:
        finished = subprocess.run(
            [sys.executable, "-m", database_alone.__name__, *arguments],
            cwd=settings.BASE_DIR,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=DATABASE_SECONDS,
            start_new_session=True,  # a Ctrl-C in the terminal is for the command alone
        )
    except subprocess.SubprocessError as error:
        raise RuntimeError(f"The database alone did not sell: {error}.") from error
    sold = database_alone.Sold(**json.loads(finished.stdout))
    return DatabaseRun(seconds=sold.seconds, problems=problems_of_database(sold, options.items))


def _sell_out(server: DatabaseServer, options: Options, shape: Configuration) -> None:
    with _service(server, options, shape) as service:
        shape.database = machine.database(service.url, server.location)
        meter = _Meter(server, service)
        job = _job(options, service.port, "each item once", shape.connections, SELL_OUT_SECONDS)
        outcome = run_crowd(job, before=meter.start)
        seconds = outcome.bought_last_after
        shape.sell_out = SellOut(
            seconds=seconds,
            sales_rate=outcome.bought / seconds if seconds else None,
            answer_rate=(outcome.held + outcome.bought) / (seconds or outcome.seconds),
            bought=outcome.bought,
            latency=Successes.of(outcome),
            cpu=meter.per_answer(outcome.answers),
            client_cpu=outcome.client_cpu,
        )
        meter.start()
        traffic = random_traffic(options, service.port, shape.connections)
        shape.sold_out = SoldOut(
            client=traffic.client,
            refusal_rate=traffic.refused / traffic.seconds,
            latency=traffic.latency,
            cpu=meter.per_answer(traffic.answers),
        )
        shape.memory = service.memory()
        books = close(server, service)
    shape.problems += problems_of_sell_out(outcome, books, options.items) + problems_of_refusals(traffic)


def _random_items(server: DatabaseServer, options: Options, shape: Configuration) -> None:
    with _service(server, options, shape) as service:
        job = _job(options, service.port, "random items", shape.connections, RANDOM_SECONDS)
        outcome = run_crowd(job)
        books = close(server, service)
    shape.random_items = RandomItems(
        bought=outcome.bought,
        bought_99_percent_after=outcome.bought_99_percent_after,
        bought_last_after=outcome.bought_last_after,
        answer_rate=outcome.answers / outcome.seconds,
        latency=Successes.of(outcome),
    )
    shape.problems += problems_of_crowd(outcome, books)


def _mixed(server: DatabaseServer, options: Options, shape: Configuration) -> None:
    with _service(server, options, shape) as service:
        traffic = random_traffic(options, service.port, shape.connections)
        books = close(server, service)
    shape.mixed = Mixed(
        client=traffic.client,
        seconds=traffic.seconds,
        answer_rate=traffic.answers / traffic.seconds,
        bought=traffic.bought,
        refused=traffic.refused,
        latency=traffic.latency,
    )
    shape.problems += problems_of_traffic(traffic, books)


def _open_loop(server: DatabaseServer, options: Options, shape: Configuration) -> None:
    connections = min(shape.connections, max(1, int(options.rate * REUSE_SECONDS)))
    with _service(server, options, shape) as service:
        outcome = run_crowd(_job(options, service.port, "open loop", connections, options.seconds))
        books = close(server, service)
    shape.open_loop = OpenLoop(
        rate=options.rate,
        connections=connections,
        answer_rate=outcome.answers / outcome.seconds,
        latency=Successes.of(outcome),
        sending_lag=outcome.sending_lag,
    )
    shape.problems += problems_of_crowd(outcome, books)


class _Meter:
    """CPU time of a service and of its database since `start`."""

    def __init__(self, server: DatabaseServer, service: Service) -> None:
        self._server = server
        self._service = service
        self._workers = self._postgres = 0.0

    def start(self) -> None:
        self._workers = self._service.cpu_seconds()
        self._postgres = self._server.cpu_seconds()

    def per_answer(self, answers: int) -> Cpu:
        workers = self._service.cpu_seconds() - self._workers
        postgres = self._server.cpu_seconds() - self._postgres
        answers = max(answers, 1)
        return Cpu(workers=workers / answers * 1e6, postgres=postgres / answers * 1e6)


def _service(server: DatabaseServer, options: Options, shape: Configuration) -> Service:
    return Service(server, lane=shape.lane, workers=shape.workers, items=options.items)


def _job(options: Options, port: int, load: str, connections: int, seconds: float) -> Job:
    return Job(
        load=load,
        port=port,
        connections=connections,
        items=options.items,
        seconds=seconds,
        rate=options.rate,
    )


def random_traffic(options: Options, port: int, connections: int) -> Traffic:
    """Random requests for as long as the options say, by the client that they name."""
    if options.client == "wrk":
        return run_wrk(port=port, connections=connections, items=options.items, seconds=options.seconds)
    outcome = run_crowd(_job(options, port, "random items", connections, options.seconds))
    return Traffic(
        client="builtin",
        connections=outcome.connections,
        seconds=outcome.seconds,
        held=outcome.held,
        bought=outcome.bought,
        refused=outcome.refused,
        failed=sum(outcome.failed.values()) + sum(outcome.errors.values()),
        connection_errors=outcome.connect_errors + outcome.resets + outcome.unanswered,
        latency=outcome.all_answers,
    )


def close(server: DatabaseServer, service: Service) -> Books:
    """Stop the service; what its database says afterwards, or, to save time, meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        books = pool.submit(read_books, service.url, server.environment)
        service.stop()
        return books.result()
