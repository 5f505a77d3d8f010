"""Options are checked when a processor is made, and the lane of a key is the same everywhere."""

import dataclasses
import math
import os
import subprocess
import sys
import uuid
from typing import Any

import pytest

from batching import KeyedProcessor, ProcessorOptions, lane_for_key


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("min_duration", -1),
        ("min_duration", math.nan),
        ("min_duration", math.inf),
        ("min_duration", None),
        ("min_duration", "1"),
        ("max_duration", 0),
        ("max_duration", -0.5),
        ("max_duration", math.nan),
        ("save_timeout", 0),
        ("save_timeout", "soon"),
        ("max_size", 0),
        ("max_size", 2.0),
        ("max_size", True),
        ("max_pending", -5),
        ("max_pending", math.inf),
        ("lanes", 0),
        ("lanes", None),
        ("lanes", 1.5),
        ("lane_for_key", None),
    ],
)
def test_a_wrong_option_is_named(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{option} must be .*, not "):
        KeyedProcessor(**{option: value})


def test_an_option_that_does_not_exist_is_named() -> None:
    with pytest.raises(TypeError, match="min_durations"):
        KeyedProcessor(min_durations=1)  # type: ignore[call-arg]


def test_options_are_frozen() -> None:
    processor = KeyedProcessor[str, None](max_size=5)
    assert processor.options == ProcessorOptions(max_size=5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        processor.options.max_size = 6  # type: ignore[misc]


@pytest.mark.parametrize(
    ("given", "limit"),
    [
        ({}, 0.2),
        ({"min_duration": 3}, 6),
        ({"min_duration": 0}, None),
        ({"min_duration": 0, "max_duration": 7}, 7),
        ({"min_duration": 3, "max_duration": 1}, 1),
        ({"min_duration": 3, "max_duration": math.inf}, None),
    ],
)
def test_the_time_limit_is_twice_the_window_unless_it_is_given(
    given: dict[str, Any], limit: float | None
) -> None:
    assert ProcessorOptions(**given).time_limit == limit


def test_there_are_16_lanes_for_each_processor_core() -> None:
    assert ProcessorOptions().lanes == 16 * (os.cpu_count() or 1)


def test_the_lane_of_a_key_is_the_same_in_every_process() -> None:
    keys = ["a", "é\ud800", b"a", 7, -(2**70), ("a", 1), uuid.UUID(int=5), None]
    code = (
        "import sys, uuid; from batching import lane_for_key; from uuid import UUID;"
        f"print([lane_for_key(key, 32) for key in {keys!a}])"
    )
    answers = {
        subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert answers == {str([lane_for_key(key, 32) for key in keys])}


def test_lanes_are_used_evenly() -> None:
    counts = [0] * 16
    for number in range(16_000):
        counts[lane_for_key(f"train {number}", 16)] += 1
    assert min(counts) > 800
    assert max(counts) < 1200


def test_a_key_that_looks_different_in_each_process_has_no_lane() -> None:
    with pytest.raises(TypeError, match="give lane_for_key"):
        lane_for_key(object(), 16)
