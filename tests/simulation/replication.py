"""The standby of the model database: what it has of the commits of its primary."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.simulation.rows import Tables


@dataclass(eq=False)
class Record:
    """A commit as it stands in the log of the primary; ``is_seen``: by everybody there."""

    written: Tables
    is_seen: bool = False
    waiter: asyncio.Future[bool] | None = None


@dataclass
class Standby:
    """Gets the commits of a primary in their order, each some time after the primary has written it.

    ``pass_on`` calls what it is given after the time of the way.
    """

    tables: Tables
    pass_on: Callable[[Callable[[], None]], None]
    is_away: bool = False
    received: int = 0
    log: list[Record] = field(default_factory=list)

    def send(self, written: Tables) -> Record:
        """Write a commit to the log, from where it comes to the standby."""
        self.log.append(record := Record(written))
        until = len(self.log)
        self.pass_on(lambda: self._receive(until))
        return record

    def come_back(self) -> None:
        """Be there again, and get what was missed."""
        self.is_away = False
        self._receive(len(self.log))

    async def wait(self, record: Record) -> bool:
        """Wait until it has this commit; ``False`` where somebody ended the wait."""
        if record in self.log[: self.received]:
            return True
        record.waiter = asyncio.get_running_loop().create_future()
        return await record.waiter

    def _receive(self, until: int) -> None:
        if self.is_away:
            return
        for record in self.log[self.received : until]:
            self.tables.update(record.written)
            if record.waiter is not None and not record.waiter.done():
                record.waiter.set_result(True)
        self.received = max(self.received, until)
