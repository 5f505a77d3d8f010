"""How large and how wild a simulation is; all of it is drawn from the seed."""

from dataclasses import dataclass
from random import Random
from typing import Self

from tests.simulation.weather import BAD, FAIR, ONE_LOSS, SLOW_COMMITS, Weather


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One of them. Times are in seconds."""

    workers: int
    sales: int
    """They follow each other, and the last one goes on."""
    items: int
    users: int
    user_limit: int
    checkout_ttl: int
    actions: int
    """How many things happen before everything is left in peace."""
    burst: float
    """The chance that one comes at the same time as the one before."""
    rest: float
    """How long it takes until it comes, on average, where it does not."""
    ends: float
    """When the first sale ends, if there are more."""
    curiosity: int
    """How much more often than elsewhere somebody asks what became of a hold, or how much is left."""
    awaited: float
    """The chance that somebody waits for the end of a hold or of a sale before they do anything."""
    trouble: float
    """The chance that it is nothing that a client does: a crash, an outage and so on."""
    stalls: float
    """The chance that a worker gets no processor for a while, which is nobody's fault but its machine's."""
    replicated: bool
    """Whether there is a synchronous standby."""
    weather: Weather
    orderly: bool
    """See `SimulatedLoop`."""
    max_batch: int
    max_pending: int
    save_timeout: float
    load_chunk: int

    @classmethod
    def draw(cls, random: Random) -> Self:
        """Draw one. In half of them nothing fails, so that they allow no excuses.

        In some of the others, batches are lost, but one at a time, or workers are only held up: nobody should
        be let down. In some, commits take so long that many a hold is over while its purchase commits.
        """
        actions = random.randint(15, 50)
        rest = random.choice([0.01, 0.1, 0.2])
        mood = random.choices(["fair", "held up", "wild", "slow"], [10, 2, 5, 3])[0]
        weather = random.choice([FAIR, ONE_LOSS, *BAD]) if mood == "wild" else FAIR
        if mood == "slow":
            weather = SLOW_COMMITS
        kind = mood in ("fair", "held up") or weather == ONE_LOSS
        return cls(
            workers=random.randint(1, 4),
            sales=random.choice([1, 1, 2, 3]),
            items=random.randint(3, 8),
            users=random.randint(2, 4),
            user_limit=random.randint(1, 3),
            checkout_ttl=1 if mood == "slow" else random.randint(1, 3),
            actions=actions,
            burst=random.choice([0.2, 0.5, 0.8]),
            rest=rest,
            ends=random.uniform(0, actions * rest),
            curiosity=6 if mood == "slow" else 1,
            awaited=0.25 if mood == "slow" else 0.06,
            trouble=0.0 if kind else random.choice([0.0, 0.0, 0.05] if mood == "slow" else [0.0, 0.05, 0.15]),
            stalls=0.15 if mood == "held up" else 0.0,
            replicated=random.random() < 0.5,
            weather=weather,
            orderly=random.random() < 0.7,
            max_batch=random.choice([1, 2, 3, 1000]),
            max_pending=random.choice([2, 10_000, 10_000]),
            save_timeout=15.0 if kind else random.choice([15.0, 15.0, 0.5]),
            load_chunk=random.choice([2, 3, 20_000]),
        )

    @property
    def fair(self) -> bool:
        """Whether nothing ever fails, and nobody is held up."""
        return self.weather == FAIR and not self.trouble and not self.stalls

    @property
    def kind(self) -> bool:
        """Whether nothing fails that the service cannot make up for, so that nobody needs to be let down."""
        return not self.trouble and self.weather in (FAIR, ONE_LOSS)

    @property
    def steady(self) -> bool:
        """Whether nothing ever fails, but commits may take long."""
        return self.weather in (FAIR, SLOW_COMMITS) and not self.trouble and not self.stalls
