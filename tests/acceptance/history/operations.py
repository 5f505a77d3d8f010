"""What the clients of a run asked, and what they were told."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tests.acceptance.history.spans import Span

NOTHING_DONE = {"draining", "overloaded", "database_unavailable"}
"""Reasons of a 5xx that promise that nothing was done; every other 5xx leaves it open."""

CODE = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Call(StrEnum):
    """What was asked."""

    CHECKOUT = "checkout"
    PURCHASE = "purchase"
    RELEASE = "release"
    RECEIPT = "receipt"
    SALE = "sale"
    NONSENSE = "nonsense"


class Fate(StrEnum):
    """What the client knows afterwards."""

    DONE = "done"
    REFUSED = "refused"
    """Nothing was changed."""
    UNKNOWN = "unknown"
    """It may have been done, or may still be."""
    UNSENT = "unsent"
    """There was no connection: nothing was asked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """One request; times are seconds of the monotonic clock.

    ``code`` is the one that was asked for; of a checkout, the one that was given. ``status`` is 0 where
    there was no complete answer, and then ``reason`` says why. ``answer`` is the JSON document.
    """

    client: int
    call: Call
    user_id: int | None = None
    item_id: int | None = None
    code: str | None = None
    started_at: float
    ended_at: float
    sent: bool = True
    status: int = 0
    reason: str = ""
    retry_after: str | None = None
    answer: dict[str, Any] | None = None

    @property
    def fate(self) -> Fate:
        """What the client knows."""
        if not self.sent:
            return Fate.UNSENT
        if self.status in (200, 204):
            return Fate.DONE
        if self.status == 0 or (self.status >= 500 and self.reason not in NOTHING_DONE):
            return Fate.UNKNOWN
        return Fate.REFUSED

    @property
    def span(self) -> Span:
        """From the question to the answer."""
        return Span(self.started_at, self.ended_at)

    @property
    def outcome(self) -> str:
        """Status and reason, for people."""
        return " ".join(filter(None, (str(self.status or "no answer:"), self.reason)))

    def told(self, start: float) -> str:
        """One line; times are seconds after ``start``."""
        asked = [
            f"{name} {value}"
            for name, value in (("user", self.user_id), ("item", self.item_id), ("code", self.code))
            if value is not None
        ]
        return (
            f"{self.started_at - start:9.4f} … {self.ended_at - start:9.4f}  client {self.client:<4} "
            f"{self.call} {' '.join(asked)} -> {self.outcome}"
        )


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Operations of a run, counted; nonsense counts as a request only."""

    requests: int
    acknowledged: int
    unsent: int
    refused: Counter[str]
    unknown: Counter[str]

    @classmethod
    def of(cls, operations: Iterable[Operation]) -> "Summary":
        """Count operations."""
        requests = 0
        fates: dict[Fate, Counter[str]] = {fate: Counter() for fate in Fate}
        for operation in operations:
            requests += 1
            if operation.call is not Call.NONSENSE:
                fates[operation.fate][operation.outcome] += 1
        return cls(
            requests=requests,
            acknowledged=fates[Fate.DONE].total(),
            unsent=fates[Fate.UNSENT].total(),
            refused=fates[Fate.REFUSED],
            unknown=fates[Fate.UNKNOWN],
        )

    def __str__(self) -> str:
        lines = [
            f"{self.requests:,} requests: {self.acknowledged:,} acknowledged, {self.unsent:,} not connected, "
            f"{self.refused.total():,} refused, {self.unknown.total():,} unknown"
        ]
        for fate, counts in ((Fate.REFUSED, self.refused), (Fate.UNKNOWN, self.unknown)):
            lines += [f"  {fate:<8} {count:>8,}  {outcome}" for outcome, count in counts.most_common()]
        return "\n".join(lines)
