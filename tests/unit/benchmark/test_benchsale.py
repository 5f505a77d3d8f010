"""The command benchsale: what it refuses, and how it ends."""

import importlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command

from flashsale_project.benchmark.management import commands
from flashsale_project.benchmark.page import BEGIN, END
from flashsale_project.benchmark.report import text
from flashsale_project.benchmark.results import Results


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--lanes", "express,slow"], "'slow' is not a lane: express, django"),
        (["--workers", "1,0"], "'0' is not a whole number above zero"),
        (["--workers", "33"], "--workers must be at most 32."),
        (["--connections", "many"], "'many' is not a whole number above zero"),
        (["--connections", "99999999"], "--connections 99999999 needs more open files than"),
        (["--items", "-1"], "'-1' is not a whole number above zero"),
        (["--runs", "0"], "'0' is not a whole number above zero"),
        (["--long", "--client", "builtin"], "--long needs wrk"),
        (["--page", "/dev/null"], "/dev/null has no place for the tables, from <!-- benchsale -->"),
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


def test_a_page_is_filled_in(results: Results, run_finds: Callable[[Results], None], tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"{BEGIN}{END}")
    run_finds(results)
    call_command("benchsale", "--page", str(page), verbosity=0)
    assert "| express, 1 worker |" in page.read_text()


def test_without_psutil_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ImproperlyConfigured, match=r"^benchsale needs psutil; .*pip install -e '\.\[bench\]'$"
    ):
        importlib.reload(commands)
