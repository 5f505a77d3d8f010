"""The table of faults: what each cost, and whether anything was wrong."""

from dataclasses import dataclass, field

import pytest

from tests.acceptance.history.checker import Verdict


@dataclass
class Fault:
    """The runs of one fault; ``back``: seconds until everybody was served again, once for each time."""

    runs: int = 0
    requests: int = 0
    acknowledged: int = 0
    unknown: int = 0
    lost: int = 0
    violations: int = 0
    back: list[float] = field(default_factory=list)

    def add(self, verdict: Verdict, runs: int, back: list[float]) -> None:
        """Count what was found."""
        self.runs += runs
        self.requests += verdict.summary.requests
        self.acknowledged += verdict.summary.acknowledged
        self.unknown += verdict.summary.unknown.total()
        self.lost += verdict.lost
        self.violations += len(verdict.violations)
        self.back += back

    def cells(self) -> list[str]:
        """The row of the table, without the name."""
        numbers = (self.runs, self.requests, self.acknowledged, self.unknown, self.lost, self.violations)
        cells = [f"{number:,}" for number in numbers]
        return [*cells, f"{max(self.back):.1f} s" if self.back else ""]


class FaultTable:
    """A pytest plugin: collects what the faults report, and prints it as Markdown at the end.

    ``full``: the long form is wanted.
    """

    name = "table of faults"

    def __init__(self, *, full: bool) -> None:
        self.full = full
        self.faults: dict[str, Fault] = {}

    def fault(self, name: str) -> Fault:
        """The row of this fault."""
        return self.faults.setdefault(name, Fault())

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table, one row for each fault that was met."""
        header = (
            "fault | runs | requests | acknowledged | unknown | lost | violations | back in service within"
        )
        rows = [header.split(" | "), ["---", *["---:"] * 7]]
        rows += [[name, *fault.cells()] for name, fault in sorted(self.faults.items())]
        terminalreporter.section(self.name)
        for row in rows:
            terminalreporter.write_line(f"| {' | '.join(row)} |")
