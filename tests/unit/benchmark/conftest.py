"""Results of a run that was never made."""

from dataclasses import replace

import pytest

from flashsale_project.benchmark.machine import Database, Machine
from flashsale_project.benchmark.processes import Memory
from flashsale_project.benchmark.results import (
    Configuration,
    Cpu,
    DatabaseRun,
    ReferenceRun,
    Results,
    SellOut,
    SoldOut,
    Successes,
)
from flashsale_project.benchmark.run import ratios
from tests.unit.benchmark.healthy import LATENCY, REFUSALS


@pytest.fixture
def results() -> Results:
    """Those of one configuration and its references."""
    successes = Successes(checkouts=LATENCY, purchases=LATENCY, refusals=LATENCY)
    shape = Configuration(
        lane="express",
        workers=1,
        connections=1000,
        database=Database(settings={"server_version": "15", "fsync": "on"}, file_system="ext4"),
        sell_out=SellOut(
            seconds=2,
            sales_rate=100,
            answer_rate=200,
            bought=200,
            latency=successes,
            cpu=Cpu(workers=20, postgres=10),
            client_cpu=0.25,
        ),
        sold_out=SoldOut(client="wrk", refusal_rate=80_000, latency=LATENCY, cpu=Cpu(workers=6, postgres=0)),
        memory=[Memory(rss=65, pss=50.2)],
    )
    references = [
        ReferenceRun(name="bare", traffic=replace(REFUSALS, seconds=1), cpu=10, problems=[]),
        ReferenceRun(name="bare", traffic=replace(REFUSALS, refused=500, seconds=2), cpu=16, problems=[]),
        ReferenceRun(name="stock", traffic=REFUSALS, cpu=500, problems=[]),
    ]
    databases = [DatabaseRun(seconds=0.5, problems=[]), DatabaseRun(seconds=1.5, problems=[])]
    return Results(
        options={"items": 200},
        machine=Machine(
            measured_at="2026-11-21 00:00:00 UTC",
            cpus=2,
            cpu_model="a CPU",
            memory_gb=4,
            kernel="6.1",
            load=0,
            python="3.11",
            packages={"django": "5.2"},
        ),
        configurations=[shape],
        references=references,
        database_alone=databases,
        ratios=[ratios(shape, references, databases)],
        ok=True,
    )
