"""The directories of the services that share a data directory."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from flashsale_project.serving.metrics_directory import metrics_directory


def _live(data_dir: Path, channel: Connection) -> None:
    with metrics_directory(data_dir) as directory:
        (directory / "counter_1.db").touch()
        channel.send(directory)
        channel.recv()


@contextmanager
def service(data_dir: Path) -> Iterator[tuple[multiprocessing.process.BaseProcess, Path]]:
    """Another process with a directory of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_live, args=(data_dir, theirs))
    process.start()
    try:
        yield process, ours.recv()
    finally:
        ours.send(None)
        process.join()
        ours.close()
        theirs.close()


def test_each_service_has_its_own_and_removes_it(tmp_path: Path) -> None:
    with service(tmp_path) as (_, theirs), metrics_directory(tmp_path) as ours:
        assert sorted((tmp_path / "metrics").iterdir()) == sorted([ours, theirs])
        assert (theirs / "counter_1.db").exists()
    assert list((tmp_path / "metrics").iterdir()) == []


def test_the_next_start_removes_that_of_a_killed_service(tmp_path: Path) -> None:
    with service(tmp_path) as (process, theirs):
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert theirs.exists()
        with metrics_directory(tmp_path) as ours:
            assert list((tmp_path / "metrics").iterdir()) == [ours]


def test_what_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"), metrics_directory(tmp_path / "file"):
        pass
