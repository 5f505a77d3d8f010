"""What a cost depends on: what fails is told, and the rest is measured."""

from collections.abc import Iterator
from typing import Any

import pytest

from flashsale_project.benchmark import flat
from flashsale_project.benchmark.results import FlatRun


def test_what_cannot_be_measured_keeps_nothing_else_from_being(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(server: Any, options: Any) -> Iterator[FlatRun]:
        yield FlatRun(name="first", items=1)
        raise RuntimeError("It broke.")

    def healthy(server: Any, options: Any) -> Iterator[FlatRun]:
        yield FlatRun(name="last", items=1)

    monkeypatch.setattr(flat, "_workers", broken)
    for name in ("_idle", "_past", "_large"):
        monkeypatch.setattr(flat, name, healthy)
    told: list[str] = []
    found = flat.flat(None, None, told.append)  # type: ignore[arg-type]
    assert told == ["first", "last", "last", "last"]
    assert [run.problems for run in found] == [[], ["It broke."], [], [], []]
