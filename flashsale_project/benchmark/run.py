"""Runs the whole benchmark: the race, every configuration, and the references around the first one."""

import resource
from collections.abc import Callable, Iterator
from dataclasses import asdict

from flashsale_project.benchmark import measure
from flashsale_project.benchmark.database_server import DatabaseServer
from flashsale_project.benchmark.flat import flat
from flashsale_project.benchmark.machine import machine
from flashsale_project.benchmark.options import Options
from flashsale_project.benchmark.quiet import Listener
from flashsale_project.benchmark.race import race
from flashsale_project.benchmark.results import (
    Configuration,
    DatabaseRun,
    FlatRun,
    Race,
    Ratios,
    ReferenceRun,
    Results,
)
from flashsale_project.benchmark.standings import refusal_costs, standings, width

REFERENCES = ("bare", "stock")

Say = Callable[[str], None]


def run(options: Options, say: Say) -> Results:
    """Measure everything; ``say`` is told what comes next.

    A configuration that fails is part of the results. Raises `RuntimeError` where a reference fails.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Each connection is a file, for our children too.
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    found = machine()
    shapes = [
        Configuration(lane=lane, workers=workers, connections=connections)
        for connections in options.connections
        for workers in options.workers
        for lane in options.lanes
    ]
    listener = Listener(found.load)
    with DatabaseServer() as server:
        raced = race(server, options, say)
        references, databases = _configurations(server, options, shapes, say)
        circumstances = flat(server, options, say) if options.long else []
        order = standings(raced)
        quiet = listener.heard(still_running=server.cpu_seconds(), width=width(order))
    return Results(
        options=asdict(options),
        machine=found,
        quiet=quiet,
        noises=quiet.noises,
        standings=order,
        refusal_costs=refusal_costs(raced),
        race=raced,
        flat=circumstances,
        configurations=shapes,
        references=references,
        database_alone=databases,
        ratios=[
            ratios(shape, references, databases)
            for shape in shapes
            if options.references and shape.connections == options.connections[0]
        ],
        ok=not any(_problems(raced, circumstances, shapes, references, databases)),
    )


def _configurations(
    server: DatabaseServer, options: Options, shapes: list[Configuration], say: Say
) -> tuple[list[ReferenceRun], list[DatabaseRun]]:
    """Measure every configuration; what was measured of the references before and after the first one."""
    references: list[ReferenceRun] = []
    databases: list[DatabaseRun] = []

    def compare() -> None:
        if options.references:
            for name in REFERENCES:
                say(f"reference: {name}")
                references.append(measure.reference(options, name))
            say("reference: the database alone")
            databases.append(measure.statements(server, options))

    compare()
    for number, shape in enumerate(shapes):
        say(f"{shape.lane}, workers: {shape.workers}, connections: {shape.connections:,}")
        everything = shape.connections == options.connections[0]
        measure.configuration(server, options, shape, everything=everything)
        if number == 0:
            compare()  # before and after, so that a machine that grows busier harms both alike
    return references, databases


def _problems(
    raced: Race,
    circumstances: list[FlatRun],
    shapes: list[Configuration],
    references: list[ReferenceRun],
    databases: list[DatabaseRun],
) -> Iterator[list[str]]:
    """What is wrong with each measurement: nothing, or it failed."""
    yield from (run.problems for run in raced.runs)
    yield from (refusals.problems for refusals in raced.refusals)
    yield from (circumstance.problems for circumstance in circumstances)
    yield from (shape.problems for shape in shapes)
    yield from (reference.problems for reference in references)
    yield from (alone.problems for alone in databases)


def ratios(shape: Configuration, references: list[ReferenceRun], databases: list[DatabaseRun]) -> Ratios:
    """A configuration against the means of the references."""
    rates, cpus = refusal_rates(references), refusal_cpus(references)
    rate = cpu = seconds = None
    if shape.sold_out is not None:
        rate, cpu = shape.sold_out.refusal_rate, shape.sold_out.cpu.workers
    if shape.sell_out is not None:
        seconds = shape.sell_out.seconds
    alone = sum(run.seconds for run in databases) / len(databases) if databases else None
    return Ratios(
        lane=shape.lane,
        workers=shape.workers,
        refusals_to_bare=_ratio(rate, rates.get("bare")),
        refusals_to_stock=_ratio(rate, rates.get("stock")),
        cpu_to_bare=_ratio(cpu, cpus.get("bare")),
        cpu_to_stock=_ratio(cpu, cpus.get("stock")),
        sell_out_to_database=_ratio(seconds, alone),
    )


def refusal_rates(references: list[ReferenceRun]) -> dict[str, float]:
    """Refusals per second of each reference, over all of its runs."""
    return {
        name: sum(run.traffic.answers for run in runs) / sum(run.traffic.seconds for run in runs)
        for name, runs in _by_name(references)
    }


def refusal_cpus(references: list[ReferenceRun]) -> dict[str, float]:
    """CPU time per refusal of each reference, in microseconds, over all of its runs."""
    return {
        name: sum(run.cpu * run.traffic.answers for run in runs) / sum(run.traffic.answers for run in runs)
        for name, runs in _by_name(references)
    }


def _by_name(references: list[ReferenceRun]) -> Iterator[tuple[str, list[ReferenceRun]]]:
    """The runs of each reference, without those that answered nothing."""
    for name in REFERENCES:
        runs = [run for run in references if run.name == name and run.traffic.answers]
        if runs:
            yield name, runs


def _ratio(ours: float | None, theirs: float | None) -> float | None:
    return round(ours / theirs, 3) if ours and theirs else None
