"""wrk as a client, with the load of ``mixed.lua``."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from flashsale_project.benchmark.latency import Latency

SCRIPT = Path(__file__).with_name("mixed.lua")

SLOW = 60
"""Seconds after which wrk counts an answer as missing. Few take so long, and the latencies tell of those."""

SPARE_SECONDS = 60.0
"""Seconds more than its run that wrk may take to connect and to end, before it is killed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Traffic:
    """What a closed loop of random requests met in ``seconds``; ``latency`` is of all answers."""

    client: str
    connections: int
    seconds: float
    held: int
    bought: int
    refused: int
    failed: int
    connection_errors: int
    latency: Latency

    @property
    def answers(self) -> int:
        """Answers of any kind."""
        return self.held + self.bought + self.refused + self.failed


def is_installed() -> bool:
    """Whether there is a wrk to run."""
    return shutil.which("wrk") is not None


def run_wrk(*, port: int, connections: int, items: int, seconds: float) -> Traffic:
    """Run wrk with one thread. Raises `RuntimeError` where it fails."""
    try:
        finished = subprocess.run(
            [
                *("wrk", "--threads", "1", "--connections", str(connections)),
                *("--duration", f"{round(seconds)}s", "--timeout", f"{SLOW}s"),
                *("--script", str(SCRIPT), f"http://127.0.0.1:{port}"),
            ],
            env=os.environ | {"ITEMS": str(items)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=seconds + SPARE_SECONDS,
            start_new_session=True,  # a Ctrl-C in the terminal is for the command alone
        )
    except (subprocess.SubprocessError, OSError) as error:
        raise RuntimeError(f"wrk failed: {error}.") from error
    found = json.loads(finished.stdout[finished.stdout.rindex("{") :])
    return Traffic(
        client="wrk",
        connections=connections,
        seconds=found["seconds"],
        held=found["held"],
        bought=found["bought"],
        refused=found["refused"],
        failed=found["failed"],
        connection_errors=sum(
            found[name] for name in ("connect_errors", "read_errors", "write_errors", "timeouts")
        ),
        latency=Latency(
            count=found["held"] + found["bought"] + found["refused"] + found["failed"],
            **{name: found[name] for name in ("p50", "p99", "p999", "maximum")},
        ),
    )
