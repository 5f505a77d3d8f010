"""The race, refusals by heads, and what a cost depends on, as tables for a terminal or a page."""

from collections.abc import Callable, Iterable

from flashsale_project.benchmark.results import FlatRun, RefusalCost, Results, Standing
from flashsale_project.benchmark.tables import Row, markdown, number, paragraph, spread, table

TableOf = Callable[[Row, Iterable[Row]], str]

CONTENDERS = {"bare": "bare ASGI function", "database": "database alone"}

HEADS = {"same": "the same in all", "new": "new in each"}


def headline(results: Results) -> str:
    """The race of the first contender in one line."""
    found = next(iter(results.standings), None)
    if found is None:
        return ""
    ratios = ", ".join(
        f"{spread(ratio)} times {what}"
        for ratio, what in (
            (found.to_bare, f"a bare ASGI function's time for {2 * results.race.items:,} answers"),
            (found.to_database, "the database's own time for the same rows"),
        )
        if ratio is not None
    )
    sold = f"{results.race.items:,} items held and bought in {spread(found.seconds)} s"
    return paragraph(f"{sold}: {ratios}." if ratios else f"{sold}.")


def race_text(results: Results) -> str:
    """For a terminal."""
    parts = [_quiet(results), _race(results, table), _refusals(results, table), _flat(results, table)]
    return "\n\n".join(paragraph_or_table(part) for part in parts if part)


def race_page(results: Results) -> str:
    """For a page: ratios to references of the same run first, then how they were measured."""
    machine = results.machine
    where = (
        f"{machine.cpus} CPUs ({machine.cpu_model}), {machine.memory_gb} GB, Linux {machine.kernel}, "
        f"Python {machine.python}, {machine.measured_at}."
    )
    parts = [_race(results, markdown), _refusals(results, markdown), _flat(results, markdown), where]
    return "\n\n".join(part for part in [*parts, _quiet(results)] if part)


def paragraph_or_table(part: str) -> str:
    """The first line of a part in lines that fit, the others as they are."""
    title, newline, rest = part.partition("\n")
    return paragraph(title) + newline + rest.lstrip("\n")


def _quiet(results: Results) -> str:
    if not results.noises:
        return "The machine was quiet."
    return (
        f"THIS MACHINE WAS NOT QUIET: {', '.join(results.noises)}. Compare ratios; seconds and rates are "
        "those of a busy machine."
    )


def _race(results: Results, table_of: TableOf) -> str:
    if not results.standings:
        return ""
    race = results.race
    title = (
        f"Race: each of {race.items:,} items is asked for once, in random order, and bought, over "
        f"{race.connections:,} connections, by {race.client}. In turn with it a bare ASGI function on one "
        f"uvicorn gives the same {2 * race.items:,} answers, and the database alone saves the same rows. "
        "Medians, and the least and the most of all rounds; ratios are within a round; CPU in µs per answer."
    )
    header = [
        *("", "÷ bare", "÷ database", "CPU ÷ bare", "sold out s", "CPU workers", "PostgreSQL"),
        *("hold p50 ms", "p99 ms"),
    ]
    return f"{title}\n\n{table_of(header, [_standing(found, results) for found in results.standings])}"


def _standing(found: Standing, results: Results) -> Row:
    name = CONTENDERS.get(found.contender) or (
        f"{results.configurations[0].lane}, {found.workers} worker{'s' if found.workers > 1 else ''}"
    )
    p50, p99 = _holds(found, results)
    return [
        name,
        spread(found.to_bare),
        spread(found.to_database),
        spread(found.cpu_to_bare),
        spread(found.seconds),
        spread(found.cpu),
        spread(found.postgres),
        p50,
        p99,
    ]


def _holds(found: Standing, results: Results) -> tuple[str, str]:
    """Latencies of holds: wrk cannot tell them, so then they are of the crowd's sell-out in the same run."""
    if found.hold_p50 is not None or found.contender != "service":
        return spread(found.hold_p50), spread(found.hold_p99)
    first = results.configurations[0]
    for shape in results.configurations:
        if (shape.lane, shape.workers, shape.connections) == (
            first.lane,
            found.workers,
            results.race.connections,
        ) and shape.sell_out is not None:
            holds = shape.sell_out.latency.checkouts
            return number(holds.p50), number(holds.p99)
    return "-", "-"


def _refusals(results: Results, table_of: TableOf) -> str:
    if not results.refusal_costs:
        return ""
    title = (
        "Refusals after it, and those of the bare function with the same heads in the same round. New heads "
        "have an X-Request-ID, an X-Forwarded-For and a cookie that no other request has. CPU in µs "
        "per refusal."
    )
    header = ["heads", "CPU ÷ bare", "refusals/s ÷ bare", "CPU", "refusals/s", "CPU of bare"]
    return f"{title}\n\n{table_of(header, [_refusal(cost) for cost in results.refusal_costs])}"


def _refusal(cost: RefusalCost) -> Row:
    return [
        HEADS[cost.heads],
        spread(cost.cpu_to_bare),
        spread(cost.rate_to_bare),
        spread(cost.cpu),
        spread(cost.rate),
        spread(cost.bare_cpu),
    ]


def _flat(results: Results, table_of: TableOf) -> str:
    if not results.flat:
        return ""
    title = (
        "What a cost depends on: the same race under other circumstances, once each. CPU in µs per answer, "
        "and both together as a multiple of the first row."
    )
    header = ["", "items", "seconds", "CPU workers", "PostgreSQL", "÷ first", ""]
    first = next((run.cpu for run in results.flat if run.cpu is not None), None)
    base = first.workers + first.postgres if first is not None else None
    return f"{title}\n\n{table_of(header, [_flat_run(run, base) for run in results.flat])}"


def _flat_run(run: FlatRun, base: float | None) -> Row:
    cpu = run.cpu
    return [
        run.name,
        f"{run.items:,}",
        number(run.seconds),
        number(cpu.workers if cpu else None),
        number(cpu.postgres if cpu else None),
        number((cpu.workers + cpu.postgres) / base if cpu and base else None),
        "FAILED" if run.problems else run.note or "ok",
    ]
