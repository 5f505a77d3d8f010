"""What people get wrong is told in a line or two that say what to do, with exit code 1 and no traceback."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from tests.support.database import NewUrl
from tests.support.service import PROJECT, MakeService, clean_environment
from tests.support.waiting import START

Result = subprocess.CompletedProcess[str]

LONG = 300
"""Characters of what anybody reads of a mistake."""


@pytest.fixture(scope="module")
def lane() -> str:
    """The usual one: nothing is answered here."""
    return "express"


def error_of(result: Result) -> str:
    """What a command complains about, in at most three lines."""
    assert result.returncode == 1, result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    lines = result.stderr.strip().splitlines()
    assert 1 <= len(lines) <= 3, result.stderr
    assert all(len(line) < LONG for line in lines)
    return result.stderr


def manage(python: str, *arguments: str, directory: Path = PROJECT, **variables: str) -> Result:
    """Run manage.py with nothing but these variables, and without a database."""
    return subprocess.run(
        [python, str(PROJECT / "manage.py"), *arguments],
        cwd=directory,
        env={"PATH": os.environ["PATH"], "SECRET_KEY": "x"} | variables,
        capture_output=True,
        text=True,
        timeout=START,
        check=False,
    )


# --- the environment


def test_without_the_virtual_environment_it_says_how_to_make_it(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path], check=True, timeout=START)
    python = str(tmp_path / "bin" / "python")
    error = error_of(manage(python, "runsale"))
    assert f"django is not installed for {python}" in error
    assert "python3 -m venv .venv && . .venv/bin/activate && pip install -e ." in error


def test_a_python_that_is_too_old_is_named(tmp_path: Path) -> None:
    code = f"""
import runpy, sys
sys.version_info = (3, 9, 2, "final", 0)
runpy.run_path({str(PROJECT / "manage.py")!r}, run_name="__main__")
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert re.search(r"Python 3\.11 or newer is needed; .* is 3\.9\.2", error_of(result))


@pytest.mark.parametrize("command", ["runserver", "test"])
def test_commands_that_cannot_work_name_the_one_to_use(command: str) -> None:
    error = error_of(manage(sys.executable, command, "--noreload", "8000"))
    assert ("pytest" if command == "test" else "python manage.py runsale") in error


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("DEBUG", "maybe", "true or false"),
        ("FLASHSALE_PG_BIN", "/nowhere", "/nowhere"),
        ("DATABASE_URL", "postgresql://me:secret@localhost:x/sales", "postgresql://user:password@host"),
    ],
)
def test_a_setting_that_cannot_be_is_named(variable: str, value: str, words: str) -> None:
    """By any command. What the settings say of which value: `tests/unit/test_settings.py`."""
    error = error_of(manage(sys.executable, "verifysale", **{variable: value}))
    assert variable in error
    assert words in error
    assert "secret" not in error


@pytest.mark.parametrize("command", ["runsale", "verifysale", "createsuperuser", "check"])
def test_a_data_directory_that_cannot_be_is_named_by_every_command(command: str, tmp_path: Path) -> None:
    impossible = tmp_path / "file"
    impossible.touch()
    error = error_of(manage(sys.executable, command, SECRET_KEY="", FLASHSALE_DATA_DIR=str(impossible)))
    assert f"The data directory {impossible} cannot be used" in error
    assert "FLASHSALE_DATA_DIR" in error


def test_a_data_directory_that_cannot_be_is_named_where_nothing_but_the_database_needs_it(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    for command in ("runsale", "verifysale"):
        error = error_of(manage(sys.executable, command, FLASHSALE_DATA_DIR=str(tmp_path / "file")))
        assert str(tmp_path / "file") in error


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("items", "-1"),
        ("user-limit", "0"),
        ("checkout-ttl", "86401"),
        ("workers", "33"),
        ("port", "-1"),
        ("port", "70000"),
        ("period", "0"),
        ("items", "99999999"),
    ],
)
def test_an_option_is_blamed_by_its_name(option: str, value: str) -> None:
    wrong = rf"^--{option} must be a whole number from [01] to \d+, not {value}\.$"
    with pytest.raises(CommandError, match=wrong):
        call_command("runsale", f"--{option}={value}")


