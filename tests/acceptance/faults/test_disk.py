"""The disk of the database is full."""

import asyncio
import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.faults.conftest import BLIND, WITHOUT_DATABASE, Judged, until_unavailable
from tests.acceptance.history.operations import Call
from tests.support.service import MakeService

SIZE = 140
"""MB: the new cluster takes half of it."""


@pytest.fixture
def small_disk(full: bool) -> Iterator[Path]:
    """A file system of its own."""
    if not full or os.geteuid() != 0:
        pytest.skip("only in the full form, and only root can mount a file system")
    disk = Path(tempfile.mkdtemp(prefix="flashsale disk "))
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}m,mode=755", "tmpfs", str(disk)]
    try:
        if subprocess.run(command, check=False, capture_output=True).returncode:
            pytest.skip("even root may not mount a file system here")
        yield disk
        subprocess.run(["umount", str(disk)], check=True)
    finally:
        disk.rmdir()


async def test_the_disk_is_full(make_service: MakeService, judged: Judged, small_disk: Path) -> None:
    service = make_service("--checkout-ttl", "2", "--user-limit", "4", items=20_000, embedded=True)
    service.environment["FLASHSALE_DATA_DIR"] = str(small_disk)
    await asyncio.to_thread(service.start)
    filler = small_disk / "filler"
    try:
        async with judged("PostgreSQL: disk full", service, lag=BLIND) as run:
            run.runs = 3
            for _ in range(run.runs):
                await run.load.more(100)
                await asyncio.to_thread(fill, filler)
                await until_unavailable(run, Call.CHECKOUT)
                filler.unlink()
                await run.wait_until_back(time.monotonic())
        assert run.failures <= WITHOUT_DATABASE
    finally:
        assert await asyncio.to_thread(service.stop) == 0


def fill(filler: Path) -> None:
    """Take all that is left."""
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
