"""What a run of the benchmark has found: plain facts, made by `run`, shown by `report` and `chart`.

Rates are per second, CPU times in microseconds per answer, durations in seconds, latencies as in `Latency`.
"""

from dataclasses import dataclass, field
from typing import Self

from flashsale_project.benchmark.crowd_process import Outcome
from flashsale_project.benchmark.latency import Latency
from flashsale_project.benchmark.machine import Database, Machine
from flashsale_project.benchmark.processes import Memory
from flashsale_project.benchmark.quiet import Quiet
from flashsale_project.benchmark.spread import Spread
from flashsale_project.benchmark.wrk import Traffic


@dataclass(frozen=True, kw_only=True, slots=True)
class Cpu:
    """CPU time per answer, in microseconds."""

    workers: float
    postgres: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Successes:
    """Latencies of holds and purchases apart from those of refusals."""

    checkouts: Latency
    purchases: Latency
    refusals: Latency

    @classmethod
    def of(cls, outcome: Outcome) -> Self:
        """Those of a run of the crowd."""
        return cls(checkouts=outcome.checkouts, purchases=outcome.purchases, refusals=outcome.refusals)


@dataclass(frozen=True, kw_only=True, slots=True)
class SellOut:
    """Each item was asked for once, until all were bought: from the first request to the last purchase."""

    seconds: float | None
    sales_rate: float | None
    answer_rate: float
    bought: int
    latency: Successes
    cpu: Cpu
    client_cpu: float


@dataclass(frozen=True, kw_only=True, slots=True)
class SoldOut:
    """Random requests after that: every answer was a refusal."""

    client: str
    refusal_rate: float
    latency: Latency
    cpu: Cpu


@dataclass(frozen=True, kw_only=True, slots=True)
class RandomItems:
    """A crowd that drew items at random, on a new sale: the last ones are hard to draw."""

    bought: int
    bought_99_percent_after: float | None
    bought_last_after: float | None
    answer_rate: float
    latency: Successes


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixed:
    """Random requests on a new sale for a fixed time; latency is of all answers."""

    client: str
    seconds: float
    answer_rate: float
    bought: int
    refused: int
    latency: Latency


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenLoop:
    """Requests at intended times, on a new sale; latencies count from those times."""

    rate: float
    connections: int
    answer_rate: float
    latency: Successes
    sending_lag: Latency


@dataclass(kw_only=True, slots=True)
class Configuration:
    """The service in one shape. What was not measured is ``None``; it failed if there are ``problems``."""

    lane: str
    workers: int
    connections: int
    database: Database | None = None
    sell_out: SellOut | None = None
    sold_out: SoldOut | None = None
    memory: list[Memory] = field(default_factory=list)
    random_items: RandomItems | None = None
    mixed: Mixed | None = None
    open_loop: OpenLoop | None = None
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferenceRun:
    """One run of a reference that refuses everything."""

    name: str
    traffic: Traffic
    cpu: float
    problems: list[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class DatabaseRun:
    """The statements alone, without a service: seconds to sell everything."""

    seconds: float
    problems: list[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratios:
    """One configuration against the references of the same run. ``None`` where something is missing."""

    lane: str
    workers: int
    refusals_to_bare: float | None
    refusals_to_stock: float | None
    cpu_to_bare: float | None
    cpu_to_stock: float | None
    sell_out_to_database: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class RaceRun:
    """One contender in one round: ``service``, ``bare`` or ``database``, which alone has no CPU time here."""

    contender: str
    number: int
    seconds: float
    workers: int = 1
    cpu: Cpu | None = None
    holds: Latency | None = None
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class RefusalRun:
    """Refusals of one contender in one round: the ``same`` head in all requests, or a ``new`` one in each."""

    contender: str
    heads: str
    number: int
    rate: float
    cpu: float
    problems: list[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Race:
    """All rounds of the race."""

    client: str
    connections: int
    items: int
    runs: list[RaceRun] = field(default_factory=list)
    refusals: list[RefusalRun] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class FlatRun:
    """A race under a circumstance that should cost nothing, or one that could not be measured (``note``)."""

    name: str
    items: int
    seconds: float | None = None
    cpu: Cpu | None = None
    note: str = ""
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """A contender of the race over all rounds; ratios are to the run of the other in the same round.

    ``cpu`` is that of who answers, and so is the one that ``cpu_to_bare`` compares.
    """

    contender: str
    workers: int
    seconds: Spread
    to_bare: Spread | None
    to_database: Spread | None
    cpu_to_bare: Spread | None
    cpu: Spread | None
    postgres: Spread | None
    hold_p50: Spread | None
    hold_p99: Spread | None


@dataclass(frozen=True, kw_only=True, slots=True)
class RefusalCost:
    """Refusals of the service with such heads over all rounds, and those of the bare function."""

    heads: str
    cpu_to_bare: Spread | None
    rate_to_bare: Spread | None
    cpu: Spread
    rate: Spread
    bare_cpu: Spread | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Results:
    """All of it."""

    options: dict[str, object]
    machine: Machine
    quiet: Quiet
    noises: list[str]
    standings: list[Standing]
    refusal_costs: list[RefusalCost]
    race: Race
    flat: list[FlatRun]
    configurations: list[Configuration]
    references: list[ReferenceRun]
    database_alone: list[DatabaseRun]
    ratios: list[Ratios]
    ok: bool
