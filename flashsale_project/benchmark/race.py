"""The race: each item is asked for once and bought, in turn with what it is compared with.

A round is the bare function, the database alone and the service with each number of workers, one right after
another, so that a machine that grows busier harms all alike. Figures are compared within their round.
"""

from collections.abc import Callable
from dataclasses import dataclass

from flashsale_project.benchmark import measure
from flashsale_project.benchmark.crowd_process import Job, Outcome, run_crowd
from flashsale_project.benchmark.database_server import DatabaseServer
from flashsale_project.benchmark.latency import Latency
from flashsale_project.benchmark.options import Options
from flashsale_project.benchmark.references import Reference
from flashsale_project.benchmark.results import Cpu, Race, RaceRun, RefusalRun
from flashsale_project.benchmark.service import Service
from flashsale_project.benchmark.verdict import problems_of_race, problems_of_refusals, problems_of_sell_out
from flashsale_project.benchmark.wrk import RaceOutcome, Traffic, race_with_wrk, run_wrk

SECONDS = 60.0
"""Seconds that a race may take."""

Say = Callable[[str], None]
Spent = Callable[[], tuple[float, float]]
"""The CPU seconds so far, of whoever answers and of PostgreSQL."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Raced:
    """A race that is over. ``holds`` is of the built-in client; wrk cannot tell them from purchases."""

    seconds: float
    cpu: Cpu
    holds: Latency | None
    outcome: RaceOutcome | Outcome


def race(server: DatabaseServer, options: Options, say: Say) -> Race:
    """Run all rounds. Raises `RuntimeError` where something cannot be measured at all."""
    found = Race(client=options.client, connections=options.connections[0], items=options.items)
    for number in range(options.runs):
        say(f"race, round {number + 1} of {options.runs}")
        if options.references:
            found.runs.append(_bare(options, number))
            alone = measure.statements(server, options)
            found.runs.append(
                RaceRun(contender="database", number=number, seconds=alone.seconds, problems=alone.problems)
            )
            found.refusals.extend(_bare_refusals(options, number))
        for workers in options.workers:
            _service(server, options, workers, number, found)
    return found


def run_race(options: Options, port: int, connections: int, items: range, spent: Spent) -> Raced:
    """Buy each of these items. Raises `RuntimeError` where that is not done in time."""
    marks: list[tuple[float, float]] = []

    def mark() -> None:
        marks.append(spent())

    outcome: RaceOutcome | Outcome
    if options.client == "wrk":
        mark()
        outcome = race_with_wrk(port=port, connections=connections, items=items, seconds=SECONDS, after=mark)
        seconds, holds = outcome.seconds, None
    else:
        job = Job(
            load="each item once", port=port, connections=connections, items=len(items), seconds=SECONDS
        )
        outcome = run_crowd(job, before=mark)
        mark()
        seconds, holds = outcome.bought_last_after or outcome.seconds, outcome.checkouts
    answers = 2 * len(items)
    workers, postgres = (after - before for before, after in zip(*marks, strict=True))
    cpu = Cpu(workers=workers / answers * 1e6, postgres=postgres / answers * 1e6)
    return Raced(seconds=seconds, cpu=cpu, holds=holds, outcome=outcome)


def race_of(
    server: DatabaseServer, service: Service, options: Options, connections: int, items: range
) -> Raced:
    """A race of a running service."""
    return run_race(
        options, service.port, connections, items, lambda: (service.cpu_seconds(), server.cpu_seconds())
    )


def _service(server: DatabaseServer, options: Options, workers: int, number: int, found: Race) -> None:
    """A race of the service, and with the first number of workers what it refuses then."""
    with Service(server, lane=options.lanes[0], workers=workers, items=options.items) as service:
        raced = race_of(server, service, options, found.connections, range(options.items))
        if workers == options.workers[0]:
            for heads in _heads(options):
                found.refusals.append(
                    _refusals(options, service.port, "service", heads, number, service.cpu_seconds)
                )
        books = measure.close(server, service)
    if isinstance(raced.outcome, Outcome):
        problems = problems_of_sell_out(raced.outcome, books, options.items)
    else:
        problems = problems_of_race(raced.outcome, books, options.items)
    found.runs.append(
        RaceRun(
            contender="service",
            workers=workers,
            number=number,
            seconds=raced.seconds,
            cpu=raced.cpu,
            holds=raced.holds,
            problems=problems,
        )
    )


def _bare(options: Options, number: int) -> RaceRun:
    """The same race against a function that says yes to all."""
    with Reference("open") as running:
        raced = run_race(
            options,
            running.port,
            options.connections[0],
            range(options.items),
            lambda: (running.cpu_seconds(), 0),
        )
    return RaceRun(
        contender="bare", number=number, seconds=raced.seconds, cpu=raced.cpu, holds=raced.holds, problems=[]
    )


def _bare_refusals(options: Options, number: int) -> list[RefusalRun]:
    with Reference("bare") as running:
        return [
            _refusals(options, running.port, "bare", heads, number, running.cpu_seconds)
            for heads in _heads(options)
        ]


def _refusals(
    options: Options, port: int, contender: str, heads: str, number: int, spent: Callable[[], float]
) -> RefusalRun:
    """Random requests that are all refused, with such heads."""
    before = spent()
    traffic = _traffic(options, port, heads)
    return RefusalRun(
        contender=contender,
        heads=heads,
        number=number,
        rate=traffic.answers / traffic.seconds,
        cpu=(spent() - before) / max(traffic.answers, 1) * 1e6,
        problems=problems_of_refusals(traffic),
    )


def _traffic(options: Options, port: int, heads: str) -> Traffic:
    connections = options.connections[0]
    if options.client == "wrk":
        return run_wrk(
            port=port, connections=connections, items=options.items, seconds=options.seconds, heads=heads
        )
    return measure.random_traffic(options, port, connections)


def _heads(options: Options) -> tuple[str, ...]:
    """What requests may have for headers: the same in all, or others in each, which is for wrk."""
    return ("same", "new") if options.client == "wrk" else ("same",)
