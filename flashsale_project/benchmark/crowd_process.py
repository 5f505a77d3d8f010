"""The crowd in a process of its own, so that what it measures is not disturbed by who asks.

Run as ``python -m flashsale_project.benchmark.crowd_process JOB``, a `Job` as JSON. It connects, says
``ready``, waits for a line, runs the load, and prints an `Outcome` as JSON.
"""

import asyncio
import gc
import json
import resource
import select
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from flashsale_project.benchmark.crowd import CHECKOUT, PURCHASE, Crowd
from flashsale_project.benchmark.latency import Latency
from flashsale_project.benchmark.loads import EachItemOnce, OpenLoop, RandomItems

PROJECT = Path(__file__).resolve().parents[2]

CONNECT_SECONDS = 60.0
"""Seconds for all connections to open."""

DRAIN_SECONDS = 15.0
"""Seconds for what was asked before the end of a load to be answered."""

SPARE_SECONDS = 30.0
"""Seconds more than its job that the process may take, before it is killed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What a crowd is to do; ``load`` is a name of `LOADS`, ``rate`` is of an open loop, in requests/s."""

    load: str
    port: int
    connections: int
    items: int
    seconds: float
    rate: float = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What came of it. Times are seconds from the first request; ``None`` for what did not happen."""

    seconds: float
    finished: bool
    answers: int
    held: int
    bought: int
    refused: int
    failed: dict[str, int]
    errors: dict[str, int]
    told_sold_out: bool
    bought_99_percent_after: float | None
    bought_last_after: float | None
    checkouts: Latency
    purchases: Latency
    refusals: Latency
    all_answers: Latency
    sending_lag: Latency
    connections: int
    connections_served: int
    connect_errors: int
    resets: int
    unanswered: int
    client_cpu: float
    codes: list[str]
    bought_codes: list[str]

    @classmethod
    def from_json(cls, text: str) -> "Outcome":
        """The reverse of `asdict` and `json.dumps`."""
        values = json.loads(text)
        for name in ("checkouts", "purchases", "refusals", "all_answers", "sending_lag"):
            values[name] = Latency(**values[name])
        return cls(**values)


LOADS: dict[str, Callable[[Job], Crowd]] = {
    "each item once": lambda job: EachItemOnce(job.items),
    "random items": lambda job: RandomItems(job.items, job.seconds),
    "open loop": lambda job: OpenLoop(job.items, job.rate, job.seconds),
}


def run_crowd(job: Job, *, before: Callable[[], None] | None = None) -> Outcome:
    """Run a job in a process of its own; ``before`` is called once it is connected, just before it starts.

    Raises `RuntimeError` where the process fails or takes far longer than its job.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, json.dumps(asdict(job))],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a Ctrl-C in the terminal is for the command alone
    )
    try:
        with process:
            try:
                assert process.stdout is not None
                if not select.select([process.stdout], [], [], CONNECT_SECONDS + SPARE_SECONDS)[0]:
                    raise RuntimeError("The crowd does not connect.")
                process.stdout.readline()
                if before is not None:
                    before()
                text, _ = process.communicate("go\n", timeout=job.seconds + DRAIN_SECONDS + SPARE_SECONDS)
            except BaseException:
                process.kill()
                raise
    except subprocess.TimeoutExpired as error:
        raise RuntimeError("The crowd does not end.") from error
    if process.returncode != 0:
        raise RuntimeError(f"The crowd ended with {process.returncode}; its own message stands above.")
    return Outcome.from_json(text)


def _outcome(crowd: Crowd, finished: bool, client_cpu: float) -> Outcome:
    started = crowd.started_at
    seconds = crowd.ended_at - started
    bought_at = crowd.bought_at
    refusals = crowd.latencies["refusal"]
    almost_all = -(-crowd.items * 99 // 100)
    return Outcome(
        seconds=seconds,
        finished=finished,
        answers=sum(connection.answers for connection in crowd.connections),
        held=len(crowd.codes),
        bought=len(crowd.bought),
        refused=len(refusals),
        failed={str(status): count for status, count in crowd.failed.items()},
        errors=dict(crowd.errors),
        told_sold_out=isinstance(crowd, EachItemOnce) and crowd.told_sold_out,
        bought_99_percent_after=bought_at[almost_all - 1] - started if len(bought_at) >= almost_all else None,
        bought_last_after=bought_at[-1] - started if len(bought_at) == crowd.items else None,
        checkouts=Latency.of(crowd.latencies[CHECKOUT]),
        purchases=Latency.of(crowd.latencies[PURCHASE]),
        refusals=Latency.of(refusals),
        all_answers=Latency.of(seconds for kind in crowd.latencies.values() for seconds in kind),
        sending_lag=Latency.of(crowd.lags if isinstance(crowd, OpenLoop) else ()),
        connections=len(crowd.connections),
        connections_served=sum(connection.answers > 0 for connection in crowd.connections),
        connect_errors=crowd.connect_errors,
        resets=crowd.resets,
        unanswered=crowd.unanswered,
        client_cpu=client_cpu / seconds,
        codes=[code.decode() for code in crowd.codes],
        bought_codes=[code.decode() for code in crowd.bought],
    )


def main(job: Job) -> None:
    """Do a job, in step with whoever started this process."""
    import uvloop

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        crowd = LOADS[job.load](job)
        runner.run(crowd.connect(job.port, job.connections))
        gc.freeze()
        gc.disable()  # its pauses would count as the service's
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        if not sys.stdin.readline():
            return  # whoever started this is gone
        before = time.process_time()
        finished = runner.run(crowd.run(job.seconds + DRAIN_SECONDS))
        outcome = _outcome(crowd, finished, time.process_time() - before)
        sys.stdout.write(json.dumps(asdict(outcome)))


if __name__ == "__main__":
    main(Job(**json.loads(sys.argv[1])))
