"""Figures against those of the references, and how long the sale lasts that is measured."""

from dataclasses import asdict

from flashsale_project.benchmark.results import Configuration, Results
from flashsale_project.benchmark.run import ratios
from flashsale_project.benchmark.service import ROOM, sale_period


def test_ratios_are_those_to_the_means_of_the_references(results: Results) -> None:
    (found,) = results.ratios
    assert found.refusals_to_bare == 400  # 80,000 to 600 in 3 s
    assert found.refusals_to_stock == 1600
    assert found.cpu_to_bare == 0.4  # 6 to 15: 100 of 10 and 500 of 16
    assert found.cpu_to_stock == 0.012
    assert found.sell_out_to_database == 2


def test_what_was_not_measured_has_no_ratio() -> None:
    found = ratios(Configuration(lane="express", workers=1, connections=1), [], [])
    assert set(asdict(found).values()) == {"express", 1, None}


def test_a_sale_goes_on_for_long_enough_at_any_time() -> None:
    for now in range(0, 10 * 86_400, 599):
        period = sale_period(now)
        assert period - now % period > ROOM
        assert 86_400 <= period < 2 * 86_400
