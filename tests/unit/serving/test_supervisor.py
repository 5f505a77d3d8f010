"""How long the supervisor waits before it starts a worker again."""

from flashsale_project.serving.supervisor import FIRST_PAUSE, LONGEST_PAUSE, pause


def test_a_worker_is_started_again_at_once_the_first_time() -> None:
    assert pause(0) == 0
    assert pause(1) == 0


def test_the_pause_doubles_up_to_a_limit_with_up_to_a_half_left_off() -> None:
    for failures in (2, 3, 4, 5, 6, 7, 8, 100, 100_000):
        whole = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures - 2, 50))
        assert whole / 2 <= pause(failures) <= whole
    assert len({pause(2) for _ in range(20)}) > 1
