"""Paragraphs, tables and numbers of a report in plain text."""

import textwrap
from collections.abc import Iterable, Sequence

from flashsale_project.benchmark.latency import Latency
from flashsale_project.benchmark.spread import Spread

Row = Sequence[str]

LINE = 120
"""Characters of a line of text; tables take what they need."""


def paragraph(text: str) -> str:
    """In lines that fit."""
    return textwrap.fill(text, LINE)


def table(header: Row, rows: Iterable[Row]) -> str:
    """Columns as wide as they need: the first to the left, the others to the right."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  "
        + "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def markdown(header: Row, rows: Iterable[Row]) -> str:
    """The same table for a page in Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows))


def latency(found: Latency) -> str:
    """p50, p99 and p99.9."""
    if found.p50 is None:
        return "-"
    return " / ".join(number(value) for value in (found.p50, found.p99, found.p999))


def spread(found: Spread | None) -> str:
    """The median, and all between which values the runs were."""
    if found is None:
        return "-"
    if found.runs == 1:
        return number(found.median)
    return f"{number(found.median)} ({number(found.least)} to {number(found.most)})"


def number(value: float | None) -> str:
    """About three digits of it."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
