"""One worker process: uvicorn on a listening socket that the supervisor keeps open over restarts.

Run by the supervisor as ``python -m flashsale_project.serving.worker LISTEN_FD CHANNEL_FD``. The channel
tells the supervisor that the worker is ready and alive; when it closes, the supervisor is gone, and the
worker stops.

SIGTERM drains: new requests get ``503 draining``, accepted ones are answered, then the process ends.
SIGHUP retires, for a successor on the same socket: open connections are served on, each until its next
answer, which closes it; nobody is refused.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, cast

import django
from django.conf import settings

from flashsale_project.serving import heartbeat, open_files
from flashsale_project.serving.http.acceptor import Acceptor
from flashsale_project.serving.limits import ANSWERS_TIMEOUT, DRAIN, HEARTBEAT, RETIRE, SPARE_FILES
from flashsale_project.serving.uvicorn_parts import Config, Server

if TYPE_CHECKING:  # Django is set up when uvicorn imports the application
    from flashsale_project.serving.http.protocol import Protocol
    from sales.runtime import Runtime

logger = logging.getLogger(__name__)


class WorkerServer(Server):
    """A uvicorn server that drains or retires instead of just closing its connections."""

    def __init__(self, config: Config, channel: socket.socket) -> None:
        super().__init__(config)
        self._channel = channel
        self._retiring = False
        self._acceptors: list[Acceptor] = []

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start to drain. Unlike uvicorn's own this does not raise the signal again: we exit with 0."""
        self.should_exit = True

    def retire(self, sig: int, frame: FrameType | None) -> None:
        """Start to retire. A SIGTERM that comes meanwhile changes nothing: it is going already."""
        self._retiring = self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve connections, and tell the supervisor so."""
        await super().startup([])
        make_protocol = partial(
            cast(Callable[..., asyncio.Protocol], self.config.http_protocol_class),
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        self._acceptors = [Acceptor(listener, make_protocol) for listener in sockets or []]
        asyncio.get_running_loop().add_reader(self._channel, self._supervisor_gone)
        self._beat()
        self._hang_up_on_the_slow()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain or retire: answer what is under way, let connections end, and close what the worker owns.

        `limits` adds up how long that may take.
        """
        # From now on every answer closes its connection, so that no client's next request meets a
        # connection which is just being closed.
        defaults = self.server_state.default_headers
        self.server_state.default_headers = [*defaults, (b"connection", b"close")]
        for connection in self._connections():
            connection.answer_no_more()
        runtime: Runtime = self.lifespan.state["runtime"]
        if not self._retiring:
            runtime.draining = True
            await asyncio.sleep(DRAIN)
        for acceptor in self._acceptors:
            acceptor.close(let_in=not self._retiring)
        await self._until_idle(RETIRE if self._retiring else DRAIN)
        for connection in self._connections():
            connection.hang_up_on_the_slow()
        await super().shutdown()

    def _connections(self) -> "list[Protocol]":
        """Those that are open now: uvicorn takes them for protocols of its own."""
        return cast("list[Protocol]", list(self.server_state.connections))

    async def _until_idle(self, timeout: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self.server_state.connections:  # noqa: ASYNC110  (uvicorn's set tells nobody)
                    await asyncio.sleep(0.05)

    # Timers of their own: uvicorn's `on_tick` is not called any more while the worker drains or retires.

    def _hang_up_on_the_slow(self) -> None:
        for connection in self._connections():
            connection.on_second()
        asyncio.get_running_loop().call_later(1, self._hang_up_on_the_slow)

    def _beat(self) -> None:
        heartbeat.beat(self._channel)
        asyncio.get_running_loop().call_later(HEARTBEAT, self._beat)

    def _supervisor_gone(self) -> None:
        if not self._channel.recv(64):
            asyncio.get_running_loop().remove_reader(self._channel)
            logger.error("supervisor.lost", extra={"fields": {"pid": os.getpid()}})
            self.should_exit = True


def main(listen_fd: int, channel_fd: int) -> None:
    """Serve until a signal or the supervisor's end."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "flashsale_project.settings")
    django.setup()
    from flashsale_project.serving.http.express import ExpressProtocol
    from flashsale_project.serving.http.protocol import Protocol

    Protocol.max_connections = open_files.allow_all() - SPARE_FILES
    channel = socket.socket(fileno=channel_fd)
    channel.setblocking(False)
    config = Config(
        "flashsale_project.asgi:application",
        http=ExpressProtocol if settings.FLASHSALE_LANE == "express" else Protocol,
        loop="uvloop",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        timeout_graceful_shutdown=ANSWERS_TIMEOUT,
    )
    server = WorkerServer(config, channel)
    signal.signal(signal.SIGHUP, server.retire)
    server.run(sockets=[socket.socket(fileno=listen_fd)])


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
