"""How many files a worker may have open: each client is one, and the usual limit of 1,024 is no crowd."""

import resource

from flashsale_project.serving.exceptions import CannotStart
from flashsale_project.serving.limits import MIN_FILES

PLENTY = 1_000_000
"""Open files where there is no limit."""


def allowed() -> int:
    """How many open files this process, or one that it starts, may allow itself."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return PLENTY if hard == resource.RLIM_INFINITY else hard


def allow_all() -> int:
    """Allow this process as many as it may; returns how many."""
    most = allowed()
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    return most


def check() -> None:
    """Raises `CannotStart` where that is too few: each connection is a file, and so is much else."""
    if (most := allowed()) < MIN_FILES:
        raise CannotStart(
            f"Only {most} open files are allowed, and a worker needs at least {MIN_FILES}: "
            "allow 10,000 or more with `ulimit -n` (systemd: LimitNOFILE=)."
        )
