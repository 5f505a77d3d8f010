"""A private PostgreSQL for a project that has no database server: found, made, started, shared and stopped.

Knows neither Django nor the sales. POSIX only. All durations are seconds. In the data directory:

- ``start.lock``: held exclusively while the cluster is made or its server is started or stopped.
- ``users.lock``: held shared by every process that uses the server; who gets it exclusively is the last one.
- ``server.lock``: inherited by the server and its children, so it is free once all of them are gone.
- ``postgres/``: the cluster. PostgreSQL refuses to run as root; for root an unprivileged account runs it, and
  where that cannot reach the data directory, the cluster is under ``/var/lib/flashsale``.

The locks are flocks: the kernel frees those of a killed process, so that nothing is left to tidy up.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import hashlib
import itertools
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from flashsale_project import postgres_binaries
from flashsale_project.postgres_binaries import (
    Account,
    EmbeddedPostgresError,
    credentials,
    environment,
    find_binaries,
    make_system_dir,
    run,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
USER = "flashsale"
DATABASE = "flashsale"
MAX_CONNECTIONS = 300  # more than the largest number of workers can open

# Below the range from which kernels take the ports of outgoing connections: no client of another program gets
# ours while the server restarts, and no client of ours that reconnects in a loop connects to itself.
PORTS = range(20_000, 32_000)
START_ATTEMPTS = 10

POLL_SECONDS = 0.02
PORT_SECONDS = 1.0  # a killed server's port is closed a moment after its process is gone
STOP_SECONDS = 10.0  # per signal
ORPHANS_SECONDS = 30.0
ANSWER_SECONDS = 10.0  # for a server that calls itself ready

PASSWORD_FILE = "flashsale.password"  # noqa: S105 - the name of the file
LOG_FILE = "server.log"
LOG_BYTES = 10_000_000  # a longer log is put aside at the next start
PORT_FILE = "postgres.port"


class EmbeddedPostgres:
    """One PostgreSQL cluster and its server, shared by all processes that name the same data directory.

    Threads may share an object. A forked child starts with a released one. The server outlives a killed user;
    whoever acquires next takes it over.
    """

    def __init__(self, data_dir: Path, bin_dir: Path | None = None) -> None:
        """`data_dir` gets the cluster; `bin_dir` has `postgres` and `initdb`, None means to find them."""
        self._data_dir = data_dir.resolve()
        self._bin_dir = None if bin_dir is None else bin_dir.resolve()
        self._location = self._data_dir / "postgres"
        self._account: Account | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._url: str | None = None
        self._users_lock: int | None = None
        self._mutex = threading.Lock()
        _instances.add(self)

    @property
    def location(self) -> Path:
        """The directory of the cluster; certain once `acquire` has returned."""
        return self._location

    @property
    def url(self) -> str | None:
        """The connection URL, None unless acquired."""
        return self._url

    @property
    def pid(self) -> int | None:
        """The process id of the running server of this cluster, whoever started it."""
        postmaster = self._postmaster()
        return None if postmaster is None else postmaster.pid

    def is_running(self) -> bool:
        """Tells cheaply (two small files) whether the server is there and past its start."""
        if self._process is not None:
            self._process.poll()  # reaps our child if it died
        postmaster = self._postmaster()
        return postmaster is not None and postmaster.is_ready

    def acquire(self) -> str:
        """Makes sure that the server runs and answers, registers this process as a user, returns the URL.

        Idempotent. A server that died is started again on the same port, unless another program has taken it.
        Blocks, without a limit as long as the server is busy with its recovery. Raises EmbeddedPostgresError.
        """
        with self._mutex:
            if self._users_lock is not None and self._url is not None and self.is_running():
                return self._url
            try:
                self._data_dir.mkdir(parents=True, exist_ok=True)
                with _locked(self._data_dir / "start.lock"):
                    self._url = self._ensure_running()
                    if self._users_lock is None:
                        self._users_lock = _lock(self._data_dir / "users.lock", fcntl.LOCK_SH)
                        atexit.register(self.release)
            except OSError as error:
                raise EmbeddedPostgresError(
                    f"The embedded PostgreSQL in {self._data_dir} cannot be used: {error}."
                ) from error
            return self._url

    def release(self) -> None:
        """Ends this process's use. The last user stops the server and waits until it is gone. Idempotent.

        Takes at most 20 seconds to stop a server (fast, then immediate shutdown), usually 0.1.
        """
        with self._mutex:
            if self._users_lock is None:
                return
            users_lock, self._users_lock = self._users_lock, None
            self._url = None
            atexit.unregister(self.release)
            with contextlib.ExitStack() as stack:
                stack.callback(self._disown)
                stack.callback(os.close, users_lock)
                with contextlib.suppress(FileNotFoundError):  # the data directory was deleted under us
                    stack.enter_context(_locked(self._data_dir / "start.lock"))
                with contextlib.suppress(BlockingIOError):  # others still use it
                    fcntl.flock(users_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if (pid := self.pid or self._child_pid()) is not None:
                        self._stop(pid)

    def _child_pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def _disown(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.returncode = 0  # it outlives us on purpose: Popen need not warn
        self._process = None

    def _is_alive(self, pid: int) -> bool:
        # For a child the system's word: its command line is empty for a moment after it was started.
        if self._process is not None and self._process.pid == pid:
            return self._process.poll() is None
        return _serves(pid, self._location)

    def _forget_in_child(self) -> None:
        # Closing leaves the lock with the parent; keeping it open would make the child a user nobody can see.
        if self._users_lock is not None:
            os.close(self._users_lock)
            self._users_lock = None
            atexit.unregister(self.release)
        self._disown()
        self._url = None
        self._mutex = threading.Lock()

    # What follows runs under start.lock.

    def _ensure_running(self) -> str:
        self._place()
        port = None
        if self._has_cluster():
            postmaster = self._postmaster()
            if postmaster is not None:
                port = self._wait_until_ready(postmaster.pid)
        if port is None:
            port = self._start()
        return f"postgresql://{USER}:{self._password()}@{HOST}:{port}/{DATABASE}"

    def _place(self) -> None:
        """Decides which account runs the server and where the cluster is; an existing one stays."""
        beside = self._data_dir / "postgres"
        if os.geteuid() != 0:
            self._location, self._account = beside, None
            return
        key = hashlib.sha256(os.fsencode(self._data_dir)).hexdigest()[:10]
        home = postgres_binaries.SYSTEM_STATE_DIR / f"{self._data_dir.name}-{key}"
        for location in (beside, home / "postgres"):
            if location.is_dir() and location.stat().st_uid != 0:
                self._location, self._account = location, Account.owner_of(location)
                break
        else:
            self._account = Account.for_a_new_cluster()
            self._location = beside if self._account.can_enter(self._data_dir) else home / "postgres"
        if self._location.parent == home:
            make_system_dir(home)
        if not self._account.can_enter(self._location.parent):
            raise EmbeddedPostgresError(
                f"The account {self._account.name} runs {self._location} but cannot enter the directories "
                "above it: grant it the x permission on them."
            )

    def _has_cluster(self) -> bool:
        # The password comes into the cluster last, and the cluster under its name after that.
        if (self._location / PASSWORD_FILE).is_file():
            return True
        if (self._location / "global" / "pg_control").exists():
            raise EmbeddedPostgresError(
                f"{self._location} holds a PostgreSQL cluster that was not made here: move it away or set "
                "DATABASE_URL."
            )
        return False

    def _password(self) -> str:
        return (self._location / PASSWORD_FILE).read_text().strip()

    def _postmaster(self) -> _Postmaster | None:
        postmaster = _Postmaster.read(self._location)
        return postmaster if postmaster is not None and postmaster.serves(self._location) else None

    def _create_cluster(self, binaries: Path) -> None:
        """Makes the cluster under another name and renames it, so that an interrupted initdb leaves none."""
        home = self._location.parent
        for leftover in home.glob("postgres.new-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        if self._location.exists():
            self._location.rename(Path(tempfile.mkdtemp(prefix="postgres.unusable-", dir=home)))
        workshop = Path(tempfile.mkdtemp(prefix="postgres.new-", dir=home))
        try:
            password_file = workshop / PASSWORD_FILE
            with os.fdopen(os.open(password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secrets.token_urlsafe(24) + "\n")
                file.flush()
                os.fsync(file.fileno())
            if self._account is not None:
                os.chown(password_file, self._account.uid, self._account.gid)
                os.chown(workshop, self._account.uid, self._account.gid)
            cluster = workshop / "postgres"
            finished = run(
                self._account,
                binaries / "initdb",
                f"--pgdata={cluster}",
                f"--username={USER}",
                f"--pwfile={password_file}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
                "--data-checksums",
            )
            if finished.returncode != 0:
                raise EmbeddedPostgresError(
                    f"initdb could not make a cluster in {home}: {_last_lines(finished.stderr)}."
                )
            password_file.rename(cluster / PASSWORD_FILE)
            cluster.rename(self._location)
            _sync_directory(self._location)
            _sync_directory(home)
        finally:
            shutil.rmtree(workshop, ignore_errors=True)

    def _start(self) -> int:
        """Starts the server, and makes its cluster if there is none; returns its port."""
        cluster_exists = self._has_cluster()
        binaries = find_binaries(
            self._bin_dir,
            major=(self._location / "PG_VERSION").read_text().strip() if cluster_exists else None,
            account=self._account,
        )
        if not cluster_exists:
            self._create_cluster(binaries)
        server_lock = self._lock_out_other_servers()
        try:
            for port in itertools.islice(self._free_ports(), START_ATTEMPTS):
                if self._start_on(port, binaries, server_lock):
                    (self._data_dir / PORT_FILE).write_text(f"{port}\n")
                    return port
        finally:
            os.close(server_lock)
        raise EmbeddedPostgresError(f"PostgreSQL in {self._location} found no free port in {PORTS}.")

    def _lock_out_other_servers(self) -> int:
        """Waits for the backends of a killed server: they still have the cluster's memory and files open."""
        deadline = time.monotonic() + ORPHANS_SECONDS
        while True:
            try:
                return _lock(self._data_dir / "server.lock", fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise EmbeddedPostgresError(
                        f"Processes of an earlier PostgreSQL server of {self._location} still run: end them."
                    ) from None
                time.sleep(POLL_SECONDS)

    def _free_ports(self) -> Iterator[int]:
        with contextlib.suppress(FileNotFoundError, ValueError):
            last = int((self._data_dir / PORT_FILE).read_text())
            deadline = time.monotonic() + PORT_SECONDS
            while not (is_free := _is_free(last)) and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
            if is_free:
                yield last
        while True:
            port = PORTS.start + secrets.randbelow(len(PORTS))
            if _is_free(port):
                yield port

    def _start_on(self, port: int, binaries: Path, server_lock: int) -> bool:
        """Starts the server and waits until it answers; False if another program was faster with the port."""
        variables = environment()
        stale = _Postmaster.read(self._location)
        if stale is not None and "postgres " not in f"{_command_line(stale.pid)} ":
            # By now a stranger's number, as after the restart of a container, or that of a process nobody has
            # reaped. PostgreSQL would take either for a running server; this variable says that it is none.
            variables["PG_GRANDPARENT_PID"] = str(stale.pid)
        self._disown()
        log = self._open_log()
        try:
            log_start = os.fstat(log).st_size
            self._process = subprocess.Popen(  # noqa: S603 - no shell, our own arguments
                [
                    binaries / "postgres",
                    *("-D", self._location),
                    *("-c", f"listen_addresses={HOST}"),
                    *("-c", f"port={port}"),
                    *("-c", "unix_socket_directories="),
                    *("-c", f"max_connections={MAX_CONNECTIONS}"),
                    *("-c", "timezone=UTC"),
                    *("-c", "log_timezone=UTC"),
                    *("-c", "logging_collector=off"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=variables,
                umask=0o077,
                pass_fds=(server_lock,),
                start_new_session=True,
                **credentials(self._account),
            )
            try:
                if self._wait_until_ready(self._process.pid) is not None:
                    return True
            except BaseException:
                self._stop(self._process.pid)
                self._disown()
                raise
            output = os.pread(log, 10_000, max(log_start, os.fstat(log).st_size - 10_000)).decode(
                errors="replace"
            )
        finally:
            os.close(log)
        status = self._process.wait()
        if "could not bind" in output:
            return False
        raise EmbeddedPostgresError(
            f"PostgreSQL in {self._location} did not start (exit status {status}): {_last_lines(output)}."
        )

    def _open_log(self) -> int:
        path = self._location / LOG_FILE
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size > LOG_BYTES:
                path.rename(path.with_suffix(".log.1"))
        log = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        if self._account is not None:
            os.fchown(log, self._account.uid, self._account.gid)
        return log

    def _wait_until_ready(self, pid: int) -> int | None:
        """Waits until the server accepts our password; returns its port, or None if the process ended."""
        deadline: float | None = None
        while self._is_alive(pid):
            postmaster = _Postmaster.read(self._location)
            if postmaster is not None and postmaster.pid == pid and postmaster.is_ready:
                try:
                    self._prepare_database(postmaster.port)
                    return postmaster.port
                except psycopg.Error as error:
                    deadline = deadline or time.monotonic() + ANSWER_SECONDS
                    if time.monotonic() > deadline:
                        reason = _last_lines(str(error))
                        raise EmbeddedPostgresError(
                            f"The PostgreSQL server of {self._location} runs but refuses us: {reason}."
                        ) from error
            time.sleep(POLL_SECONDS)
        return None

    def _prepare_database(self, port: int) -> None:
        """Makes sure that the server on `port` is this cluster's and that our database exists."""
        with psycopg.connect(
            host=HOST,
            hostaddr=HOST,  # and not the PGHOSTADDR of the environment
            port=port,
            user=USER,
            password=self._password(),
            dbname="postgres",
            sslmode="disable",
            connect_timeout=int(ANSWER_SECONDS),
            autocommit=True,
        ) as connection:
            served = connection.execute("SHOW data_directory").fetchone()
            if served != (str(self._location),):
                raise EmbeddedPostgresError(f"Port {port} is not served by the cluster in {self._location}.")
            if not connection.execute("SELECT FROM pg_database WHERE datname = %s", [DATABASE]).fetchall():
                connection.execute(f"CREATE DATABASE {DATABASE}")

    def _stop(self, pid: int) -> None:
        for stop_signal in (signal.SIGINT, signal.SIGQUIT):
            deadline = time.monotonic() + STOP_SECONDS
            if self._is_alive(pid):
                os.kill(pid, stop_signal)
            while time.monotonic() < deadline:
                if not self._is_alive(pid):
                    return
                time.sleep(POLL_SECONDS)
        logger.error("PostgreSQL, process %d in %s, does not stop", pid, self._location)


_instances: weakref.WeakSet[EmbeddedPostgres] = weakref.WeakSet()


def _forget_all_in_child() -> None:
    for instance in list(_instances):
        instance._forget_in_child()


os.register_at_fork(after_in_child=_forget_all_in_child)


@dataclass(frozen=True, kw_only=True)
class _Postmaster:
    """What a server's ``postmaster.pid`` says. It may be stale."""

    pid: int
    port: int
    is_ready: bool

    @classmethod
    def read(cls, cluster: Path) -> _Postmaster | None:
        try:
            lines = (cluster / "postmaster.pid").read_text(errors="replace").splitlines()
            # A starting server writes its lines one by one.
            lines += [""] * (8 - len(lines))
            return cls(pid=int(lines[0]), port=int(lines[3] or 0), is_ready=lines[7].strip() == "ready")
        except (FileNotFoundError, ValueError):
            return None

    def serves(self, cluster: Path) -> bool:
        return _serves(self.pid, cluster)


def _serves(pid: int, cluster: Path) -> bool:
    # Backends have other titles, so that an orphan is never taken for the postmaster.
    return f" -D {cluster} " in f"{_command_line(pid)} "


def _command_line(pid: int) -> str:
    """The arguments of a process; empty if it is gone or not yet reaped."""
    if sys.platform == "linux":
        try:
            return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" "))
        except (FileNotFoundError, ProcessLookupError):
            return ""
    else:
        line = run(None, "/bin/ps", "-ww", "-o", "stat=,args=", "-p", str(pid)).stdout.strip()
        return "" if line.startswith("Z") else line


def _lock(path: Path, operation: int) -> int:
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, operation)
    except BaseException:
        os.close(lock)
        raise
    return lock


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = _lock(path, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(lock, fcntl.LOCK_UN)  # a child forked meanwhile has it open too
        os.close(lock)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as PostgreSQL does
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _last_lines(text: str, count: int = 3) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " / ".join(lines[-count:]).rstrip(".")
