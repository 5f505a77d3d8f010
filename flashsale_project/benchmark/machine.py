"""Where figures come from: hardware, versions, and how durable a commit is."""

import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil
import psycopg

PACKAGES = ("django", "uvicorn", "uvloop", "httptools", "psycopg")
SETTINGS = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "wal_sync_method")


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """The machine and its software; ``load`` is the average of the last minute before the run."""

    measured_at: str
    cpus: int
    cpu_model: str
    memory_gb: float
    kernel: str
    load: float
    python: str
    packages: dict[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Database:
    """PostgreSQL's settings that decide whether a commit is durable, and the file system that keeps it."""

    settings: dict[str, str]
    file_system: str


def machine() -> Machine:
    """This machine, now."""
    return Machine(
        measured_at=f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
        cpus=len(os.sched_getaffinity(0)),
        cpu_model=_cpu_model(),
        memory_gb=round(psutil.virtual_memory().total / 2**30, 1),
        kernel=platform.release(),
        load=round(os.getloadavg()[0], 2),
        python=platform.python_version(),
        packages={name: version(name) for name in PACKAGES},
    )


def database(url: str, cluster: Path) -> Database:
    """The server at this URL, which keeps its files in this directory."""
    with psycopg.connect(url, autocommit=True) as connection:
        settings = {}
        for name in SETTINGS:
            ((value,),) = connection.execute(f"SHOW {name}")
            settings[name] = value.split()[0]
    return Database(settings=settings, file_system=_file_system(cluster.resolve()))


def _file_system(path: Path) -> str:
    """The type of the file system that holds a path: that of the last mount nearest above it."""
    mounts = [mount for mount in psutil.disk_partitions(all=True) if path.is_relative_to(mount.mountpoint)]
    mounts.sort(key=lambda mount: len(mount.mountpoint))
    return mounts[-1].fstype if mounts else "unknown"


def _cpu_model() -> str:
    """The name of the CPU, which psutil does not know."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()
