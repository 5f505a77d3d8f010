"""Both ends of the channel between a worker and its supervisor."""

import socket

from flashsale_project.serving.heartbeat import Vigil, beat
from flashsale_project.serving.limits import READY_TIMEOUT, SILENCE_TIMEOUT


def seconds(vigil: Vigil, count: int) -> list[str]:
    """Let so many seconds pass; what was said meanwhile."""
    return [fault for _ in range(count) if (fault := vigil.second()) is not None]


def test_a_heartbeat_arrives() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        beat(theirs)
        assert ours.recv(64)


def test_a_supervisor_that_sleeps_does_not_block_the_worker() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        for _ in range(100_000):  # more than the channel takes
            beat(theirs)
        ours.setblocking(False)
        while len(ours.recv(65536)) == 65536:
            pass
        beat(theirs)  # there is room again
        assert ours.recv(64)


def test_a_supervisor_that_is_gone_does_not_harm_the_worker() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.setblocking(False)
        ours.close()
        beat(theirs)
        beat(theirs)
    beat(theirs)


def test_a_worker_that_beats_lives_for_ever() -> None:
    vigil = Vigil()
    for _ in range(1000):
        vigil.beat()
        assert seconds(vigil, SILENCE_TIMEOUT - 1) == []


def test_a_silent_worker_is_given_up() -> None:
    vigil = Vigil()
    vigil.beat()
    assert seconds(vigil, SILENCE_TIMEOUT - 1) == []
    assert vigil.second() == f"was not heard from for {SILENCE_TIMEOUT} seconds"


def test_a_worker_that_does_not_get_ready_is_given_up() -> None:
    vigil = Vigil()
    assert seconds(vigil, READY_TIMEOUT - 1) == []
    assert vigil.second() == f"was not ready within {READY_TIMEOUT} seconds"


def test_a_worker_that_was_told_to_go_is_given_up_though_it_beats() -> None:
    vigil = Vigil()
    vigil.must_end_within(30)
    vigil.beat()
    assert seconds(vigil, 5) == []
    vigil.must_end_within(3)
    for _ in range(2):
        vigil.beat()
        assert vigil.second() is None
    vigil.must_end_within(100)  # no longer than it has been told already
    vigil.beat()
    assert vigil.second() == "did not stop in time"


def test_a_worker_that_falls_silent_while_it_goes_is_given_up_before_that() -> None:
    vigil = Vigil()
    vigil.beat()
    vigil.must_end_within(SILENCE_TIMEOUT + 5)
    assert seconds(vigil, SILENCE_TIMEOUT - 1) == []
    assert vigil.second() == f"was not heard from for {SILENCE_TIMEOUT} seconds"
