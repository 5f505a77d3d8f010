"""What the kernel says of processes: CPU time, memory, children. Linux only, for the shared memory."""

from dataclasses import dataclass

import psutil

GONE = psutil.NoSuchProcess
"""What a question about a process raises that has ended."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Memory of one process in MB: resident, and with shared pages counted by their share."""

    rss: float
    pss: float


def children(parent: int) -> list[int]:
    """The pids of a process's children."""
    return sorted(child.pid for child in psutil.Process(parent).children())


def command(pid: int) -> list[str]:
    """The command line of a process, word by word."""
    words: list[str] = psutil.Process(pid).cmdline()
    return words


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, and of those of its children that have ended."""
    spent = psutil.Process(pid).cpu_times()
    return float(spent.user + spent.system + spent.children_user + spent.children_system)


def memory(pid: int) -> Memory:
    """The memory of a process."""
    used = psutil.Process(pid).memory_full_info()
    return Memory(rss=round(used.rss / 2**20, 1), pss=round(used.pss / 2**20, 1))
