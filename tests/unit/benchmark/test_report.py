"""The results as text."""

from dataclasses import replace

from flashsale_project.benchmark.page import BEGIN, END, filled_in, has_marks
from flashsale_project.benchmark.report import text
from flashsale_project.benchmark.results import Configuration, Cpu, FlatRun, Results


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
    rows = [line for line in shown.splitlines() if line.startswith("  express  ")]
    assert [row.split()[-1] for row in rows[:2]] == ["FAILED", "FAILED"]
    assert "express, 1 workers, 1,000 connections: 1 of 2 items were bought" in shown
    assert "Every certificate holds" not in shown


def test_a_configuration_without_figures_has_its_row(results: Results) -> None:
    failed = Configuration(lane="django", workers=2, connections=1000, problems=["it broke"])
    shown = text(replace(results, configurations=[failed], references=[], ratios=[], ok=False))
    (row,) = (line for line in shown.splitlines() if line.startswith("  django "))
    assert row.split() == ["django", "2", "1,000", *"-" * 8, "FAILED"]
    assert "Sold out" not in shown


def test_the_race_comes_first_with_ratios_within_its_rounds(results: Results) -> None:
    shown = text(results)
    assert shown.startswith(
        "200 items held and bought in 3.00 (1.00 to 8.00) s: 3.00 (2.00 to 4.00) times a bare ASGI function's"
    )
    (row,) = (line for line in shown.splitlines() if line.startswith("  express, 1 worker"))
    cells = row.split("  ")
    assert "3.00 (2.00 to 4.00)" in cells[2]
    assert "1.00 (1.00 to 1.00)" in row  # CPU
    assert row.split()[-2:] == ["1.50", "20.2"]  # of the crowd's sell-out: wrk does not tell holds
    (refusal,) = (line for line in shown.splitlines() if line.startswith("  new in each"))
    assert "0.25 (0.25 to 0.25)" in refusal
    assert "The machine was quiet." in shown


def test_a_busy_machine_is_told_in_one_line(results: Results) -> None:
    shown = text(
        replace(results, noises=["other processes took 31% of the CPU time", "the load before was 4.0"])
    )
    assert "THIS MACHINE WAS NOT QUIET: other processes took 31% of the CPU time, the load before" in shown


def test_failures_of_the_race_are_told(results: Results) -> None:
    results.race.runs[2].problems.append("1 of 200 items were bought")
    results.race.refusals[0].problems.append("nothing was answered")
    flat = [FlatRun(name="10 past sales", items=5, problems=["it broke"])]
    shown = text(replace(results, flat=flat, ok=False))
    assert "  race, service, 1 workers, round 1: 1 of 200 items were bought" in shown
    assert "  refusals, bare, heads same, round 1: nothing was answered" in shown
    assert "  10 past sales: it broke" in shown


def test_circumstances_are_multiples_of_the_first(results: Results) -> None:
    flat = [
        FlatRun(name="1 worker", items=10, seconds=1, cpu=Cpu(workers=20, postgres=20)),
        FlatRun(name="9 past sales", items=10, seconds=1, cpu=Cpu(workers=20, postgres=30), note="9 made"),
    ]
    lines = text(replace(results, flat=flat)).splitlines()
    rows = [line.split() for line in lines if line.startswith(("  1 worker ", "  9 past sales "))]
    assert [row[-2:] for row in rows] == [["1.00", "ok"], ["9", "made"]]
    assert rows[1][-3] == "1.25"


def test_a_page_gets_the_tables_between_its_marks(results: Results) -> None:
    page = f"before\n{BEGIN}\nyesterday's\n{END}\nafter\n"
    assert has_marks(page)
    assert not has_marks(page.replace(END, ""))
    filled = filled_in(page, results)
    assert filled.startswith(f"before\n{BEGIN}\n\nRace: each of 200 items")
    assert filled.endswith(f"The machine was quiet.\n\n{END}\nafter\n")
    assert "| express, 1 worker | 3.00 (2.00 to 4.00) |" in filled
    assert "yesterday" not in filled
    assert filled_in(filled, results) == filled
