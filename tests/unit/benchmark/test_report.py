"""The results as text."""

from dataclasses import replace

from flashsale_project.benchmark.report import text
from flashsale_project.benchmark.results import Configuration, Results


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
