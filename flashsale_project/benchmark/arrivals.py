"""When the requests of an open loop are due."""

from collections.abc import Iterator


class Arrivals:
    """``count`` intended times, in seconds: one every ``1 / rate`` from ``start``, whatever the answers do.

    Latency counts from them, so that a service that stalls is charged for all who arrived meanwhile.
    """

    def __init__(self, start: float, rate: float, count: int) -> None:
        self._start = start
        self._rate = rate
        self._count = count
        self._given = 0

    @property
    def next_at(self) -> float | None:
        """When the next one is due; ``None`` after the last."""
        if self._given == self._count:
            return None
        # From the start each time: adding up intervals would drift.
        return self._start + self._given / self._rate

    def due(self, now: float) -> Iterator[float]:
        """The intended times that have come and were not given before."""
        while (intended := self.next_at) is not None and intended <= now:
            self._given += 1
            yield intended
