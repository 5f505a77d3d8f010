"""The intended times of an open loop."""

from flashsale_project.benchmark.arrivals import Arrivals


def test_intended_times_are_evenly_spaced_and_given_once() -> None:
    arrivals = Arrivals(100, rate=4, count=5)
    assert list(arrivals.due(99.9)) == []
    assert arrivals.next_at == 100
    assert list(arrivals.due(100.3)) == [100, 100.25]
    assert list(arrivals.due(100.3)) == []
    assert arrivals.next_at == 100.5
    assert list(arrivals.due(200)) == [100.5, 100.75, 101]
    assert arrivals.next_at is None
    assert list(arrivals.due(300)) == []


def test_a_late_look_does_not_move_what_comes_after_it() -> None:
    punctual, late = Arrivals(0, rate=3, count=9000), Arrivals(0, rate=3, count=9000)
    one_by_one = [moment for n in range(9000) for moment in punctual.due(n / 3 + 0.01)]
    at_the_end = list(late.due(1e9))
    assert one_by_one == at_the_end
    assert at_the_end[-1] == 8999 / 3
