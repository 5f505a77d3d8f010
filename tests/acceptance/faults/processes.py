"""The processes of a service, as the system sees them."""

import contextlib
import os
import resource
import signal
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import Service


def family(service: Service) -> list[int]:
    """The service's main process, its workers, its embedded PostgreSQL and all of their children."""
    assert service.process is not None
    return [service.process.pid, *descendants(service.process.pid)]


def descendants(pid: int) -> list[int]:
    """The children of a process, and theirs."""
    children: dict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
                children[int(stat[1])].append(int(entry.name))
    found, left = [], [pid]
    while left:
        left += (new := children[left.pop()])
        found += new
    return found


def postmaster(service: Service) -> int:
    """The main process of its embedded PostgreSQL."""
    for pid in family(service):
        with contextlib.suppress(OSError):
            # Its backends have other titles.
            if b"postgres\0-D\0" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
    raise AssertionError("its database is not embedded, or does not run")


def send(sig: signal.Signals, pids: Iterable[int]) -> None:
    """Send a signal to those that are still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sig)


def resident(pid: int) -> float:
    """The memory of a process, in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


@contextlib.contextmanager
def many_files(count: int) -> Iterator[None]:
    """Allow so many open files here and in what is started; skip the test where that cannot be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        pytest.skip(f"needs {count:,} open files, and {hard:,} are allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
