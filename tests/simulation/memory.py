"""What every worker knew at every moment, so that a refusal can be held against it."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from sales.inventory import Inventory, ItemRow, SaleFacts
from tests.simulation.loop import PROCESS


class Known(NamedTuple):
    """The versions of all items that a worker knew from one moment to the next; times are the database's."""

    since: float
    versions: tuple[int, ...]


class Memory(Inventory):
    """An inventory that keeps a journal of what it learned."""

    def __init__(self, now: Callable[[], float], sale: SaleFacts, rows: Iterable[ItemRow]) -> None:
        self._now = now
        self.journal = [Known(now(), (0,) * sale.items)]
        super().__init__(sale, rows)

    def learn(self, rows: Iterable[ItemRow]) -> None:
        """Take in rows, and note it."""
        super().learn(rows)
        versions = tuple(self._versions)
        if versions != self.journal[-1].versions:
            self.journal.append(Known(self._now(), versions))

    def known(self, since: float, until: float) -> Iterator[Known]:
        """What was known at some time between these two, the last first."""
        for known in reversed(self.journal):
            if known.since <= until:
                yield known._replace(since=max(known.since, since))
            if known.since < since:
                return


class Memories:
    """Those of all workers that ever lived."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._of: dict[str, list[Memory]] = {}

    def make(self, sale: SaleFacts, rows: Iterable[ItemRow]) -> Memory:
        """In place of `Inventory`: one for the worker that is running."""
        memory = Memory(self._now, sale, rows)
        self._of.setdefault(PROCESS.get(), []).append(memory)
        return memory

    def of(self, worker: str) -> list[Memory]:
        """Those of one worker, of sales that are over, too."""
        return self._of.get(worker, [])
