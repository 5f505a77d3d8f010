"""Latencies: what a list of them says."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest value that at least so many percent of the values do not exceed (nearest rank).

    ``ordered`` is ascending. Raises `ValueError` where it is empty, or the percentage is not in (0, 100].
    """
    if not ordered or not 0 < percent <= 100:
        raise ValueError(f"There is no {percent} % of {len(ordered)} values.")
    # Rounded first: 99.9 % of 1,000 is a little more than 999 in binary.
    return ordered[math.ceil(round(len(ordered) * percent / 100, 9)) - 1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency:
    """How long answers of one kind took, in milliseconds; ``None`` where there were none."""

    count: int
    p50: float | None
    p99: float | None
    p999: float | None
    maximum: float | None

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Self:
        """Of latencies in seconds."""
        ordered = sorted(seconds)
        p50, p99, p999, maximum = (
            round(percentile(ordered, percent) * 1000, 3) if ordered else None
            for percent in (50, 99, 99.9, 100)
        )
        return cls(count=len(ordered), p50=p50, p99=p99, p999=p999, maximum=maximum)
