"""The options of a keyed processor, checked once and then left alone."""

import math
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

DEFAULT_LANES = 16 * (os.cpu_count() or 1)

LaneForKey = Callable[[Any, int], int]


def lane_for_key(key: object, lanes: int) -> int:
    """Which of so many lanes a key belongs to: the same one in every process and on every machine.

    The key counts as its `repr` shows it. Raises `TypeError` for a key without a `repr` of its own,
    which would be another one in each process (as `hash` of a string is).
    """
    if type(key).__repr__ is object.__repr__:
        raise TypeError(f"give lane_for_key for keys like this one: {key!r}")
    return zlib.crc32(repr(key).encode()) % lanes


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessorOptions:
    """What `KeyedProcessor` can be told. Raises `ValueError` that names the option which is wrong."""

    min_duration: float = 0.1
    """Seconds that a batch gathers from its first operation. 0: batches are clocked by their saves."""

    max_duration: float | None = None
    """Seconds that load and save of a batch may take together. ``None``: twice ``min_duration``, and
    no limit where that is 0. ``math.inf``: no limit."""

    save_timeout: float | None = None
    """Seconds that save may take of these. ``None``: all that is left."""

    max_size: int | None = None
    """Operations in a batch at most; a full one does not wait for its time."""

    max_pending: int | None = None
    """Operations of one key that may wait for their batch; more are refused."""

    lanes: int = DEFAULT_LANES
    """How many keys may load or save at the same time, at most."""

    lane_for_key: LaneForKey = lane_for_key
    """``lane_for_key(key, lanes)`` gives the lane of a key; keys of one lane wait for each other."""

    def __post_init__(self) -> None:
        check(
            "min_duration", self.min_duration, is_number(self.min_duration, 0), "a finite number, 0 or more"
        )
        for name in ("max_duration", "save_timeout"):
            seconds = getattr(self, name)
            right = seconds is None or seconds == math.inf or is_number(seconds, math.ulp(0))
            check(name, seconds, right, "a positive number or None")
        for name in ("max_size", "max_pending"):
            limit = getattr(self, name)
            check(name, limit, limit is None or is_count(limit), "a positive whole number or None")
        check("lanes", self.lanes, is_count(self.lanes), "a positive whole number")
        check("lane_for_key", self.lane_for_key, callable(self.lane_for_key), "callable")

    @property
    def time_limit(self) -> float | None:
        """Seconds that load and save may take together, or ``None``."""
        if self.max_duration is None:
            return 2 * self.min_duration or None
        return None if self.max_duration == math.inf else self.max_duration


def is_number(value: object, least: float) -> bool:
    """Whether an option is a finite number, at least this one."""
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value < math.inf


def is_count(value: object) -> bool:
    """Whether an option is a positive whole number."""
    return isinstance(value, int) and is_number(value, 1)


def check(name: str, value: object, right: bool, rule: str) -> None:
    """Raise `ValueError` that names the option, unless it is right."""
    if not right:
        raise ValueError(f"{name} must be {rule}, not {value!r}")
