"""Results of a run that was never made."""

from dataclasses import replace

import pytest

from flashsale_project.benchmark.machine import Database, Machine
from flashsale_project.benchmark.processes import Memory
from flashsale_project.benchmark.quiet import Quiet
from flashsale_project.benchmark.results import (
    Configuration,
    Cpu,
    DatabaseRun,
    Race,
    RaceRun,
    ReferenceRun,
    RefusalRun,
    Results,
    SellOut,
    SoldOut,
    Successes,
)
from flashsale_project.benchmark.run import ratios
from flashsale_project.benchmark.standings import refusal_costs, standings
from tests.unit.benchmark.healthy import LATENCY, REFUSALS


@pytest.fixture
def race() -> Race:
    """Three rounds, in which the machine grows slower."""
    found = Race(client="wrk", connections=1000, items=200)
    for number, slower in enumerate((1.0, 2.0, 4.0)):
        for contender, seconds in (("bare", 0.5), ("database", 0.25), ("service", 1.0 + number / 2)):
            cpu = None if contender == "database" else Cpu(workers=20 * slower, postgres=10 * slower)
            found.runs.append(RaceRun(contender=contender, number=number, seconds=seconds * slower, cpu=cpu))
        for contender, cost in (("bare", 20.0), ("service", 5.0)):
            for heads in ("same", "new"):
                found.refusals.append(
                    RefusalRun(
                        contender=contender,
                        heads=heads,
                        number=number,
                        rate=1e6 / (cost * slower),
                        cpu=cost * slower,
                        problems=[],
                    )
                )
    return found


@pytest.fixture
def results(race: Race) -> Results:
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
        quiet=Quiet(cpus=2, others=0.01, stolen=0, load=0, width=0.1),
        noises=[],
        standings=standings(race),
        refusal_costs=refusal_costs(race),
        race=race,
        flat=[],
        configurations=[shape],
        references=references,
        database_alone=databases,
        ratios=[ratios(shape, references, databases)],
        ok=True,
    )
