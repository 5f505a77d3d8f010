"""A worker process of a simulation: the real runtime on clocks and connections of its own."""

import asyncio
import contextvars
from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace

from sales.conf import SaleOptions
from sales.inventory import Inventory
from sales.runtime import Runtime
from tests.simulation.connection import Pool
from tests.simulation.loop import PROCESS, SimulatedLoop
from tests.simulation.server import Server

EPOCH = 1_800_000_000.0
"""The database's time at the beginning."""

OPTIONS = SaleOptions(items=1, user_limit=1, checkout_ttl=1, period=1)
"""Of sales to be made; but those of a simulation are all made before."""


class WorkerClock:
    """The clocks of one machine: they began at another moment, and do not go at quite the same speed."""

    def __init__(self, loop: SimulatedLoop, random: Random) -> None:
        self._loop = loop
        self._began = random.uniform(0, 1e6)
        self._speed = random.uniform(0.999, 1.001)
        self._wrong = random.choice([0.0, random.uniform(-3600, 3600)])

    def monotonic(self) -> float:
        """As `time.monotonic`."""
        return self._began + self._loop.now * self._speed

    def time(self) -> float:
        """As `time.time`."""
        return EPOCH + self._loop.now + self._wrong


CLOCK: contextvars.ContextVar[WorkerClock] = contextvars.ContextVar("clock")

WORKER_TIME = SimpleNamespace(
    monotonic=lambda: CLOCK.get().monotonic(),
    time=lambda: CLOCK.get().time(),
)
"""In place of the module `time`: the clocks of whichever worker is running."""


@dataclass(eq=False)
class Worker:
    """One worker process, from its start to its end.

    ``state`` is starting, serving, draining, stopping, stopped or crashed; it serves clients from the
    second to the third.
    """

    number: int
    life: int
    server: Server
    state: str = "starting"
    pool: Pool | None = None
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    versions: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    """Of the items of each sale on each server, when they were last checked."""

    def __post_init__(self) -> None:
        self.name = f"w{self.number}.{self.life}"
        self.context = contextvars.Context()
        self.context.run(PROCESS.set, self.name)
        self.context.run(CLOCK.set, WorkerClock(self.server.loop, self.server.random))
        self._task = self.server.loop.create_task(self._live(), context=self.context)

    @property
    def serving(self) -> bool:
        """Whether clients reach it."""
        return self.state in ("serving", "draining")

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self.state not in ("stopped", "crashed")

    @property
    def ready(self) -> bool:
        """What it would say of itself."""
        return self.context.copy().run(lambda: self.runtime.ready)

    @property
    def inventories(self) -> dict[int, Inventory]:
        """What it knows."""
        return self.runtime.memory.inventories if hasattr(self, "runtime") else {}

    def drain(self, seconds: float) -> None:
        """It refuses what is new, and stops after so many seconds."""
        self.state = "draining"
        self.runtime.draining = True
        self.server.after(seconds, self.stop.set)

    def crash(self) -> None:
        """It ends without a word."""
        self.state = "crashed"
        self.server.loop.kill(self.name)
        if self.pool is not None:
            self.pool.die()

    async def _live(self) -> None:
        runtime = Runtime("", OPTIONS)
        connections = runtime.storage._connections
        self.pool = Pool(self.server, connections._configure)
        connections._pool = self.pool  # type: ignore[assignment]
        async with runtime:
            self.runtime = runtime
            self.state = "serving"
            self.server.say("serves the sales %s", sorted(runtime.memory.inventories))
            await self.stop.wait()
            self.state = "stopping"
        self.state = "stopped"
        self.server.say("has stopped")
