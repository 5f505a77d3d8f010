"""The rounds of the race as figures: what came of each contender, and the ratios within each round."""

from collections.abc import Callable, Iterable

from flashsale_project.benchmark.results import Cpu, Race, RaceRun, RefusalCost, Standing
from flashsale_project.benchmark.spread import Spread


def standings(race: Race) -> list[Standing]:
    """Each contender, in the order in which they ran."""
    names = dict.fromkeys((run.contender, run.workers) for run in race.runs)
    seconds = {name: _by_number(_runs(race, name), lambda run: run.seconds) for name in names}
    bare, database = (seconds.get((name, 1), {}) for name in ("bare", "database"))
    return [
        Standing(
            contender=contender,
            workers=workers,
            seconds=found,
            to_bare=None if contender == "bare" else Spread.of_ratios(seconds[contender, workers], bare),
            to_database=None
            if contender == "database"
            else Spread.of_ratios(seconds[contender, workers], database),
            cpu=_spread_of_cpu(_runs(race, (contender, workers)), lambda cpu: cpu.workers),
            postgres=_spread_of_cpu(_runs(race, (contender, workers)), lambda cpu: cpu.postgres),
            hold_p50=_spread_of_holds(_runs(race, (contender, workers)), 50),
            hold_p99=_spread_of_holds(_runs(race, (contender, workers)), 99),
        )
        for contender, workers in sorted(names, key=lambda name: name[0] != "service")
        if (found := Spread.of(seconds[contender, workers].values())) is not None
    ]


def refusal_costs(race: Race) -> list[RefusalCost]:
    """The service's refusals with each kind of heads."""
    found = []
    for heads in dict.fromkeys(run.heads for run in race.refusals):
        ours, bare = (
            [run for run in race.refusals if (run.heads, run.contender) == (heads, contender)]
            for contender in ("service", "bare")
        )
        cpus, rates = ({run.number: getattr(run, name) for run in ours} for name in ("cpu", "rate"))
        bare_cpus, bare_rates = ({run.number: getattr(run, name) for run in bare} for name in ("cpu", "rate"))
        cpu, rate = Spread.of(cpus.values()), Spread.of(rates.values())
        if cpu is not None and rate is not None:
            found.append(
                RefusalCost(
                    heads=heads,
                    cpu_to_bare=Spread.of_ratios(cpus, bare_cpus),
                    rate_to_bare=Spread.of_ratios(rates, bare_rates),
                    cpu=cpu,
                    rate=rate,
                    bare_cpu=Spread.of(bare_cpus.values()),
                )
            )
    return found


def width(standings: Iterable[Standing]) -> float:
    """How far the rounds are apart, where they are the furthest."""
    return max((standing.seconds.width for standing in standings), default=0.0)


def _runs(race: Race, name: tuple[str, int]) -> list[RaceRun]:
    return [run for run in race.runs if (run.contender, run.workers) == name]


def _by_number(runs: Iterable[RaceRun], value: Callable[[RaceRun], float]) -> dict[int, float]:
    return {run.number: value(run) for run in runs}


def _spread_of_cpu(runs: Iterable[RaceRun], value: Callable[[Cpu], float]) -> Spread | None:
    return Spread.of(value(run.cpu) for run in runs if run.cpu is not None)


def _spread_of_holds(runs: Iterable[RaceRun], percent: int) -> Spread | None:
    values = (getattr(run.holds, f"p{percent}") for run in runs if run.holds is not None)
    return Spread.of(value for value in values if value is not None)
