"""Runs simulations: the service on virtual time and seeded chance, one world after the other."""

import asyncio
import contextlib
import gc
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from sales.calls import CheckoutCall
from sales.inventory import Hold, HoldBatch
from tests.simulation.answers import Answers
from tests.simulation.calls import CALL
from tests.simulation.loop import Trouble
from tests.simulation.play import play
from tests.simulation.worker import WORKER_TIME
from tests.simulation.world import Trace, World


@dataclass(frozen=True, kw_only=True)
class Report:
    """A simulation that went well; ``seconds`` are virtual ones."""

    seed: int
    steps: int
    seconds: float
    outcomes: Counter[str]


class Failure(AssertionError):
    """A simulation that went wrong. Says how to see it again."""

    def __init__(self, seed: int, what: object) -> None:
        super().__init__(f"{what}\nreplay it with: python -m tests.simulation --seed {seed}")
        self.seed = seed


def simulate(seed: int, *, trace: Trace | None = None) -> Report:
    """Run the simulation of a seed. Raises `Failure`."""
    world = World(seed, trace)
    try:
        with _installed(world):
            world.loop.run(play(world))
    except (AssertionError, Trouble) as what:
        raise Failure(seed, what) from what
    finally:
        world.loop.close()
    return Report(seed=seed, steps=world.loop.steps, seconds=world.loop.now, outcomes=world.answers.outcomes)


ABSENT = ("database.lost", "a statement failed", "no certificate was written")
"""How the messages begin that say that the database is away or refuses."""


class _Complaints(logging.Handler):
    """What the service complains of is trouble, unless it is that the database is away or refuses."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.WARNING)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        """Take in a record."""
        message = record.getMessage()
        self._world.say("logs: %s", message)
        if self._world.scenario.kind or not message.startswith(ABSENT):
            cause = record.exc_info[1] if record.exc_info else None
            self._world.loop.trouble.append(f"logged: {message} {cause!r}")


def _elsewhere(function: Callable[..., object]) -> Callable[..., Awaitable[None]]:
    """A thread, in which sales would be made; here all are made already."""

    async def run(*arguments: object) -> None:
        await asyncio.sleep(0)

    return run


def _noting(answers: Answers) -> type[CheckoutCall]:
    """Checkouts that note for which call a code is made: a refusal does not say it."""

    class Noted(CheckoutCall):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.call = CALL.get()

        def decide(self, batch: HoldBatch) -> Hold:
            hold = super().decide(batch)
            answers.tried.setdefault(hold.code, self.call)  # others with the same key get the same hold
            return hold

    return Noted


@contextlib.contextmanager
def _installed(world: World) -> Iterator[None]:
    """The service knows no time and no chance but those of this world."""
    logger = logging.getLogger("sales")
    complaints = _Complaints(world)
    scenario = world.scenario
    collecting = gc.isenabled()
    with (
        patch("sales.certifier.time", WORKER_TIME),
        patch("sales.runtime.time", WORKER_TIME),
        patch("sales.memory.time", WORKER_TIME),
        patch("sales.housekeeping.time", WORKER_TIME),
        patch("sales.calls.time", WORKER_TIME),
        patch("sales.connections.time", WORKER_TIME),
        patch("sales.reads.time", WORKER_TIME),
        patch("sales.codes.os", SimpleNamespace(urandom=world.random.randbytes)),
        patch("sales.inventory.random", world.random),
        patch("sales.memory.Inventory", world.answers.memories.make),
        patch("sales.storage.random", world.random),
        patch("sales.calls.CheckoutCall", _noting(world.answers)),
        patch("sales.limits.MAX_BATCH", scenario.max_batch),
        patch("sales.limits.MAX_PENDING", scenario.max_pending),
        patch("sales.limits.LOAD_CHUNK", scenario.load_chunk),
        patch("sales.housekeeping.sync_to_async", _elsewhere),
        patch("sales.limits.SAVE_TIMEOUT", scenario.save_timeout),
        patch.object(logger, "propagate", False),
    ):
        logger.addHandler(complaints)
        gc.disable()  # what is garbage would be collected at another step each time
        try:
            yield
        finally:
            if collecting:
                gc.enable()
            logger.removeHandler(complaints)