@pytest.mark.parametrize(
    ("arguments", "variables", "blamed"),
    [(("--workers", "33"), {}, "--workers"), ((), {"FLASHSALE_WORKERS": "33"}, "FLASHSALE_WORKERS")],
)
def test_a_setting_is_blamed_by_its_own_name(
    arguments: tuple[str, ...], variables: dict[str, str], blamed: str, tmp_path: Path
) -> None:
    result = manage(sys.executable, "runsale", *arguments, FLASHSALE_DATA_DIR=str(tmp_path), **variables)
    assert error_of(result).strip() == f"CommandError: {blamed} must be a whole number from 1 to 32, not 33."


def test_few_open_files_are_refused_with_the_number_that_is_needed(tmp_path: Path) -> None:
    command = f"ulimit -n 150; exec {sys.executable} manage.py runsale --port 0"
    result = subprocess.run(
        ["bash", "-c", command],
        cwd=PROJECT,
        env=clean_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=START,
        check=False,
    )
    error = error_of(result)
    assert "Only 150 open files are allowed, and a worker needs at least 300" in error
    assert "ulimit -n" in error


# --- the database


def test_a_fresh_clone_says_what_makes_the_tables_and_createsuperuser_does(
    make_service: MakeService, tmp_path: Path
) -> None:
    service = make_service(embedded=True)
    for command in ("verifysale", "rotatesale", "expirecheckouts"):
        error = error_of(service.manage(command))
        assert 'relation "sales_sale" does not exist' in error
        assert "python manage.py runsale" in error
    service.environment["DJANGO_SUPERUSER_PASSWORD"] = "sesame"
    result = service.manage(
        "createsuperuser", "--no-input", "--username", "boss", "--email", "boss@shop.example"
    )
    assert (result.returncode, result.stdout.strip()) == (0, "Superuser created successfully.")
    # Also from another folder.
    result = manage(sys.executable, "verifysale", directory=tmp_path, **service.environment)
    assert "There is no sale yet" in error_of(result)
    assert service.manage("expirecheckouts").stdout == "Nothing to do: there is no sale yet.\n"


@contextmanager
def silence() -> Iterator[int]:
    """The port of a host that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize("command", ["runsale", "verifysale", "rotatesale", "expirecheckouts", "migrate"])
def test_a_database_that_never_answers_is_given_up(command: str, tmp_path: Path) -> None:
    arguments = ("--port", "0") if command == "runsale" else ()
    with silence() as port:
        url = f"postgresql://me:secret@127.0.0.1:{port}/sales?connect_timeout=2"
        result = manage(
            sys.executable, command, *arguments, DATABASE_URL=url, FLASHSALE_DATA_DIR=str(tmp_path)
        )
    error = error_of(result)
    assert f"The database sales at 127.0.0.1:{port} cannot be used: connection timeout expired" in error
    assert "DATABASE_URL" in error
    assert "secret" not in result.stdout + error


def test_a_database_that_is_down_is_told_in_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, and not listening: refused
        port = nobody.getsockname()[1]
        url = f"postgresql://me:secret@127.0.0.1:{port}/sales"
        result = manage(
            sys.executable, "runsale", "--port", "0", DATABASE_URL=url, FLASHSALE_DATA_DIR=str(tmp_path)
        )
    error = error_of(result)
    assert f"127.0.0.1:{port}" in error
    assert "refused" in error
    assert "secret" not in result.stdout + error


def test_wrong_names_in_the_url_are_told_by_every_command(new_url: NewUrl, tmp_path: Path) -> None:
    url = new_url()
    for wrong, words, commands in (
        (re.sub(r"//\w+:", "//nobody:", url), "nobody", ["runsale"]),
        (
            re.sub(r":[^:@/]+@", ":secret@", url),
            "password authentication failed",
            ["runsale", "verifysale", "migrate"],
        ),
        (re.sub(r"/\w+$", "/nowhere", url), 'database "nowhere" does not exist', ["verifysale"]),
    ):
        for command in commands:
            arguments = ("--port", "0") if command == "runsale" else ()
            variables = {"DATABASE_URL": wrong, "FLASHSALE_DATA_DIR": str(tmp_path)}
            error = error_of(manage(sys.executable, command, *arguments, **variables))
            assert words in error
            assert "DATABASE_URL" in error
            assert "secret" not in error
