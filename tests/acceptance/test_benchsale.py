"""benchsale as its user runs it, and what it makes of damaged books."""

import asyncio
import json
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import psycopg
import pytest
from django.db import connection

from flashsale_project.benchmark.books import read_books
from flashsale_project.benchmark.database_alone import PAST_ITEMS
from flashsale_project.benchmark.database_server import DatabaseServer
from flashsale_project.benchmark.flat import aged
from flashsale_project.benchmark.verdict import problems_of_sell_out
from sales import services
from sales.models import Sale
from sales.runtime import Runtime
from tests.support.processes import WORKER, told_of
from tests.support.service import clean_environment, launch
from tests.support.waiting import START, wait_for
from tests.unit.benchmark.healthy import OUTCOME

SMALL = ["--items", "200", "--connections", "8", "--workers", "1", "--seconds", "1", "--lanes", "express"]
SMALL += ["--runs", "2"]


@pytest.fixture
def directory() -> Iterator[Path]:
    """One for the temporary files of a run, which the account of the database can enter."""
    path = Path(tempfile.mkdtemp(prefix="benchsale-tests-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def start(directory: Path, *arguments: str) -> "subprocess.Popen[str]":
    """Run the command with its temporary files in this directory."""
    (directory / "tmp").mkdir(mode=0o755)
    return launch(
        *("benchsale", *SMALL, "--client", "builtin", *arguments),
        env=clean_environment(directory) | {"TMPDIR": str(directory / "tmp")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_small_run_measures_everything(directory: Path) -> None:
    document, drawing = directory / "results.json", directory / "chart.svg"
    process = start(directory, "--json", str(document), "--svg", str(drawing))
    stdout, stderr = process.communicate(timeout=4 * START)
    assert (process.returncode, stderr) == (0, ""), stdout
    found = json.loads(document.read_text())
    assert found["ok"] is True
    assert found["options"]["items"] == 200
    assert found["machine"]["cpus"] >= 1
    assert set(found["machine"]["packages"]) == {"django", "uvicorn", "uvloop", "httptools", "psycopg"}

    (shape,) = found["configurations"]
    assert_measured(shape)
    assert_compared(found)
    assert_raced(found)
    for title in (
        "Race: ",
        "Refusals after it",
        "Sell-out: ",
        "Sold out: ",
        "Random items: ",
        "Open loop: ",
        "References: ",
        "Ratios ",
    ):
        assert f"\n{title}" in stdout
    assert "Every certificate holds" in stdout
    assert "FAILED" not in stdout
    ET.fromstring(drawing.read_text())
    assert list((directory / "tmp").iterdir()) == []
    assert told_of(str(directory)) == []


def assert_measured(shape: dict[str, Any]) -> None:
    """Every part of a configuration has its figures, and they can be."""
    assert shape["database"]["settings"]["fsync"] == "on"
    assert shape["database"]["settings"]["synchronous_commit"] == "on"
    assert (shape["lane"], shape["workers"], shape["connections"]) == ("express", 1, 8)
    assert shape["problems"] == []
    sell_out = shape["sell_out"]
    assert sell_out["bought"] == 200
    assert sell_out["sales_rate"] == pytest.approx(200 / sell_out["seconds"])
    assert sell_out["answer_rate"] == pytest.approx(400 / sell_out["seconds"])
    assert sell_out["client_cpu"] > 0
    for part in (sell_out, shape["random_items"]):
        for kind in ("checkouts", "purchases"):
            assert_ordered(part["latency"][kind], 200)
    for cpu in (sell_out["cpu"], shape["sold_out"]["cpu"]):
        assert cpu["workers"] > 0
        assert cpu["postgres"] >= 0
    assert shape["sold_out"]["client"] == "builtin"
    assert shape["sold_out"]["refusal_rate"] > 0
    assert_ordered(shape["sold_out"]["latency"])
    (memory,) = shape["memory"]
    assert 10 < memory["pss"] <= memory["rss"] < 1000
    random_items = shape["random_items"]
    assert random_items["bought"] == 200
    assert 0 < random_items["bought_99_percent_after"] <= random_items["bought_last_after"]
    assert shape["mixed"] is None  # that is for wrk
    open_loop = shape["open_loop"]
    assert (open_loop["rate"], open_loop["connections"]) == (2000, 8)
    assert_ordered(open_loop["sending_lag"], 2000)
    answers = [open_loop["latency"][kind]["count"] for kind in ("checkouts", "purchases", "refusals")]
    assert sum(answers) == 2000


def assert_compared(found: dict[str, Any]) -> None:
    """The references were measured, before and after, and the ratios to them."""
    assert [run["name"] for run in found["references"]] == ["bare", "stock"] * 2
    for run in found["references"]:
        assert run["problems"] == []
        assert run["traffic"]["refused"] > 0
        assert run["cpu"] > 0
    assert len(found["database_alone"]) == 2
    for run in found["database_alone"]:
        assert run["seconds"] > 0
        assert run["problems"] == []
    (ratios,) = found["ratios"]
    assert all(ratios[name] > 0 for name in ratios if "_to_" in name)


def assert_raced(found: dict[str, Any]) -> None:
    """The service ran in each round, in turn with what it is compared with."""
    runs = [(run["contender"], run["number"]) for run in found["race"]["runs"]]
    assert runs == [(name, number) for number in range(2) for name in ("bare", "database", "service")]
    assert all(run["problems"] == [] and run["seconds"] > 0 for run in found["race"]["runs"])
    refusals = [(run["contender"], run["heads"]) for run in found["race"]["refusals"]]
    assert refusals == [("bare", "same"), ("service", "same")] * 2  # new heads are for wrk
    service, *_ = found["standings"]
    assert (service["contender"], service["seconds"]["runs"]) == ("service", 2)
    for name in (
        "seconds",
        "to_bare",
        "to_database",
        "cpu_to_bare",
        "cpu",
        "postgres",
        "hold_p50",
        "hold_p99",
    ):
        assert 0 < service[name]["least"] <= service[name]["median"] <= service[name]["most"]
    (cost,) = found["refusal_costs"]
    assert cost["cpu_to_bare"]["runs"] == 2
    assert 0 <= found["quiet"]["others"] <= 1


def assert_ordered(latency: dict[str, Any], count: int | None = None) -> None:
    assert 0 < latency["p50"] <= latency["p99"] <= latency["p999"] <= latency["maximum"]
    assert latency["count"] == (count or latency["count"])


def test_an_interrupted_run_leaves_nothing(directory: Path) -> None:
    process = start(directory, "--no-references")
    assert process.stdout is not None
    with process:
        assert "race, round 1 of 2" in process.stdout.readline()
        wait_for(lambda: any(WORKER in line for line in told_of(str(directory))))
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=START)
    assert process.returncode == 130
    assert stderr == "CommandError: Interrupted; everything was stopped.\n"
    assert list((directory / "tmp").iterdir()) == []
    assert told_of(str(directory)) == []


def test_a_database_can_be_made_to_have_a_past(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    with DatabaseServer() as server:
        url = server.renew()
        assert aged(server, url, "past", 3) == 3
        with psycopg.connect(url, autocommit=True) as past:
            sales = past.execute("SELECT items FROM sales_sale WHERE closed AND ends_at < now()").fetchall()
            ((sold,),) = past.execute("SELECT count(*) FROM sales_saleitem WHERE state = 'sold'")
    assert (sales, sold) == ([(PAST_ITEMS,)] * 3, 3 * PAST_ITEMS)


async def test_damage_after_a_sell_out_is_found(
    make_sale: Callable[..., Sale],
    open_worker: Callable[[], Awaitable[Runtime]],
    sql: Callable[..., list[tuple[Any, ...]]],
    tmp_path: Path,
) -> None:
    await asyncio.to_thread(make_sale, items=3)
    worker = await open_worker()
    codes = [await services.checkout(worker, user_id=item, item_id=item) for item in range(3)]
    for code in codes:
        await services.purchase(worker, code=code)
    told = [str(code) for code in codes]
    outcome = replace(OUTCOME, held=3, bought=3, codes=told, bought_codes=told)
    where = connection.settings_dict
    url = f"postgresql://{where['USER']}:{where['PASSWORD']}@{where['HOST']}:{where['PORT']}/{where['NAME']}"

    healthy = await asyncio.to_thread(read_books, url, clean_environment(tmp_path))
    assert problems_of_sell_out(outcome, healthy, 3) == []

    await asyncio.to_thread(sql, "DELETE FROM sales_checkout WHERE code = %s", codes[0])
    await asyncio.to_thread(
        sql, "UPDATE sales_saleitem SET state = 'held', purchased_at = NULL WHERE code = %s", codes[1]
    )
    damaged = await asyncio.to_thread(read_books, url, clean_environment(tmp_path))
    *others, certificate = sorted(problems_of_sell_out(outcome, damaged, 3), key=len)
    assert set(others) == {
        "1 acknowledged holds are not in the database",
        "1 acknowledged purchases are not in the database",
        "3 purchases were acknowledged, 2 items are sold",
    }
    assert certificate.startswith("the certificate does not hold: Sale ")
    assert f"item 0 is sold to user 0 by {codes[0]}" in certificate
