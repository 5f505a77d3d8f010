"""The judge: compares the history of a run with the rows after it, and with itself."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

from tests.acceptance.history import (
    check_answers,
    check_moments,
    check_outcomes,
    check_refusals,
    check_rows,
)
from tests.acceptance.history.evidence import LAG, Evidence, Violation
from tests.acceptance.history.operations import Operation, Summary
from tests.acceptance.history.rows import Clock, Rows

CHECKS = (
    *check_rows.CHECKS,
    *check_outcomes.CHECKS,
    *check_answers.CHECKS,
    *check_refusals.CHECKS,
    *check_moments.CHECKS,
)

EXAMPLES = 3
"""Violations of a kind that are shown."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Verdict:
    """What is to be said about a run; its text is made for people."""

    summary: Summary
    violations: list[Violation]
    started_at: float

    @property
    def exact(self) -> bool:
        """Whether nothing was wrong."""
        return not self.violations

    @property
    def lost(self) -> int:
        """Acknowledged holds, purchases and releases that are not in the rows."""
        return sum(violation.kind == check_outcomes.LOST for violation in self.violations)

    def __str__(self) -> str:
        kinds = Counter(violation.kind for violation in self.violations)
        lines = [str(self.summary), f"{len(self.violations)} violations"]
        for kind, count in kinds.items():
            shown = [violation for violation in self.violations if violation.kind == kind][:EXAMPLES]
            lines.append(f"  {count} of kind {kind!r}")
            lines += ["  " + violation.told(self.started_at) for violation in shown]
        return "\n".join(lines)


def judge(operations: Iterable[Operation], rows: Rows, clock: Clock, *, lag: float = LAG) -> Verdict:
    """Find whatever is certainly wrong. For ``lag`` see `Evidence`."""
    evidence = Evidence(operations, rows, clock, lag=lag)
    return Verdict(
        summary=Summary.of(evidence.operations),
        violations=list(chain.from_iterable(check(evidence) for check in CHECKS)),
        started_at=evidence.started_at,
    )
