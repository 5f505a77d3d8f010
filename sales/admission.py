"""What waits in one worker for the database: counted in one place, and refused there when it is too much."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from sales import limits
from sales.refusals import OVERLOADED, Refusal


class Admission:
    """Counts the calls that wait, by their name, from their start to their answer.

    ``limit`` is how many of one name may. Whoever is refused has touched nothing: no queue, no task, no row.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: Counter[str] = Counter()

    def waiting(self, call: str) -> int:
        """How many calls of this name wait now."""
        return self._waiting[call]

    def enter(self, call: str) -> bool:
        """Count one call more, unless it is one too many; whoever entered must `leave`."""
        waiting = self._waiting
        count = waiting[call]
        if count >= self._limit:
            return False
        if call == "checkout" and waiting["purchase"] > limits.MAX_PURCHASES:
            return False
        waiting[call] = count + 1
        return True

    def leave(self, call: str) -> None:
        """Count one call less."""
        self._waiting[call] -= 1

    @contextmanager
    def entered(self, call: str) -> Iterator[None]:
        """Count one call for as long as it is waited for. Raises `Refusal` (`OVERLOADED`)."""
        if not self.enter(call):
            raise Refusal(OVERLOADED)
        try:
            yield
        finally:
            self.leave(call)
