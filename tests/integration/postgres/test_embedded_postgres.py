"""The embedded PostgreSQL with real servers: life and death."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from flashsale_project.postgres import cluster, ports, postmaster
from flashsale_project.postgres.server import PORT_FILE, EmbeddedPostgres
from tests.integration.postgres.servers import (
    IS_ROOT,
    answer_of,
    assert_row_kept,
    execute,
    keep_a_row,
    servers_under,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    Make = Callable[..., EmbeddedPostgres]
    StartProcess = Callable[..., subprocess.Popen[str]]


def test_rows_survive_a_full_restart(make: Make, data: Path) -> None:
    server = make(data)
    url = server.acquire()
    keep_a_row(url)
    server.release()
    assert not server.is_running()
    assert server.pid is None
    assert server.url is None

    next_server = make(data)
    assert next_server.acquire() == url
    assert_row_kept(url)


def test_url_pid_and_location_describe_the_server(make: Make, place: Path, data: Path) -> None:
    server = make(data)
    assert not server.is_running()
    url = server.acquire()
    assert (server.url, server.location) == (url, data / "postgres")
    assert server.pid is not None
    assert servers_under(place) == [server.pid]
    parts = urlsplit(url)
    assert (parts.scheme, parts.username, parts.hostname, parts.path) == (
        "postgresql",
        "flashsale",
        "127.0.0.1",
        "/flashsale",
    )
    assert server.acquire() == url


def test_commits_are_durable_and_time_is_utc(make: Make, data: Path) -> None:
    names = (
        "fsync",
        "synchronous_commit",
        "full_page_writes",
        "data_checksums",
        "TimeZone",
        "server_encoding",
    )
    settings = ", ".join(f"current_setting('{name}')" for name in names)
    rows = execute(make(data).acquire(), f"SELECT {settings}")
    assert rows == [("on", "on", "on", "on", "UTC", "UTF8")]


def test_only_the_loopback_is_listened_on(make: Make, data: Path) -> None:
    query = "SELECT current_setting('listen_addresses'), current_setting('unix_socket_directories')"
    assert execute(make(data).acquire(), query) == [("127.0.0.1", "")]


def test_a_wrong_password_is_refused(make: Make, data: Path) -> None:
    parts = urlsplit(make(data).acquire())
    wrong = urlunsplit(parts._replace(netloc=f"flashsale:wrong@{parts.hostname}:{parts.port}"))
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(wrong)


def test_the_password_is_private_and_on_no_command_line(make: Make, data: Path) -> None:
    server = make(data)
    password = urlsplit(server.acquire()).password
    assert password is not None
    status = (server.location / cluster.PASSWORD_FILE).stat()
    assert status.st_mode & 0o777 == 0o600
    assert server.location.stat().st_mode & 0o777 == 0o700
    assert password not in postmaster.command_line(server.pid or 0)


def test_the_last_user_stops_the_server(
    make: Make, start_process: StartProcess, place: Path, data: Path
) -> None:
    server = make(data)
    url = server.acquire()
    other = start_process(data)
    assert answer_of(other) == (url, server.pid)

    server.release()
    assert execute(url, "SELECT 1") == [(1,)]
    other.communicate("leave\n")
    assert other.returncode == 0
    assert servers_under(place) == []


def test_a_released_user_may_come_back(make: Make, data: Path) -> None:
    first, second = make(data), make(data)
    first.acquire()
    second.acquire()
    first.release()
    first.release()
    assert second.is_running()
    first.acquire()
    second.release()
    assert first.is_running()


def test_a_killed_owner_leaves_the_server_to_the_next(
    make: Make, start_process: StartProcess, place: Path, data: Path
) -> None:
    owner = start_process(data)
    url, pid = answer_of(owner)
    keep_a_row(url)
    owner.kill()
    owner.wait()

    server = make(data)
    assert (server.acquire(), server.pid) == (url, pid)
    assert_row_kept(url)
    server.release()
    assert servers_under(place) == []


def test_a_killed_server_is_started_again_on_its_port(make: Make, data: Path) -> None:
    server = make(data)
    url = server.acquire()
    keep_a_row(url)
    pid = server.pid
    assert pid is not None
    with psycopg.connect(url) as orphan:
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not server.is_running())
        assert server.acquire() == url
        with pytest.raises(psycopg.OperationalError):
            orphan.execute("SELECT 1")
    assert server.pid != pid
    assert_row_kept(url)


def test_a_server_killed_along_with_its_owner_is_recovered(
    make: Make, start_process: StartProcess, data: Path
) -> None:
    owner = start_process(data)
    url, pid = answer_of(owner)
    keep_a_row(url)
    os.kill(pid, signal.SIGKILL)
    os.killpg(owner.pid, signal.SIGKILL)

    assert make(data).acquire() == url
    assert_row_kept(url)


def test_a_server_that_nobody_has_reaped_does_not_block_its_successor(
    make: Make, start_process: StartProcess, data: Path
) -> None:
    owner = start_process(data)
    url, pid = answer_of(owner)
    os.kill(pid, signal.SIGKILL)  # a zombie, as its living parent does not look
    server = make(data)
    assert server.acquire() == url
    assert server.pid != pid


def test_a_stale_pid_that_a_stranger_has_now_does_not_block_the_start(make: Make, data: Path) -> None:
    server = make(data)
    url = server.acquire()
    pid_file = server.location / "postmaster.pid"
    stale = pid_file.read_text()
    server.release()
    account = {} if server._account is None else {"user": server._account.uid, "group": server._account.gid}
    stranger = subprocess.Popen(["sleep", "60"], cwd="/", **account)
    try:
        pid_file.write_text("\n".join([str(stranger.pid), *stale.splitlines()[1:], ""]))
        if IS_ROOT:
            os.chown(pid_file, account["user"], account["group"])
        assert make(data).acquire() == url
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_taken_port_is_replaced(make: Make, data: Path) -> None:
    server = make(data)
    first_port = urlsplit(server.acquire()).port
    server.release()
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((ports.HOST, first_port))
        taken.listen()
        assert urlsplit(server.acquire()).port != first_port


def test_losing_the_race_for_a_port_is_repeated_with_another(
    make: Make, monkeypatch: pytest.MonkeyPatch, data: Path
) -> None:
    free = ports.is_free
    with socket.socket() as taken:
        taken.bind((ports.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        (data / PORT_FILE).write_text(str(port))
        monkeypatch.setattr(ports, "is_free", lambda candidate: candidate == port or free(candidate))
        assert urlsplit(make(data).acquire()).port != port


def test_a_backend_that_outlives_its_server_is_waited_for(make: Make, data: Path) -> None:
    server = make(data)
    url = server.acquire()
    assert server.pid is not None
    busy = "DO $$ BEGIN WHILE clock_timestamp() < now() + interval '1 second' LOOP END LOOP; END $$"
    with psycopg.connect(url) as orphan:
        orphan.pgconn.send_query(busy.encode())
        active = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'DO %' AND state = 'active'"
        wait_until(lambda: execute(url, active) == [(1,)])
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: not server.is_running())
        assert server.acquire() == url
        assert orphan.pgconn.socket >= 0
        orphan.close()
