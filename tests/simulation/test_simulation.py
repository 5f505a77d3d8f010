"""Whatever happens in whichever order, the service stays exact; and where it did not, it would be noticed."""

import itertools
import os
import subprocess
import sys
from collections import Counter
from random import Random, SystemRandom

import pytest

from tests.simulation.broken import FAULTS
from tests.simulation.broken_connections import FAULTS_AFTER_FAILOVERS, FAULTS_AFTER_LOSSES
from tests.simulation.calls import REASONS
from tests.simulation.scenario import Scenario
from tests.simulation.simulation import Failure, simulate

SEEDS = range(120)
FRESH = 100
FAULTY = 1_500
"""In so many seeds a fault is looked for: most are found in the first few."""


def test_nothing_goes_wrong_and_everything_happens() -> None:
    outcomes: Counter[str] = Counter()
    for seed in SEEDS:
        outcomes += simulate(seed).outcomes
    expected = {f"{call} {outcome}" for call, reasons in REASONS.items() for outcome in ("ok", *reasons)}
    rare = {
        "checkout draining",
        "checkout no_sale",
        "release overloaded",
        "release draining",
        "receipt draining",
        "purchase draining",
    }
    rare |= {"status draining", "status database_unavailable", "release database_unavailable"}
    rare |= {"status overloaded", "receipt overloaded"}
    assert expected - rare <= outcomes.keys()


def test_nothing_goes_wrong_in_simulations_that_were_never_run_before() -> None:
    first = SystemRandom().randrange(10**9)
    print(f"{FRESH} seeds from {first}")
    for seed in range(first, first + FRESH):
        simulate(seed)  # says how to replay it


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(fault: str) -> None:
    with FAULTS[fault]():
        failure = next(filter(None, map(_failure, range(FAULTY))), None)
    assert failure is not None
    assert str(failure).endswith(f"python -m tests.simulation --seed {failure.seed}")


@pytest.mark.parametrize("fault", FAULTS_AFTER_LOSSES)
def test_a_fault_that_shows_where_connections_are_lost_is_found(fault: str) -> None:
    weathers, broken = FAULTS_AFTER_LOSSES[fault]
    seeds = (seed for seed in itertools.count() if Scenario.draw(Random(seed)).weather in weathers)
    with broken():
        assert any(map(_failure, itertools.islice(seeds, FAULTY)))


@pytest.mark.parametrize("fault", FAULTS_AFTER_FAILOVERS)
def test_a_fault_that_shows_where_a_standby_takes_over_is_found(fault: str) -> None:
    drawn = ((seed, Scenario.draw(Random(seed))) for seed in itertools.count())
    seeds = (seed for seed, scenario in drawn if scenario.replicated and scenario.trouble)
    with FAULTS_AFTER_FAILOVERS[fault]():
        assert any(map(_failure, itertools.islice(seeds, FAULTY)))


def _failure(seed: int) -> Failure | None:
    try:
        simulate(seed)
    except Failure as failure:
        return failure
    return None


def _replay(seed: int, hash_seed: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "tests.simulation", "--seed", str(seed)],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        check=True,
        text=True,
    ).stdout


def test_a_seed_is_replayed_step_by_step() -> None:
    trace: list[str] = []
    simulate(3)  # what went before must not matter
    report = simulate(5, trace=trace.append)
    lines = [*trace, str(report)]
    assert len(lines) > 100
    assert _replay(5, "1").splitlines() == lines
    assert _replay(5, "2").splitlines() == lines
