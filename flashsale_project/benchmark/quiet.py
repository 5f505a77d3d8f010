"""Whether the machine was quiet: what others took of its CPUs while it was measured."""

import os
import resource
import time
from dataclasses import dataclass

import psutil

MAX_OTHERS, MAX_STOLEN, MAX_LOAD, MAX_WIDTH = 0.05, 0.02, 0.5, 0.25
"""Of the CPUs, that other processes and the host may take; of a CPU each, that was waited for before; of the
median, that rounds may be apart."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Quiet:
    """How busy the machine was with others; all but ``is_quiet`` and ``cpus`` are parts of 1."""

    cpus: int
    others: float
    """Of its CPU time, taken by processes that are not of the benchmark."""
    stolen: float
    """Of its CPU time, taken by the host of this virtual machine."""
    load: float
    """The load of the minute before, for each CPU."""
    width: float
    """How far the rounds of the race are apart, as a part of their median."""

    @property
    def noises(self) -> list[str]:
        """What was not quiet, in words."""
        return [
            words
            for is_noisy, words in (
                (self.others > MAX_OTHERS, f"other processes took {self.others:.0%} of the CPU time"),
                (self.stolen > MAX_STOLEN, f"the host took {self.stolen:.0%} of it away"),
                (self.load > MAX_LOAD, f"the load before was {self.load * self.cpus:.1f}"),
                (self.width > MAX_WIDTH, f"rounds of the race are {self.width:.0%} apart"),
            )
            if is_noisy
        ]


class Listener:
    """Listens from when it is made. The processes of the benchmark must have ended in the end."""

    def __init__(self, load: float) -> None:
        """``load`` is that before."""
        self._load = load
        self._began = time.monotonic()
        self._machine = psutil.cpu_times()
        self._ours = _ours()

    def heard(self, *, still_running: float, width: float) -> Quiet:
        """What was heard. ``still_running``: CPU seconds of what is ours and has not ended yet."""
        cpus = os.cpu_count() or 1
        now = psutil.cpu_times()
        busy = sum(getattr(now, name) - getattr(self._machine, name) for name in ("user", "nice", "system"))
        stolen = now.steal - self._machine.steal
        whole = (time.monotonic() - self._began) * cpus
        others = busy - (_ours() - self._ours) - still_running
        return Quiet(
            cpus=cpus,
            others=round(min(1, max(0, others / whole)), 3),
            stolen=round(min(1, stolen / whole), 3),
            load=round(self._load / cpus, 2),
            width=round(width, 3),
        )


def _ours() -> float:
    """CPU seconds of this process and of its descendants that have ended."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in spent)
