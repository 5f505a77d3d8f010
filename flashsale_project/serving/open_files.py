"""How many files a worker may have open: each client is one, and the usual limit of 1,024 is no crowd."""

import resource

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
