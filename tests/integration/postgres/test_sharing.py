"""The embedded PostgreSQL: who shares a server, and clusters that are not whole, or not ours."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from flashsale_project.postgres import binaries, ports
from flashsale_project.postgres.binaries import EmbeddedPostgresError
from flashsale_project.postgres.server import EmbeddedPostgres
from tests.integration.postgres.servers import (
    answer_of,
    execute,
    keep_a_row,
    servers_under,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    Make = Callable[..., EmbeddedPostgres]
    StartProcess = Callable[..., subprocess.Popen[str]]


def test_processes_that_start_together_share_one_server(start_process: StartProcess, place: Path) -> None:
    processes = [start_process(place / "data") for _ in range(4)]
    assert len({answer_of(process) for process in processes}) == 1
    for process in processes:
        process.communicate("leave\n")
    assert servers_under(place) == []


def test_a_forked_child_is_no_user_until_it_acquires(make: Make, place: Path, data: Path) -> None:
    server = make(data)
    url = server.acquire()
    child = os.fork()
    if child == 0:
        clean = server.url is None and server._users_lock is None
        server.release()
        os._exit(0 if clean and execute(url, "SELECT 1") == [(1,)] else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert server.is_running()

    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(reader, 1)
        os._exit(0)
    server.release()
    assert servers_under(place) == []
    os.write(writer, b"x")
    assert os.waitpid(child, 0)[1] == 0
    os.close(reader)
    os.close(writer)


def test_any_path_will_do(make: Make, place: Path) -> None:
    data = place / """white  space, it's "quoted" & $HOME `x`; *[a]""" / "data"
    assert execute(make(data).acquire(), "SHOW data_directory") == [(str(data / "postgres"),)]


def test_two_projects_have_servers_of_their_own(make: Make, place: Path) -> None:
    one, two = make(place / "one"), make(place / "two")
    urls = one.acquire(), two.acquire()
    keep_a_row(urls[0])
    assert execute(urls[1], "SELECT to_regclass('kept')") == [(None,)]
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(
            urlunsplit(
                urlsplit(urls[0])._replace(
                    netloc=urlsplit(urls[0]).netloc.split(":")[0]
                    + f":{urlsplit(urls[0]).password}@{ports.HOST}:{urlsplit(urls[1]).port}"
                )
            )
        )
    one.release()
    assert two.is_running()


def test_an_interrupted_initdb_leaves_no_cluster(
    make: Make, start_process: StartProcess, place: Path
) -> None:
    programs = binaries.find_binaries(None, major=None)
    slow = place / "slow"
    slow.mkdir()
    (slow / "postgres").symlink_to(programs / "postgres")
    (slow / "initdb").write_text(
        f"""#!/bin/sh
case "$1" in --version) exec '{programs}/initdb' --version;; esac
'{programs}/initdb' "$@" && sleep 60
"""
    )
    (slow / "initdb").chmod(0o755)
    owner = start_process(place / "data", slow)
    wait_until(lambda: any((place / "data").glob("postgres.new-*/postgres/global/pg_control")))
    os.killpg(owner.pid, signal.SIGKILL)
    assert not (place / "data" / "postgres").exists()

    assert execute(make(place / "data").acquire(), "SELECT 1") == [(1,)]
    assert not list((place / "data").glob("postgres.new-*"))


def test_a_half_made_cluster_is_put_aside(make: Make, place: Path) -> None:
    half = place / "data" / "postgres"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("15\n")
    assert execute(make(place / "data").acquire(), "SELECT 1") == [(1,)]
    (aside,) = (place / "data").glob("postgres.unusable-*")
    assert [path.name for path in aside.iterdir()] == ["PG_VERSION"]


def test_a_foreign_cluster_is_left_alone(make: Make, place: Path) -> None:
    control = place / "data" / "postgres" / "global" / "pg_control"
    control.parent.mkdir(parents=True)
    control.write_bytes(b"precious")
    with pytest.raises(EmbeddedPostgresError, match="was not made here"):
        make(place / "data").acquire()
    assert control.read_bytes() == b"precious"


def test_the_database_is_made_when_an_earlier_start_came_not_so_far(make: Make, data: Path) -> None:
    server = make(data)
    url = server.acquire()
    execute_alone = psycopg.connect(url, dbname="postgres", autocommit=True)
    with execute_alone:
        execute_alone.execute("DROP DATABASE flashsale WITH (FORCE)")
    server.release()
    assert execute(server.acquire(), "SELECT current_database()") == [("flashsale",)]
