"""The machine of the model database: its sessions, and all that can happen to it and on the way there.

What happens on it happens in a process of its own: a worker that hangs up or dies does not undo it.
"""

import asyncio
import contextvars
import itertools
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Protocol

from tests.simulation.database import Database
from tests.simulation.loop import PROCESS, SimulatedLoop
from tests.simulation.sql import Rows
from tests.simulation.weather import Weather

QUIET = 5.0
"""Seconds in which nothing fails after one of these was lost: more than it takes to do it again."""


class Served(Protocol):
    """What the server asks of a session."""

    pid: int
    began_at: datetime
    told_to_end: bool

    @property
    def is_at_work(self) -> bool:
        """Whether it is at a statement, and does not wait for another session."""

    @property
    def awaits_standby(self) -> bool:
        """Whether its commit waits until the standby has it."""

    def cancel(self) -> None:
        """Cancel the statement, if it is still running."""

    def terminate(self) -> None:
        """End the session, after its commit if it is at one."""

    def vanish(self) -> None:
        """Be gone from one moment to the next."""


class Server:
    """The machine of the database."""

    def __init__(
        self, loop: SimulatedLoop, random: Random, database: Database, say: Callable[..., None]
    ) -> None:
        self.loop = loop
        self.random = random
        self.database = database
        self.say = say
        self.weather = Weather()
        self.up = True
        self.late_until = 0.0
        self.sessions: list[Served] = []
        self._operators: set[asyncio.Task[None]] = set()
        self.batches: dict[int, str] = {}
        """From which process each batch of purchases came."""
        self._begun = 0
        self._quiet_until = 0.0
        self.context = contextvars.Context()
        self.context.run(PROCESS.set, "database")
        database.pace = self.pace

    async def pace(self) -> None:
        """Let others come in between, or not."""
        if self.random.random() < 0.3:
            await asyncio.sleep(self.latency())

    async def write_to_disk(self) -> None:
        """Take the time that a commit takes."""
        if self.weather.commit:
            await asyncio.sleep(self.random.expovariate(1 / self.weather.commit))

    def latency(self) -> float:
        """A time on the way."""
        return self.random.expovariate(1 / self.weather.latency)

    def fate(self, *, batch: bool) -> str:
        """Draw what becomes of a statement."""
        number = self.random.random()
        if self.loop.now < self._quiet_until:
            return "done"
        if number < (self.weather.batch_lost if batch else self.weather.read_lost):
            self._quiet_until = self.loop.now + QUIET
            return self.random.choice(["request_lost", "overtaken"]) if batch else "request_lost"
        return self.weather.fate(number)

    def lateness(self, least: float, most: float) -> float:
        """A much longer one."""
        seconds = self.random.uniform(least, most)
        self.late_until = max(self.late_until, self.loop.now + seconds)
        return seconds

    def admit(self, session: Served) -> tuple[int, datetime]:
        """Take in a session: its process id, one that was free, and its start."""
        used = {other.pid for other in self.sessions}
        self.sessions.append(session)
        self._begun += 1  # no two at the same moment
        began_at = datetime.fromtimestamp(self.database.clock(), UTC) + timedelta(microseconds=self._begun)
        return next(pid for pid in itertools.count(1) if pid not in used), began_at

    def end_session(self, pid: int, began_at: datetime) -> bool:
        """Whether there is this session; it is told to end, unless it is at work, which takes its time."""
        for session in self.sessions:
            if (session.pid, session.began_at) == (pid, began_at):
                if not session.told_to_end and not session.is_at_work:
                    session.told_to_end = True
                    late = self.random.random() < self.weather.slow_end
                    self.after(self.lateness(0, 5) if late else self.latency(), session.terminate)
                return True
        return False

    def awaiting_standby(self) -> Rows:
        """The sessions that wait for a standby."""
        return [(session.pid, session.began_at) for session in self.sessions if session.awaits_standby]

    def shut_down(self) -> None:
        """End all sessions, and take no more until `start`."""
        self.up = False
        self._end_operators()
        for session in list(self.sessions):
            session.terminate()

    def start(self) -> None:
        """Take connections again, as another server, unless somebody does."""
        if not self.up:
            self.up = True
            self.database.renew()

    def fail_over(self) -> None:
        """The machine is gone, and its standby takes its place and its name."""
        self._end_operators()
        for session in list(self.sessions):
            session.vanish()
        self.up = True
        self.database.fail_over()

    def work_for_operator(self, work: Coroutine[Any, Any, None]) -> None:
        """Do what no worker asked for; cancelled where the server goes away."""
        task = self.loop.create_task(work, context=self.context)
        self._operators.add(task)
        task.add_done_callback(self._operators.discard)

    def _end_operators(self) -> None:
        for task in self._operators:
            task.cancel()

    def pass_on(self, callback: Callable[[], None]) -> None:
        """Call it after the time of the way."""
        self.after(self.latency(), callback)

    def after(self, delay: float, callback: Callable[[], None]) -> None:
        """Call it later, whoever lives by then."""
        self.loop.call_later(delay, callback, context=self.context)
