"""What the files of a cluster and the system tell of its server's first process."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from flashsale_project.postgres.binaries import run


@dataclass(frozen=True, kw_only=True)
class Postmaster:
    """What a server's ``postmaster.pid`` says. It may be stale."""

    pid: int
    port: int
    is_ready: bool

    @classmethod
    def read(cls, cluster: Path) -> Postmaster | None:
        """What the file says; None if there is none that can be read."""
        try:
            lines = (cluster / "postmaster.pid").read_text(errors="replace").splitlines()
            # A starting server writes its lines one by one.
            lines += [""] * (8 - len(lines))
            return cls(pid=int(lines[0]), port=int(lines[3] or 0), is_ready=lines[7].strip() == "ready")
        except (FileNotFoundError, ValueError):
            return None

    def serves(self, cluster: Path) -> bool:
        """Whether there is such a process, and it is this cluster's."""
        return is_postmaster_of(self.pid, cluster)


def is_postmaster_of(pid: int, cluster: Path) -> bool:
    """Whether this process is the first one of a server of this cluster."""
    # Backends have other titles, so that an orphan is never taken for the postmaster.
    return f" -D {cluster} " in f"{command_line(pid)} "


def command_line(pid: int) -> str:
    """The arguments of a process; empty if it is gone or not yet reaped."""
    if sys.platform == "linux":
        try:
            return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" "))
        except (FileNotFoundError, ProcessLookupError):
            return ""
    else:
        line = run(None, "/bin/ps", "-ww", "-o", "stat=,args=", "-p", str(pid)).stdout.strip()
        return "" if line.startswith("Z") else line
