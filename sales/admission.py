"""What waits in one worker for the database: counted in one place, and refused there when it is too much."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from sales.exceptions import Overloaded

MAX_PURCHASES = 2_000
"""Purchases under way above which nothing more is held. What cannot be bought in time helps nobody."""


class Admission:
    """Counts the calls that wait, by their kind, from their start to their answer.

    ``limit`` is how many of one kind may. Whoever is refused has touched nothing: no queue, no task, no row.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: Counter[str] = Counter()

    def waiting(self, kind: str) -> int:
        """How many calls of a kind wait now."""
        return self._waiting[kind]

    def enter(self, kind: str) -> bool:
        """Count one call more, unless it is one too many; whoever entered must `leave`."""
        waiting = self._waiting
        if waiting[kind] >= self._limit or (kind == "checkout" and waiting["purchase"] > MAX_PURCHASES):
            return False
        waiting[kind] += 1
        return True

    def leave(self, kind: str) -> None:
        """Count one call less."""
        self._waiting[kind] -= 1

    @contextmanager
    def entered(self, kind: str) -> Iterator[None]:
        """Count one call for as long as it is waited for. Raises `Overloaded`."""
        if not self.enter(kind):
            raise Overloaded
        try:
            yield
        finally:
            self.leave(kind)
