"""Stretches of time, and when how many of them overlap."""

from bisect import bisect_right
from collections.abc import Iterable
from typing import NamedTuple


class Span(NamedTuple):
    """From when to when, both included (seconds)."""

    begin: float
    end: float


class Times:
    """Spans that do not touch, in order: the times at which at least so many of others are there at once."""

    def __init__(self, spans: Iterable[Span], least: int = 1) -> None:
        self.spans: list[Span] = []
        # What begins when something else ends is there together with it.
        changes = sorted(change for b, e in spans if b <= e for change in ((b, 0), (e, 1)))
        there, since = 0, 0.0
        for moment, is_end in changes:
            if is_end:
                if there == least:
                    self.spans.append(Span(since, moment))
                there -= 1
            else:
                there += 1
                if there == least:
                    since = moment
        self._begins = [span.begin for span in self.spans]

    def meet(self, span: Span) -> bool:
        """Whether one of these times is in the span."""
        last = bisect_right(self._begins, span.end) - 1
        return last >= 0 and self.spans[last].end >= span.begin
