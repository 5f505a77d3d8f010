"""One request on its way through the ASGI application, and what any answer that is still to come must be."""

import asyncio
import logging
import typing
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from flashsale_project.serving.http.heads import Head
from flashsale_project.serving.http.messages import Request
from flashsale_project.serving.http.phases import Life
from flashsale_project.serving.uvicorn_parts import (
    Config,
    FlowControl,
    RequestResponseCycle,
    get_local_addr,
    get_remote_addr,
    is_ssl,
)

logger = logging.getLogger(__name__)

SAFE_METHODS = {"GET", "HEAD", "OPTIONS", "TRACE"}


class Answering(typing.Protocol):
    """What a connection is answering."""

    keep_alive: bool
    """False where the answer is the last one of its connection."""

    @property
    def is_question(self) -> bool:
        """Whether nothing is changed by it, so that an answer nobody listens for need not be given."""

    @property
    def size(self) -> int:
        """Bytes that are kept for it."""

    def abandon(self) -> None:
        """Nobody is there any more who could be answered."""


class Application:
    """The ASGI application as one connection reaches it."""

    __slots__ = ("_addresses", "_config", "_life", "_state")

    def __init__(self, config: Config, state: dict[str, Any], life: Life) -> None:
        self._config = config
        self._state = state
        self._life = life
        self._addresses: dict[str, Any] = {}

    def learn_addresses(self, transport: asyncio.Transport) -> None:
        """Learn who speaks to whom. To be called before the first request."""
        self._addresses = {
            "server": get_local_addr(transport),
            "client": get_remote_addr(transport),
            "scheme": "https" if is_ssl(transport) else "http",
        }

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request. That it is cancelled when its client is gone is no error of its own."""
        try:
            await self._config.loaded_app(scope, receive, send)
        except asyncio.CancelledError:
            if not self._life.is_lost:
                raise

    def scope(self, head: Head) -> dict[str, Any]:
        """What ASGI tells of a request."""
        path, _, query = head.target.partition(b"?")
        text = path.decode()
        return {
            "type": "http",
            "asgi": {"version": self._config.asgi_version, "spec_version": "2.3"},
            "http_version": head.version,
            "method": head.method,
            "root_path": "",
            "path": unquote(text) if "%" in text else text,
            "raw_path": path,
            "query_string": query,
            "headers": head.headers,
            "state": self._state.copy(),
            **self._addresses,
        }


class Cycle(RequestResponseCycle):
    """A whole request that the application answers."""

    def __init__(
        self,
        request: Request,
        *,
        application: Application,
        transport: asyncio.Transport,
        flow: FlowControl,
        default_headers: list[tuple[bytes, bytes]],
        on_response: Callable[[], None],
    ) -> None:
        super().__init__(
            scope=application.scope(request.head),  # type: ignore[arg-type]
            transport=transport,
            flow=flow,
            logger=logger,
            access_logger=logger,
            access_log=False,
            default_headers=default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=request.head.keep_alive,
            on_response=on_response,
        )
        self.body = request.body  # type: ignore[assignment]
        self.more_body = False
        self.message_event.set()
        self.is_question = request.head.method in SAFE_METHODS
        self.size = len(request.body)
        self.task = asyncio.get_running_loop().create_task(self.run_asgi(application), name="a request")

    def abandon(self) -> None:
        """End the wait of whoever answers, and drop what they say."""
        self.disconnected = True
        self.task.cancel()
