"""What people write into the environment, and what the settings say of what cannot be."""

import runpy
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from flashsale_project.settings import usual_workers

SETTINGS = Path(__file__).parents[2] / "flashsale_project" / "settings.py"


@pytest.fixture(autouse=True)
def given(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key, so that none is made and kept."""
    monkeypatch.setenv("SECRET_KEY", "x")


def read() -> dict[str, Any]:
    """The settings of a process that starts now."""
    return runpy.run_path(str(SETTINGS))


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("DEBUG", "maybe", "true or false"),
        ("FLASHSALE_TRAIN_EXAMPLE", "2", "true or false"),
        ("FLASHSALE_LOG_FORMAT", "xml", "text or json"),
        ("FLASHSALE_LOG_LEVEL", "loud", "INFO, DEBUG, WARNING, ERROR or CRITICAL"),
        ("FLASHSALE_LANE", "fast", "express or django"),
        ("FLASHSALE_WORKERS", "0", "above zero"),
        ("FLASHSALE_WORKERS", "1.5", "whole number"),
        ("FLASHSALE_ITEMS", "many", "whole number"),
        ("FLASHSALE_CHECKOUT_TTL", "-5", "above zero"),
        ("DATABASE_URL", "mysql://localhost/x", "postgresql://"),
        (
            "DATABASE_URL",
            "postgresql://me:secret@localhost:5432",
            "postgresql://user:password@host:port/name",
        ),
        (
            "DATABASE_URL",
            "postgresql://me:secret@localhost:x/sales",
            "postgresql://user:password@host:port/name",
        ),
        ("DATABASE_URL", "localhost/sales", "postgresql://"),
    ],
)
def test_a_setting_that_cannot_be_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, words: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ImproperlyConfigured) as caught:
        read()
    assert variable in str(caught.value)
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("value", ["true", "YES", "1", "on", "false", "No", "0", "off", ""])
def test_a_switch_takes_what_people_write(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("DEBUG", value)
    assert read()["DEBUG"] is (value.lower() in ("true", "yes", "1", "on"))


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/nobody/here"])
def test_a_data_directory_that_cannot_be_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SECRET_KEY", "")  # which has to be kept there
    monkeypatch.setenv("FLASHSALE_DATA_DIR", str(tmp_path / place))
    with pytest.raises(ImproperlyConfigured, match="FLASHSALE_DATA_DIR") as caught:
        read()
    assert f"The data directory {tmp_path / place} cannot be used" in str(caught.value)


@pytest.mark.parametrize(("query", "seconds"), [("", 5), ("?connect_timeout=17", 17)])
def test_a_database_is_given_seconds_to_answer_unless_its_url_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, query: str, seconds: int
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://me:x@host/sales{query}")
    assert int(read()["DATABASES"]["default"]["OPTIONS"]["connect_timeout"]) == seconds


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (2, 1), (3, 1), (4, 2), (8, 4), (64, 4)])
def test_workers_leave_half_of_the_cores_to_the_database(cores: int, workers: int) -> None:
    assert usual_workers(cores) == workers
