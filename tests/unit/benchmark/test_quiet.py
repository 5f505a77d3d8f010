"""How busy a machine is with others, and runs as one figure."""

from dataclasses import replace

import pytest

from flashsale_project.benchmark.quiet import Listener, Quiet
from flashsale_project.benchmark.spread import Spread

QUIET = Quiet(cpus=2, others=0.05, stolen=0.02, load=0.5, width=0.25)


def test_a_quiet_machine_makes_no_noise() -> None:
    assert QUIET.noises == []


@pytest.mark.parametrize(
    ("noise", "told"),
    [
        ({"others": 0.31}, "other processes took 31% of the CPU time"),
        ({"stolen": 0.1}, "the host took 10% of it away"),
        ({"load": 2}, "the load before was 4.0"),
        ({"width": 0.5}, "rounds of the race are 50% apart"),
    ],
)
def test_each_noise_is_told(noise: dict[str, float], told: str) -> None:
    assert replace(QUIET, **noise).noises == [told]


def test_what_was_heard_are_parts_of_the_machine() -> None:
    listener = Listener(load=1)
    sum(range(10**6))
    heard = listener.heard(still_running=0, width=0.1)
    assert 0 <= heard.others <= 1
    assert 0 <= heard.stolen <= 1
    assert heard.load == round(1 / heard.cpus, 2)
    assert listener.heard(still_running=10**6, width=0).others == 0


def test_a_spread_is_the_median_between_the_least_and_the_most() -> None:
    found = Spread.of([4, 1, 2])
    assert found == Spread(least=1, median=2, most=4, runs=3)
    assert found.width == 1.5
    assert Spread.of([]) is None


def test_ratios_are_those_of_runs_of_one_round() -> None:
    assert Spread.of_ratios({0: 4, 1: 9, 2: 7}, {0: 2, 1: 3, 3: 1}) == Spread(
        least=2, median=2.5, most=3, runs=2
    )
