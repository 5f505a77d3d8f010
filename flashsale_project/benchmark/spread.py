"""Several runs of the same thing as one figure: the median, and between which values all of them are."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Self


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """What so many runs have given."""

    least: float
    median: float
    most: float
    runs: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Self | None:
        """``None`` of no values."""
        found = sorted(values)
        if not found:
            return None
        return cls(least=found[0], median=median(found), most=found[-1], runs=len(found))

    @classmethod
    def of_ratios(cls, ours: Mapping[int, float], theirs: Mapping[int, float]) -> Self | None:
        """The ratio of each run of ours to theirs of the same number."""
        return cls.of(value / theirs[number] for number, value in ours.items() if theirs.get(number))

    @property
    def width(self) -> float:
        """How far the runs are apart, as a part of their median."""
        return (self.most - self.least) / self.median if self.median else 0.0
