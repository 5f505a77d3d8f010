"""The results as plain text."""

from collections.abc import Sequence

from flashsale_project.benchmark.race_report import headline, race_text
from flashsale_project.benchmark.results import Configuration, Results
from flashsale_project.benchmark.run import refusal_cpus, refusal_rates
from flashsale_project.benchmark.tables import Row, latency, number, paragraph, table

NAMES = {"bare": "bare ASGI function", "stock": "stock Django view"}


def text(results: Results) -> str:
    """All tables, each under a line that says what was measured; the race first."""
    parts = [
        *(headline(results), _origin(results), race_text(results)),
        *(*_sections(results), _references(results), _ratios(results), _verdict(results)),
    ]
    return "\n\n".join(part for part in parts if part)


def _sections(results: Results) -> list[str]:
    """A table for each thing that was measured of the service."""
    items = f"{results.options['items']:,}"
    shapes = results.configurations
    return [
        _section(
            f"Sell-out: each of the {items} items is asked for once, in random order, and bought. Seconds "
            "from the first request to the answer of the last purchase; latencies of successes alone "
            "(p50 / p99 / p99.9); CPU in µs per answer, here and below. Every answer is a commit.",
            [
                *("sold out s", "sales/s", "answers/s", "hold ms", "purchase ms"),
                *("CPU workers", "PostgreSQL", "client"),
            ],
            [(shape, _sell_out(shape)) for shape in shapes],
        ),
        _section(
            "Sold out: random requests to the same service on new connections, every answer is a refusal. "
            "Accepting the connections is part of it.",
            ["client", "refusals/s", "refusal ms", "CPU workers", "PostgreSQL", "RSS MB", "PSS MB"],
            [(shape, _sold_out(shape)) for shape in shapes],
        ),
        _section(
            f"Random items: on a new sale of {items} everybody draws items at random, so the last ones are "
            "hard to find. Seconds until so many were bought.",
            ["99 % s", "last s", "bought", "answers/s", "hold ms", "purchase ms", "refusal ms"],
            [(shape, _random_items(shape)) for shape in shapes],
        ),
        _section(
            f"Mixed: wrk does the same on a new sale of {items} for a fixed time; latencies of all answers.",
            ["seconds", "answers/s", "bought", "refused", "answer ms"],
            [(shape, _mixed(shape)) for shape in shapes],
        ),
        _section(
            "Open loop: requests at intended times on a new sale, whatever the answers do; latencies count "
            "from those times. The lag is how late the client itself sent them, and part of the latencies.",
            ["used", "rate/s", "answers/s", "hold ms", "purchase ms", "refusals", "client lag ms"],
            [(shape, _open_loop(shape)) for shape in shapes],
        ),
    ]


def _origin(results: Results) -> str:
    machine = results.machine
    packages = ", ".join(f"{name} {number}" for name, number in machine.packages.items())
    lines = [
        f"{machine.measured_at}: {machine.cpus} CPUs ({machine.cpu_model}), {machine.memory_gb} GB, "
        f"Linux {machine.kernel}, load {machine.load} before the run",
        f"Python {machine.python}, {packages}",
    ]
    database = next((shape.database for shape in results.configurations if shape.database), None)
    if database is not None:
        settings = ", ".join(
            f"{name} {value}" for name, value in database.settings.items() if name != "server_version"
        )
        version = database.settings["server_version"]
        lines.append(f"PostgreSQL {version} on {database.file_system}: {settings}")
    lines.append("Clients, workers and PostgreSQL share the CPUs.")
    return "\n".join(lines)


def _section(title: str, header: Row, rows: Sequence[tuple[Configuration, Row | None]]) -> str:
    """A table of what was measured; nothing where that is nothing."""
    lines = [
        [
            *(shape.lane, str(shape.workers), f"{shape.connections:,}"),
            *row,
            "FAILED" if shape.problems else "ok",
        ]
        for shape, row in rows
        if row
    ]
    if not lines:
        return ""
    return f"{paragraph(title)}\n{table(['lane', 'workers', 'connections', *header, ''], lines)}"


def _sell_out(shape: Configuration) -> Row:
    if (found := shape.sell_out) is None:
        return "-" * 8  # what failed is shown, too
    return [
        number(found.seconds),
        number(found.sales_rate),
        number(found.answer_rate),
        latency(found.latency.checkouts),
        latency(found.latency.purchases),
        number(found.cpu.workers),
        number(found.cpu.postgres),
        f"{found.client_cpu:.0%}",
    ]


