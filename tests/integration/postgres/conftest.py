"""Data directories, and servers in them that are stopped after each test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flashsale_project.postgres import binaries
from flashsale_project.postgres.server import EmbeddedPostgres
from tests.integration.postgres.servers import (
    OTHER_PROCESS,
    PROJECT,
    public_directory,
    servers_under,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Make = Callable[..., EmbeddedPostgres]
    StartProcess = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="package")
def remove() -> Iterator[Callable[[Path], None]]:
    """Removes directories while the tests go on: clusters that were synced to disk take a second each."""
    processes: list[subprocess.Popen[bytes]] = []
    yield lambda directory: processes.append(subprocess.Popen(["/bin/rm", "-rf", directory]))
    assert [process.wait() for process in processes] == [0] * len(processes)


@pytest.fixture(scope="package")
def prepared(remove: Callable[[Path], None]) -> Iterator[Path]:
    """A stopped cluster to copy: five times faster than a new one."""
    directory = public_directory()
    server = EmbeddedPostgres(directory)
    server.acquire()
    server.release()
    yield directory
    remove(directory)


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, remove: Callable[[Path], None]) -> Iterator[Path]:
    """A directory for everything a test makes; what root's servers put into the system comes here."""
    directory = public_directory()
    monkeypatch.setattr(binaries, "SYSTEM_STATE_DIR", directory / "system state")
    yield directory
    survivors = servers_under(directory)
    for pid in survivors:
        os.kill(pid, signal.SIGKILL)
    remove(directory)
    assert survivors == []


@pytest.fixture
def data(place: Path, prepared: Path) -> Path:
    """A data directory with a cluster that was stopped."""
    subprocess.run(["cp", "-a", prepared, place / "data"], check=True)
    return place / "data"


@pytest.fixture
def make(place: Path) -> Iterator[Make]:
    """Makes server objects and releases them in the end."""
    made: list[EmbeddedPostgres] = []

    def make(data_dir: Path, bin_dir: Path | None = None) -> EmbeddedPostgres:
        made.append(EmbeddedPostgres(data_dir, bin_dir))
        return made[-1]

    yield make
    for server in made:
        server.release()


@pytest.fixture
def start_process(place: Path) -> Iterator[StartProcess]:
    """Starts processes that acquire the server, tell its URL and pid, and keep it until their input ends."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: Path) -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", OTHER_PROCESS, *arguments],
                cwd=PROJECT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        with process:
            process.kill()
