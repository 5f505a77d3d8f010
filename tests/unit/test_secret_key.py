"""The secret key of an installation that was given none."""

import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from flashsale_project.secret_key import kept_secret_key

PATIENCE = 20
"""Seconds after which parallel workers that do not meet are given up."""


def entries(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_the_key_is_made_once_and_kept(tmp_path: Path) -> None:
    key = kept_secret_key(tmp_path)
    assert [kept_secret_key(tmp_path) for _ in range(3)] == [key] * 3
    assert (tmp_path / "secret_key").read_text() == key


def test_the_key_is_long_and_another_for_every_installation(tmp_path: Path) -> None:
    keys = {kept_secret_key(tmp_path / str(n)) for n in range(20)}
    assert len(keys) == 20
    assert {len(key) for key in keys} == {67}  # 50 random bytes in base64
    assert all(key.isascii() and key == key.strip() for key in keys)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_only_the_owner_may_read_the_key(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        kept_secret_key(tmp_path)
    finally:
        os.umask(before)
    assert (tmp_path / "secret_key").stat().st_mode & 0o777 == 0o600


def test_nothing_but_the_key_is_left_in_the_directory(tmp_path: Path) -> None:
    kept_secret_key(tmp_path)
    assert entries(tmp_path) == ["secret_key"]


def test_missing_directories_are_made(tmp_path: Path) -> None:
    key = kept_secret_key(tmp_path / "a" / "b")
    assert kept_secret_key(tmp_path / "a" / "b") == key
    assert entries(tmp_path / "a" / "b") == ["secret_key"]


def test_a_key_that_exists_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "secret_key"
    path.write_text("given by the operator")
    path.chmod(0o400)
    before = path.stat()
    assert kept_secret_key(tmp_path) == "given by the operator"
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert path.stat().st_mode == before.st_mode


def test_what_a_killed_process_left_behind_is_no_key(tmp_path: Path) -> None:
    """A draft of this very process id, from an earlier life of the machine."""
    (tmp_path / f"secret_key.{os.getpid()}").write_text("half a k")
    key = kept_secret_key(tmp_path)
    assert len(key) == 67
    assert kept_secret_key(tmp_path) == key


# --- at once


def test_threads_that_come_at_once_agree(tmp_path: Path) -> None:
    together = threading.Barrier(8)

    def first(data_dir: Path) -> str:
        together.wait(PATIENCE)
        return kept_secret_key(data_dir)

    with ThreadPoolExecutor(8) as threads:
        for n in range(25):
            data_dir = tmp_path / str(n)
            ends = [threads.submit(first, data_dir) for _ in range(8)]
            keys = {end.result() for end in ends}
            assert keys == {(data_dir / "secret_key").read_text()}
            assert {len(key) for key in keys} == {67}
            assert entries(data_dir) == ["secret_key"]


def _in_a_process(together: Barrier, told: "SimpleQueue[list[str]]", data_dirs: list[Path]) -> None:
    keys = []
    for data_dir in data_dirs:
        together.wait(PATIENCE)
        try:
            keys.append(kept_secret_key(data_dir))
        except OSError as error:
            keys.append(repr(error))
    told.put(keys)


def test_processes_that_come_at_once_agree(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    together, told = context.Barrier(4), context.SimpleQueue()
    data_dirs = [tmp_path / str(n) for n in range(25)]
    processes = [
        context.Process(target=_in_a_process, args=(together, told, data_dirs), daemon=True) for _ in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE)
    assert [process.exitcode for process in processes] == [0] * 4
    answers = [told.get() for _ in processes]
    told.close()
    for process in processes:
        process.close()
    kept = [(data_dir / "secret_key").read_text() for data_dir in data_dirs]
    assert answers == [kept] * 4
    assert {len(key) for key in kept} == {67}
    assert [entries(data_dir) for data_dir in data_dirs] == [["secret_key"]] * 25


# --- refusals


def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for data_dir in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match=r"exists|Not a directory"):
            kept_secret_key(data_dir)
    assert entries(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A directory that every user may reach: the temporary ones of pytest are its user's alone."""
    with tempfile.TemporaryDirectory(prefix="flashsale-key-") as name:
        os.chmod(name, 0o755)
        (path := Path(name) / "data").mkdir(mode=0o700)
        yield path


def refused_as_nobody(data_dir: Path) -> str:
    """Ask for the key as a user without rights (root has them all), and return the error's name."""
    source = """
import os, sys
from pathlib import Path
from flashsale_project.secret_key import kept_secret_key
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    kept_secret_key(Path(sys.argv[1]))
except OSError as error:
    print(type(error).__name__)
"""
    done = subprocess.run(
        [sys.executable, "-c", source, str(data_dir)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    return done.stdout.strip()


def test_a_directory_that_cannot_be_entered_is_refused(data_dir: Path) -> None:
    data_dir.chmod(0o000)
    assert refused_as_nobody(data_dir) == "PermissionError"
    data_dir.chmod(0o700)
    assert entries(data_dir) == []


def test_a_directory_that_cannot_be_written_is_refused(data_dir: Path) -> None:
    data_dir.chmod(0o555)
    assert refused_as_nobody(data_dir) == "PermissionError"
    data_dir.chmod(0o700)
    assert entries(data_dir) == []


def test_a_key_that_cannot_be_read_is_refused_and_not_replaced(data_dir: Path) -> None:
    path = data_dir / "secret_key"
    path.write_text("somebody else's")
    path.chmod(0o000)
    data_dir.chmod(0o777)
    assert refused_as_nobody(data_dir) == "PermissionError"
    path.chmod(0o600)
    assert path.read_text() == "somebody else's"
    assert entries(data_dir) == ["secret_key"]
