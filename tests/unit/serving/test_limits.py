"""Limits that follow each other, added up: whoever waits for others waits long enough."""

import re
from pathlib import Path

from flashsale_project.benchmark.service import STOP_SECONDS
from flashsale_project.serving.limits import (
    ANSWERS_TIMEOUT,
    DRAIN,
    FREE,
    HEARTBEAT,
    KEEP_ALIVE,
    LISTENING,
    MAX_BODY,
    MAX_HEADERS,
    MAX_HOT,
    MAX_KEPT,
    MAX_LINE,
    MIN_FILES,
    READY_TIMEOUT,
    REQUEST_TIMEOUT,
    RETIRE,
    RETIRE_TIMEOUT,
    SILENCE_TIMEOUT,
    SPARE_FILES,
    STOP_TIMEOUT,
)
from sales.limits import SAVE_TIMEOUT

OVERHEAD = 2.0
"""Seconds for all that has no limit because it takes none: the ticks of uvicorn, closing, the interpreter."""

PROJECT = Path(__file__).parents[3]


def test_a_worker_that_stops_within_its_own_limits_is_not_killed() -> None:
    """See `WorkerServer.shutdown`: it answers, lets in, waits for answers, and saves what is left."""
    assert 2 * DRAIN + ANSWERS_TIMEOUT + SAVE_TIMEOUT + OVERHEAD <= STOP_TIMEOUT


def test_a_worker_that_retires_within_its_own_limits_is_not_killed() -> None:
    assert RETIRE + ANSWERS_TIMEOUT + SAVE_TIMEOUT + OVERHEAD <= RETIRE_TIMEOUT


def test_a_worker_that_retires_sees_idle_connections_close() -> None:
    assert KEEP_ALIVE + 1 <= RETIRE  # ages are counted once a second


def test_the_operator_waits_for_the_supervisor() -> None:
    (grace,) = re.findall(r"stop_grace_period: (\d+)s\n", (PROJECT / "docker-compose.yml").read_text())
    assert int(grace) > STOP_TIMEOUT
    assert STOP_TIMEOUT < STOP_SECONDS


def test_a_worker_is_not_given_up_for_a_few_heartbeats() -> None:
    assert 5 * HEARTBEAT <= SILENCE_TIMEOUT
    assert SILENCE_TIMEOUT <= READY_TIMEOUT


def test_somebody_who_may_have_left_is_not_waited_for_longer_than_others() -> None:
    assert LISTENING <= KEEP_ALIVE <= REQUEST_TIMEOUT


def test_a_hot_call_never_counts_against_what_is_kept_and_large_ones_fit() -> None:
    assert MAX_HOT <= FREE
    assert MAX_LINE + MAX_HEADERS + MAX_BODY <= MAX_KEPT


def test_a_worker_with_the_least_files_has_room_for_connections() -> None:
    assert SPARE_FILES < MIN_FILES