def _sold_out(shape: Configuration) -> Row | None:
    if (found := shape.sold_out) is None:
        return None
    return [
        found.client,
        number(found.refusal_rate),
        latency(found.latency),
        number(found.cpu.workers),
        number(found.cpu.postgres),
        " + ".join(f"{memory.rss:.0f}" for memory in shape.memory),
        " + ".join(f"{memory.pss:.0f}" for memory in shape.memory),
    ]


def _random_items(shape: Configuration) -> Row | None:
    if (found := shape.random_items) is None:
        return None
    return [
        number(found.bought_99_percent_after),
        number(found.bought_last_after),
        f"{found.bought:,}",
        number(found.answer_rate),
        latency(found.latency.checkouts),
        latency(found.latency.purchases),
        latency(found.latency.refusals),
    ]


def _mixed(shape: Configuration) -> Row | None:
    if (found := shape.mixed) is None:
        return None
    return [
        number(found.seconds),
        number(found.answer_rate),
        f"{found.bought:,}",
        f"{found.refused:,}",
        latency(found.latency),
    ]


def _open_loop(shape: Configuration) -> Row | None:
    if (found := shape.open_loop) is None:
        return None
    return [
        f"{found.connections:,}",
        number(found.rate),
        number(found.answer_rate),
        latency(found.latency.checkouts),
        latency(found.latency.purchases),
        f"{found.latency.refusals.count:,}",
        latency(found.sending_lag),
    ]


def _references(results: Results) -> str:
    runs = [
        [
            NAMES[run.name],
            f"{run.traffic.connections:,}",
            number(run.traffic.answers / run.traffic.seconds),
            latency(run.traffic.latency),
            number(run.cpu),
            "FAILED" if run.problems else "ok",
        ]
        for run in results.references
    ]
    if not runs:
        return ""
    alone = ", ".join(
        f"{run.seconds:.2f} s{' FAILED' if run.problems else ''}" for run in results.database_alone
    )
    title = paragraph(
        "References: one worker of the same uvicorn refuses everything with the same bytes, before and after "
        "the first configuration."
    )
    return (
        f"{title}\n{table(['', 'connections', 'refusals/s', 'refusal ms', 'CPU', ''], runs)}"
        f"\nThe database alone, the same statements a hundred at a time: {alone}"
    )


def _ratios(results: Results) -> str:
    if not results.ratios:
        return ""
    rates, cpus = refusal_rates(results.references), refusal_cpus(results.references)
    means = "; ".join(f"{NAMES[name]} {rates[name]:,.0f}/s, {cpus[name]:,.0f} µs" for name in rates)
    rows = [
        [
            ratios.lane,
            str(ratios.workers),
            *(
                number(ratio)
                for ratio in (
                    ratios.refusals_to_bare,
                    ratios.refusals_to_stock,
                    ratios.cpu_to_bare,
                    ratios.cpu_to_stock,
                    ratios.sell_out_to_database,
                )
            ),
        ]
        for ratios in results.ratios
    ]
    header = [
        "lane",
        "workers",
        "refusals/s ÷ bare",
        "÷ stock",
        "CPU ÷ bare",
        "÷ stock",
        "sell-out ÷ database",
    ]
    return f"Ratios to the means of the references ({means}).\n{table(header, rows)}"


def _verdict(results: Results) -> str:
    if results.ok:
        return paragraph(
            "Every certificate holds; every acknowledged hold and purchase is in the database; no connection "
            "failed, and each was served."
        )
    lines = ["FAILED:"]
    for shape in results.configurations:
        lines += [
            f"  {shape.lane}, {shape.workers} workers, {shape.connections:,} connections: {problem}"
            for problem in shape.problems
        ]
    lines += [
        f"  race, {run.contender}, {run.workers} workers, round {run.number + 1}: {problem}"
        for run in results.race.runs
        for problem in run.problems
    ]
    lines += [
        f"  refusals, {refusal.contender}, heads {refusal.heads}, round {refusal.number + 1}: {problem}"
        for refusal in results.race.refusals
        for problem in refusal.problems
    ]
    lines += [f"  {flat.name}: {problem}" for flat in results.flat for problem in flat.problems]
    lines += [f"  {NAMES[run.name]}: {problem}" for run in results.references for problem in run.problems]
    lines += [
        f"  the database alone: {problem}" for run in results.database_alone for problem in run.problems
    ]
    return "\n".join(lines)
