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
import itertools
import logging
import os
import signal
import subprocess
import threading
import time
import weakref
from pathlib import Path

import psycopg

from flashsale_project.postgres import cluster
from flashsale_project.postgres.binaries import (
    Account,
    EmbeddedPostgresError,
    credentials,
    environment,
    find_binaries,
)
from flashsale_project.postgres.cluster import USER
from flashsale_project.postgres.locks import lock, locked
from flashsale_project.postgres.ports import HOST, POLL_SECONDS, PORTS, free_ports
from flashsale_project.postgres.postmaster import Postmaster, command_line, is_postmaster_of

logger = logging.getLogger(__name__)

DATABASE = "flashsale"
MAX_CONNECTIONS = 300  # more than the largest number of workers can open

START_ATTEMPTS = 10

STOP_SECONDS = 10.0  # per signal
ORPHANS_SECONDS = 30.0
ANSWER_SECONDS = 10.0  # for a server that calls itself ready

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
                with locked(self._data_dir / "start.lock"):
                    self._url = self._ensure_running()
                    if self._users_lock is None:
                        self._users_lock = lock(self._data_dir / "users.lock", fcntl.LOCK_SH)
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
                    stack.enter_context(locked(self._data_dir / "start.lock"))
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
        return is_postmaster_of(pid, self._location)

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
        self._location, self._account = cluster.place(self._data_dir)
        port = None
        if cluster.exists(self._location):
            postmaster = self._postmaster()
            if postmaster is not None:
                port = self._wait_until_ready(postmaster.pid)
        if port is None:
            port = self._start()
        return f"postgresql://{USER}:{self._password()}@{HOST}:{port}/{DATABASE}"

    def _password(self) -> str:
        return (self._location / cluster.PASSWORD_FILE).read_text().strip()

    def _postmaster(self) -> Postmaster | None:
        postmaster = Postmaster.read(self._location)
        return postmaster if postmaster is not None and postmaster.serves(self._location) else None

    def _start(self) -> int:
        """Starts the server, and makes its cluster if there is none; returns its port."""
        cluster_exists = cluster.exists(self._location)
        programs = find_binaries(
            self._bin_dir,
            major=(self._location / "PG_VERSION").read_text().strip() if cluster_exists else None,
            account=self._account,
        )
        if not cluster_exists:
            cluster.create(self._location, programs, self._account)
        server_lock = self._lock_out_other_servers()
        try:
            for port in itertools.islice(free_ports(self._data_dir / PORT_FILE), START_ATTEMPTS):
                if self._start_on(port, programs, server_lock):
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
                return lock(self._data_dir / "server.lock", fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise EmbeddedPostgresError(
                        f"Processes of an earlier PostgreSQL server of {self._location} still run: end them."
                    ) from None
                time.sleep(POLL_SECONDS)

    def _start_on(self, port: int, programs: Path, server_lock: int) -> bool:
        """Starts the server and waits until it answers; False if another program was faster with the port."""
        variables = environment()
        stale = Postmaster.read(self._location)
        if stale is not None and "postgres " not in f"{command_line(stale.pid)} ":
            # By now a stranger's number, as after the restart of a container, or that of a process nobody has
            # reaped. PostgreSQL would take either for a running server; this variable says that it is none.
            variables["PG_GRANDPARENT_PID"] = str(stale.pid)
        self._disown()
        log = self._open_log()
        try:
            log_start = os.fstat(log).st_size
            self._process = subprocess.Popen(  # noqa: S603 - no shell, our own arguments
                [programs / "postgres", "-D", self._location, *_options(port)],
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
        said = cluster.last_lines(output)
        raise EmbeddedPostgresError(
            f"PostgreSQL in {self._location} did not start (exit status {status}): {said}."
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
            postmaster = Postmaster.read(self._location)
            if postmaster is not None and postmaster.pid == pid and postmaster.is_ready:
                try:
                    self._prepare_database(postmaster.port)
                    return postmaster.port
                except psycopg.Error as error:
                    deadline = deadline or time.monotonic() + ANSWER_SECONDS
                    if time.monotonic() > deadline:
                        reason = cluster.last_lines(str(error))
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


def _options(port: int) -> list[str]:
    settings = {
        "listen_addresses": HOST,
        "port": port,
        "unix_socket_directories": "",
        "max_connections": MAX_CONNECTIONS,
        "timezone": "UTC",
        "log_timezone": "UTC",
        "logging_collector": "off",
    }
    return [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]


_instances: weakref.WeakSet[EmbeddedPostgres] = weakref.WeakSet()


def _forget_all_in_child() -> None:
    for instance in list(_instances):
        instance._forget_in_child()


os.register_at_fork(after_in_child=_forget_all_in_child)
