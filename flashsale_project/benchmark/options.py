"""What a run of the benchmark is asked to measure."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Every combination of lanes, workers and connections is measured.

    ``seconds`` is the length of a phase that is cut off, ``rate`` that of the open loop, in requests per
    second; ``client`` is ``wrk`` or ``builtin``; ``runs`` are the rounds of the race; ``long`` measures what
    a cost depends on, too.
    """

    lanes: list[str]
    workers: list[int]
    connections: list[int]
    items: int
    seconds: int
    rate: int
    client: str
    references: bool
    runs: int
    long: bool
