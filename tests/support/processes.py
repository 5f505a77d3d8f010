"""The processes of a service, as the system sees them."""

import contextlib
import os
import resource
import signal
from collections.abc import Iterable, Iterator

import psutil
import pytest

WORKER = "flashsale_project.serving.worker"
"""The module that a worker process runs."""


def descendants(pid: int) -> dict[int, list[str]]:
    """The processes below this one, by pid, with the words of their command lines; no zombies."""
    try:
        below = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return {}
    return {child.pid: _command(child) for child in below if not _is_over(child)}


def workers(pid: int) -> list[int]:
    """The pids of the worker processes of this supervisor, in order."""
    return sorted(child for child, command in descendants(pid).items() if WORKER in command)


def runs(pid: int) -> bool:
    """Whether there is such a process; much cheaper than to look for it among all of them."""
    return bool(psutil.pid_exists(pid))


def postmaster(pid: int) -> int:
    """The main process of the embedded PostgreSQL below this process."""
    for child, command in descendants(pid).items():
        # Its backends have other titles.
        if len(command) > 1 and command[0].endswith("postgres") and command[1] == "-D":
            return child
    raise AssertionError("its database is not embedded, or does not run")


def told_of(word: str) -> list[str]:
    """The command lines of all processes that have this word there or in their environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            command = process.cmdline()
            if word in " ".join([*command, *process.environ().values()]):
                found.append(" ".join(command))
    return found


def variable(pid: int, name: str) -> str | None:
    """What a process has in its environment under this name, if it is still there."""
    with contextlib.suppress(psutil.Error):
        environment: dict[str, str] = psutil.Process(pid).environ()
        return environment.get(name)
    return None


def resident(pid: int) -> float:
    """The memory of a process, in MB."""
    return float(psutil.Process(pid).memory_info().rss) / 2**20


def send(sig: signal.Signals, pids: Iterable[int]) -> None:
    """Send a signal to those that are still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sig)


@contextlib.contextmanager
def many_files(count: int) -> Iterator[None]:
    """Allow so many open files here and in what is started; skip the test where that cannot be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        pytest.skip(f"needs {count:,} open files, and {hard:,} are allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _is_over(process: psutil.Process) -> bool:
    """Whether it has ended, even if nobody has asked how."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def _command(process: psutil.Process) -> list[str]:
    """Its words; none of a process that has ended or is another user's secret."""
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []
