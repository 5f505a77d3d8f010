"""The files of the embedded PostgreSQL: where they are, whose they are, and how they are made."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import tempfile
from pathlib import Path

from flashsale_project.postgres import binaries
from flashsale_project.postgres.binaries import Account, EmbeddedPostgresError, make_system_dir, run

USER = "flashsale"
PASSWORD_FILE = "flashsale.password"  # noqa: S105 - the name of the file


def place(data_dir: Path) -> tuple[Path, Account | None]:
    """Decides where the cluster is and which account runs its server; an existing one stays."""
    beside = data_dir / "postgres"
    if os.geteuid() != 0:
        return beside, None
    key = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:10]
    home = binaries.SYSTEM_STATE_DIR / f"{data_dir.name}-{key}"
    for location in (beside, home / "postgres"):
        if location.is_dir() and location.stat().st_uid != 0:
            account = Account.owner_of(location)
            break
    else:
        account = Account.for_a_new_cluster()
        location = beside if account.can_enter(data_dir) else home / "postgres"
    if location.parent == home:
        make_system_dir(home)
    if not account.can_enter(location.parent):
        raise EmbeddedPostgresError(
            f"The account {account.name} runs {location} but cannot enter the directories "
            "above it: grant it the x permission on them."
        )
    return location, account


def exists(location: Path) -> bool:
    """Whether there is a whole cluster of ours. Raises EmbeddedPostgresError where there is another one."""
    # The password comes into the cluster last, and the cluster under its name after that.
    if (location / PASSWORD_FILE).is_file():
        return True
    if (location / "global" / "pg_control").exists():
        raise EmbeddedPostgresError(
            f"{location} holds a PostgreSQL cluster that was not made here: move it away or set DATABASE_URL."
        )
    return False


def create(location: Path, programs: Path, account: Account | None) -> None:
    """Makes the cluster under another name and renames it, so that an interrupted initdb leaves none."""
    home = location.parent
    for leftover in home.glob("postgres.new-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    if location.exists():
        location.rename(Path(tempfile.mkdtemp(prefix="postgres.unusable-", dir=home)))
    workshop = Path(tempfile.mkdtemp(prefix="postgres.new-", dir=home))
    try:
        password_file = workshop / PASSWORD_FILE
        with os.fdopen(os.open(password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(24) + "\n")
            file.flush()
            os.fsync(file.fileno())
        if account is not None:
            os.chown(password_file, account.uid, account.gid)
            os.chown(workshop, account.uid, account.gid)
        cluster = workshop / "postgres"
        finished = run(
            account,
            programs / "initdb",
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
                f"initdb could not make a cluster in {home}: {last_lines(finished.stderr)}."
            )
        password_file.rename(cluster / PASSWORD_FILE)
        cluster.rename(location)
        _sync_directory(location)
        _sync_directory(home)
    finally:
        shutil.rmtree(workshop, ignore_errors=True)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def last_lines(text: str, count: int = 3) -> str:
    """The end of what a program has said, on one line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " / ".join(lines[-count:]).rstrip(".")
