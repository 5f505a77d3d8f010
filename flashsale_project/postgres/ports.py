"""A port for the server: its last one, or one that nobody uses."""

from __future__ import annotations

import contextlib
import secrets
import socket
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOST = "127.0.0.1"

# Below the range from which kernels take the ports of outgoing connections: no client of another program gets
# ours while the server restarts, and no client of ours that reconnects in a loop connects to itself.
PORTS = range(20_000, 32_000)

POLL_SECONDS = 0.02
PORT_SECONDS = 1.0  # a killed server's port is closed a moment after its process is gone


def free_ports(file: Path) -> Iterator[int]:
    """Ports that nobody listens on: first the one in this file, if there is one, then any, without end."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        last = int(file.read_text())
        deadline = time.monotonic() + PORT_SECONDS
        while not (was_free := is_free(last)) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        if was_free:
            yield last
    while True:
        port = PORTS.start + secrets.randbelow(len(PORTS))
        if is_free(port):
            yield port


def is_free(port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as PostgreSQL does
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True
