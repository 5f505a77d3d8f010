"""The parts of benchsale that need no service: what they compute from what they are given."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from django.core.management import CommandError, call_command
from hypothesis import given
from hypothesis import strategies as st

from flashsale_project.benchmark.answer import AnswerReader
from flashsale_project.benchmark.arrivals import Arrivals
from flashsale_project.benchmark.books import Books
from flashsale_project.benchmark.chart import chart, svg
from flashsale_project.benchmark.crowd_process import Outcome
from flashsale_project.benchmark.database_alone import Sold
from flashsale_project.benchmark.latency import Latency, percentile
from flashsale_project.benchmark.machine import Database, Machine
from flashsale_project.benchmark.processes import Memory
from flashsale_project.benchmark.report import text
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
from flashsale_project.benchmark.service import ROOM, sale_period
from flashsale_project.benchmark.verdict import (
    problems_of_crowd,
    problems_of_database,
    problems_of_refusals,
    problems_of_sell_out,
    problems_of_traffic,
)
from flashsale_project.benchmark.wrk import Traffic

SVG = "{http://www.w3.org/2000/svg}"

# --- latencies


@pytest.mark.parametrize(
    ("percent", "expected"), [(0.1, 1), (1, 1), (50, 50), (50.1, 51), (99, 99), (99.9, 100), (100, 100)]
)
def test_a_percentile_is_the_value_at_the_nearest_rank(percent: float, expected: int) -> None:
    assert percentile(range(1, 101), percent) == expected


def test_rounding_does_not_move_a_percentile() -> None:
    assert percentile(range(1, 1001), 99.9) == 999


@given(st.lists(st.floats(0, 1e6), min_size=1), st.integers(1, 1000))
def test_a_percentile_is_the_smallest_value_that_enough_do_not_exceed(
    values: list[float], permille: int
) -> None:
    found = percentile(sorted(values), permille / 10)
    assert found in values
    assert sum(value <= found for value in values) * 1000 >= permille * len(values)
    assert sum(value < found for value in values) * 1000 < permille * len(values)


@pytest.mark.parametrize(("values", "percent"), [([], 50), ([1.0], 0), ([1.0], 100.1)])
def test_there_is_no_percentile_of_nothing(values: list[float], percent: float) -> None:
    with pytest.raises(ValueError, match="There is no"):
        percentile(values, percent)


def test_latencies_are_in_milliseconds_and_in_any_order() -> None:
    assert Latency.of(n / 1000 for n in reversed(range(1, 1001))) == Latency(
        count=1000, p50=500, p99=990, p999=999, maximum=1000
    )


def test_no_answers_have_no_latency() -> None:
    assert Latency.of([]) == Latency(count=0, p50=None, p99=None, p999=None, maximum=None)


# --- the open loop


def test_intended_times_are_evenly_spaced_and_given_once() -> None:
    arrivals = Arrivals(100, rate=4, count=5)
    assert list(arrivals.due(99.9)) == []
    assert arrivals.next_at == 100
    assert list(arrivals.due(100.3)) == [100, 100.25]
    assert list(arrivals.due(100.3)) == []
    assert arrivals.next_at == 100.5
    assert list(arrivals.due(200)) == [100.5, 100.75, 101]
    assert arrivals.next_at is None
    assert list(arrivals.due(300)) == []


def test_a_late_look_does_not_move_what_comes_after_it() -> None:
    punctual, late = Arrivals(0, rate=3, count=9000), Arrivals(0, rate=3, count=9000)
    one_by_one = [moment for n in range(9000) for moment in punctual.due(n / 3 + 0.01)]
    at_the_end = list(late.due(1e9))
    assert one_by_one == at_the_end
    assert at_the_end[-1] == 8999 / 3


# --- answers

CODE = b"00000040-0072-80d2-8b06-7bc5baa26c1e"
ANSWERS = [
    (b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-length: 36\r\n\r\n" + CODE, (200, CODE)),
    (b'HTTP/1.1 409 Conflict\r\nContent-Length: 9\r\nX: "\r\n\r\nsold\r\n\r\n!', (409, b"sold\r\n\r\n!")),
    (b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 1\r\n\r\n", (503, b"")),
]


@pytest.mark.parametrize(("data", "expected"), ANSWERS)
def test_an_answer_is_read_wherever_it_is_split(data: bytes, expected: tuple[int, bytes]) -> None:
    reader = AnswerReader()
    for split in range(1, len(data)):
        assert reader.feed(data[:split]) is None
        assert reader.feed(data[split:]) == expected


def test_answers_are_read_byte_by_byte_one_after_another() -> None:
    reader = AnswerReader()
    for data, expected in ANSWERS * 2:
        found = [reader.feed(data[place : place + 1]) for place in range(len(data))]
        assert found == [None] * (len(data) - 1) + [expected]


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: two\r\n\r\n",
        b"HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n",
        b"nonsense\r\ncontent-length: 0\r\n\r\n",
        ANSWERS[0][0] + ANSWERS[1][0],
        ANSWERS[0][0] + b"x",
    ],
)
def test_what_is_not_one_answer_with_a_length_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - one of int() is as good as one of ours
        AnswerReader().feed(data)


# --- the verdict

LATENCY = Latency(count=1, p50=1.5, p99=20.25, p999=300, maximum=300)

OUTCOME = Outcome(
    seconds=1,
    finished=True,
    answers=5,
    held=2,
    bought=2,
    refused=1,
    failed={},
    errors={},
    told_sold_out=True,
    bought_99_percent_after=0.8,
    bought_last_after=0.9,
    checkouts=LATENCY,
    purchases=LATENCY,
    refusals=LATENCY,
    all_answers=LATENCY,
    sending_lag=LATENCY,
    connections=3,
    connections_served=3,
    connect_errors=0,
    resets=0,
    unanswered=0,
    client_cpu=0.5,
    codes=["a", "b"],
    bought_codes=["a", "b"],
)
BOOKS = Books(holds=True, certificate="fine", sold=2, codes=frozenset("ab"), purchased=frozenset("ab"))
TRAFFIC = Traffic(
    client="wrk",
    connections=10,
    seconds=2,
    held=3,
    bought=2,
    refused=95,
    failed=0,
    connection_errors=0,
    latency=LATENCY,
)
REFUSALS = replace(TRAFFIC, held=0, bought=0, refused=100)


def test_a_healthy_run_has_no_problems() -> None:
    assert problems_of_sell_out(OUTCOME, BOOKS, 2) == []
    assert problems_of_crowd(OUTCOME, BOOKS) == []
    assert problems_of_traffic(TRAFFIC, BOOKS) == []
    assert problems_of_refusals(REFUSALS) == []
    assert problems_of_database(Sold(items=2, seconds=1, holds=True), 2) == []


@pytest.mark.parametrize(
    ("outcome", "books", "problem"),
    [
        ({"bought": 3}, {}, "3 purchases were acknowledged, 2 items are sold"),
        ({}, {"sold": 3}, "2 purchases were acknowledged, 3 items are sold"),
        ({}, {"codes": frozenset("bc")}, "1 acknowledged holds are not in the database"),
        ({}, {"purchased": frozenset("a")}, "1 acknowledged purchases are not in the database"),
        ({"codes": ["a", "b", "b"]}, {}, "a code was given twice"),
        ({}, {"holds": False, "certificate": "✗ broken\n"}, "the certificate does not hold: ✗ broken"),
        ({"failed": {"503": 4}}, {}, "4 answers 503"),
        ({"errors": {"no length": 1}}, {}, "1 times: no length"),
        ({"connect_errors": 5}, {}, "5 connections were refused"),
        ({"resets": 6}, {}, "6 connections were closed on a request"),
        ({"connections_served": 1}, {}, "2 connections were never served"),
        ({"unanswered": 7}, {}, "7 requests were not answered"),
        ({"finished": False, "seconds": 75.2}, {}, "it was not done after 75 s"),
    ],
)
def test_whatever_is_wrong_with_a_run_of_the_crowd_is_a_problem(
    outcome: dict[str, Any], books: dict[str, Any], problem: str
) -> None:
    assert problem in problems_of_crowd(replace(OUTCOME, **outcome), replace(BOOKS, **books))


def test_a_sell_out_must_sell_everything_and_say_so() -> None:
    assert problems_of_sell_out(OUTCOME, BOOKS, 3) == ["2 of 3 items were bought"]
    assert problems_of_sell_out(replace(OUTCOME, told_sold_out=False), BOOKS, 2) == [
        "the service did not say that it was sold out"
    ]
    assert problems_of_database(Sold(items=2, seconds=1, holds=False), 3) == [
        "the certificate does not hold",
        "2 of 3 items are sold",
    ]


@pytest.mark.parametrize(("sold", "agrees"), [(1, False), (2, True), (12, True), (13, False)])
def test_a_run_that_was_cut_off_may_have_bought_what_was_under_way(sold: int, agrees: bool) -> None:
    problems = problems_of_traffic(TRAFFIC, replace(BOOKS, sold=sold))
    assert problems == ([] if agrees else [f"2 purchases were acknowledged, {sold} items are sold"])


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"held": 1}, "1 requests were not refused"),
        ({"bought": 1}, "1 requests were not refused"),
        ({"failed": 2}, "2 answers were failures"),
        ({"connection_errors": 3}, "3 connections failed"),
        ({"refused": 0}, "nothing was answered"),
    ],
)
def test_after_the_sell_out_everything_must_be_refused(changes: dict[str, int], problem: str) -> None:
    assert problems_of_refusals(replace(REFUSALS, **changes)) == [problem]


# --- what is shown


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


def test_ratios_are_those_to_the_means_of_the_references(results: Results) -> None:
    (found,) = results.ratios
    assert found.refusals_to_bare == 400  # 80,000 to 600 in 3 s
    assert found.refusals_to_stock == 1600
    assert found.cpu_to_bare == 0.4  # 6 to 15: 100 of 10 and 500 of 16
    assert found.cpu_to_stock == 0.012
    assert found.sell_out_to_database == 2


def test_what_was_not_measured_has_no_ratio() -> None:
    found = ratios(Configuration(lane="express", workers=1, connections=1), [], [])
    assert set(asdict(found).values()) == {"express", 1, None}


def test_the_text_shows_what_was_measured_and_where(results: Results) -> None:
    shown = text(results)
    assert "2 CPUs (a CPU)" in shown
    assert "PostgreSQL 15 on ext4: fsync on" in shown
    (sell_out,) = (line for line in shown.splitlines() if "1.50 / 20.2 / 300  1.50 / 20.2 / 300" in line)
    assert sell_out.split()[:6] == ["express", "1", "1,000", "2.00", "100", "200"]
    assert sell_out.split()[-4:] == ["20.0", "10.0", "25%", "ok"]
    assert "Every certificate holds" in shown
    assert "Open loop" not in shown
    assert "FAILED" not in shown


def test_the_text_marks_the_row_that_failed(results: Results) -> None:
    results.configurations[0].problems.append("1 of 2 items were bought")
    shown = text(replace(results, ok=False))
    rows = [line for line in shown.splitlines() if line.startswith("  express ")]
    assert [row.split()[-1] for row in rows[:2]] == ["FAILED", "FAILED"]
    assert "express, 1 workers, 1,000 connections: 1 of 2 items were bought" in shown
    assert "Every certificate holds" not in shown


def test_a_configuration_without_figures_has_its_row(results: Results) -> None:
    failed = Configuration(lane="django", workers=2, connections=1000, problems=["it broke"])
    shown = text(replace(results, configurations=[failed], references=[], ratios=[], ok=False))
    (row,) = (line for line in shown.splitlines() if line.startswith("  django "))
    assert row.split() == ["django", "2", "1,000", *"-" * 8, "FAILED"]
    assert "Sold out" not in shown


def test_the_chart_is_well_formed_and_says_everything(results: Results) -> None:
    root = ET.fromstring(svg(results))
    assert root.tag == f"{SVG}svg"
    written = [element.text for element in root.iter(f"{SVG}text")]
    for expected in ("this service, express", "bare ASGI function", "stock Django view"):
        assert written.count(expected) == 2
    for expected in ("80,000", "200", "50.0", "6.0", "15.0", "500"):
        assert expected in written
    assert len(list(root.iter(f"{SVG}rect"))) == 6


def test_bars_are_as_long_as_their_values() -> None:
    root = ET.fromstring(chart("a & b", {"<c>": [("x", 50.0, True), ("y", 100.0, False), ("z", 0.0, False)]}))
    widths = [float(rect.attrib["width"]) for rect in root.iter(f"{SVG}rect")]
    assert widths[1] == 2 * widths[0] > 100
    assert widths[2] == 1
    top, height = (float(value) for value in (root.attrib["viewBox"].split()[1::2]))
    for element in root.iter(f"{SVG}rect"):
        assert top <= float(element.attrib["y"]) < height - float(element.attrib["height"])
    assert root.attrib["aria-label"] == "a & b"


# --- the command


def test_a_sale_goes_on_for_long_enough_at_any_time() -> None:
    for now in range(0, 10 * 86_400, 599):
        period = sale_period(now)
        assert period - now % period > ROOM
        assert 86_400 <= period < 2 * 86_400


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--lanes", "express,slow"], "'slow' is not a lane: express, django"),
        (["--workers", "1,0"], "'0' is not a whole number above zero"),
        (["--workers", "33"], "--workers must be at most 32."),
        (["--connections", "many"], "'many' is not a whole number above zero"),
        (["--connections", "99999999"], "--connections 99999999 needs more open files than"),
        (["--items", "-1"], "'-1' is not a whole number above zero"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_started(arguments: list[str], error: str) -> None:
    with pytest.raises(CommandError, match=error):
        call_command("benchsale", *arguments)


@pytest.fixture
def run_finds(monkeypatch: pytest.MonkeyPatch) -> Callable[[Results], None]:
    """Let the command find these results, without a run."""

    def find(results: Results) -> None:
        monkeypatch.setattr(
            "flashsale_project.benchmark.management.commands.benchsale.run", lambda options, say: results
        )

    return find


def test_failed_results_are_printed_and_exit_with_1(
    results: Results, run_finds: Callable[[Results], None], capsys: pytest.CaptureFixture[str]
) -> None:
    run_finds(replace(results, ok=False))
    with pytest.raises(CommandError, match="FAILED") as error:
        call_command("benchsale", "--json", "-")
    assert error.value.returncode == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False


def test_good_results_exit_with_0(
    results: Results, run_finds: Callable[[Results], None], capsys: pytest.CaptureFixture[str]
) -> None:
    run_finds(results)
    call_command("benchsale")
    assert capsys.readouterr().out.strip() == text(results)
