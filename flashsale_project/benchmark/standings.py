"""The rounds of the race as figures: what came of each contender, and the ratios within each round."""

from collections.abc import Iterable

from flashsale_project.benchmark.results import Race, RaceRun, RefusalCost, Standing
from flashsale_project.benchmark.spread import Spread


def standings(race: Race) -> list[Standing]:
    """Each contender: first the service, then the others in the order in which they ran."""
    names = sorted(
        dict.fromkeys((run.contender, run.workers) for run in race.runs),
        key=lambda name: name[0] != "service",
    )
    found = (_standing(race, contender, workers) for contender, workers in names)
    return [standing for standing in found if standing is not None]


def _standing(race: Race, contender: str, workers: int) -> Standing | None:
    runs = _runs(race, contender, workers)
    bare, database = _runs(race, "bare"), _runs(race, "database")
    seconds = Spread.of(run.seconds for run in runs)
    if seconds is None:
        return None
    is_bare, is_database = (contender == name for name in ("bare", "database"))
    return Standing(
        contender=contender,
        workers=workers,
        seconds=seconds,
        to_bare=None if is_bare else Spread.of_ratios(_seconds(runs), _seconds(bare)),
        to_database=None if is_database else Spread.of_ratios(_seconds(runs), _seconds(database)),
        cpu_to_bare=None if is_bare else Spread.of_ratios(_cpus(runs), _cpus(bare)),
        cpu=Spread.of(_cpus(runs).values()),
        postgres=Spread.of(run.cpu.postgres for run in runs if run.cpu is not None and not is_bare),
        hold_p50=_spread_of_holds(runs, 50),
        hold_p99=_spread_of_holds(runs, 99),
    )


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


def _runs(race: Race, contender: str, workers: int = 1) -> list[RaceRun]:
    return [run for run in race.runs if (run.contender, run.workers) == (contender, workers)]


def _seconds(runs: Iterable[RaceRun]) -> dict[int, float]:
    return {run.number: run.seconds for run in runs}


def _cpus(runs: Iterable[RaceRun]) -> dict[int, float]:
    """CPU time of who answered, by round."""
    return {run.number: run.cpu.workers for run in runs if run.cpu is not None}


def _spread_of_holds(runs: Iterable[RaceRun], percent: int) -> Spread | None:
    values = (getattr(run.holds, f"p{percent}") for run in runs if run.holds is not None)
    return Spread.of(value for value in values if value is not None)
