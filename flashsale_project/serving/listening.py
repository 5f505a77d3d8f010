"""The sockets that a service listens on."""

import errno
import socket
import sys
import time

from flashsale_project.serving.exceptions import CannotStart
from flashsale_project.serving.limits import BACKLOG, BIND_TIMEOUT


def listen(host: str, port: int, count: int) -> list[socket.socket]:
    """Open ``count`` listening sockets on one address, for a worker each. Raises `OSError`.

    With SO_REUSEPORT the kernel spreads connections evenly over them. They belong to the supervisor: a
    worker that restarts inherits its socket, and the connections that wait on it. Where the system does
    not spread (only Linux does), all workers share one socket.
    """
    family, _, _, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    # SO_REUSEPORT would let us join the sockets of another service of ours: find out without it.
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
        address = probe.getsockname()
    spread = sys.platform == "linux" and count > 1
    sockets: list[socket.socket] = []
    for _ in range(count if spread else 1):
        sock = socket.socket(family)
        sockets.append(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if spread:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    return sockets * count if not spread else sockets


def listen_soon(host: str, port: int, count: int) -> list[socket.socket]:
    """The same, and wait for a port that is taken, but not for long. Raises `CannotStart`."""
    give_up = time.monotonic() + BIND_TIMEOUT
    while True:
        try:
            return listen(host, port, count)
        except UnicodeError as error:
            raise CannotStart(f"--host {host[:40]!r} is no name of a host.") from error
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > give_up:
                raise CannotStart(
                    f"Cannot listen on {host}:{port}: {error.strerror or error}. "
                    "Choose another --port or --host, or stop what is using it."
                ) from error
            time.sleep(0.1)
