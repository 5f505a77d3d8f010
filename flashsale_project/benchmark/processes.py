"""What the kernel says of processes: CPU time, memory, children. Linux only."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

GONE = (FileNotFoundError, ProcessLookupError)
"""What reading about a process raises that has ended."""

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Memory of one process in MB: resident, and with shared pages counted by their share."""

    rss: float
    pss: float


def children(parent: int) -> list[int]:
    """The pids of a process's children."""
    pids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(*GONE):
                if int(_stat(int(entry.name))[1]) == parent:
                    pids.append(int(entry.name))
    return sorted(pids)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, and of those of its children that have ended."""
    return sum(int(ticks) for ticks in _stat(pid)[11:15]) / TICKS


def memory(pid: int) -> Memory:
    """The memory of a process."""
    kilobytes = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, amount = line.split()[:2]
        kilobytes[name] = int(amount)
    return Memory(rss=round(kilobytes["Rss:"] / 1024, 1), pss=round(kilobytes["Pss:"] / 1024, 1))


def _stat(pid: int) -> list[str]:
    """The fields of ``/proc/PID/stat`` after the command's name: state, parent, …"""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
