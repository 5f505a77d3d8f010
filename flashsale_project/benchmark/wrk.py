"""wrk as a client, with the loads of ``mixed.lua`` and ``race.lua``."""

import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flashsale_project.benchmark.latency import Latency

MIXED = Path(__file__).with_name("mixed.lua")
RACE = Path(__file__).with_name("race.lua")

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


@dataclass(frozen=True, kw_only=True, slots=True)
class RaceOutcome:
    """A race that all items were bought in: seconds from the first request to the last purchase."""

    seconds: float
    held: int
    bought: int
    refused: int
    failed: int


def is_installed() -> bool:
    """Whether there is a wrk to run."""
    return shutil.which("wrk") is not None


def run_wrk(*, port: int, connections: int, items: int, seconds: float, heads: str = "same") -> Traffic:
    """Run wrk with one thread and such heads, ``same`` or ``new``. Raises `RuntimeError` where it fails."""
    try:
        finished = subprocess.run(
            _command(MIXED, port, connections, seconds),
            env=os.environ | {"ITEMS": str(items), "HEADS": heads},
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


def race_with_wrk(
    *, port: int, connections: int, items: range, seconds: float, after: Callable[[], None]
) -> RaceOutcome:
    """Let wrk buy each of these items; ``after`` is called as soon as it has.

    Raises `RuntimeError` where it has not within so many seconds.
    """
    with subprocess.Popen(
        _command(RACE, port, connections, seconds),
        env=os.environ | {"FIRST": str(items.start), "LAST": str(items.stop - 1)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        killer = threading.Timer(seconds + SPARE_SECONDS, process.kill)
        killer.start()
        try:
            assert process.stdout is not None
            told = next((line for line in process.stdout if line.startswith("{")), None)
            after()
            process.send_signal(signal.SIGINT)  # it sleeps until its time is over
            process.stdout.read()
        except BaseException:
            process.kill()
            raise
        finally:
            killer.cancel()
    if told is None:
        raise RuntimeError(f"wrk has not bought {len(items):,} items in {seconds:.0f} s.")
    return RaceOutcome(**json.loads(told))


def _command(script: Path, port: int, connections: int, seconds: float) -> list[str]:
    return [
        *("wrk", "--threads", "1", "--connections", str(connections)),
        *("--duration", f"{round(seconds)}s", "--timeout", f"{SLOW}s"),
        *("--script", str(script), f"http://127.0.0.1:{port}"),
    ]
