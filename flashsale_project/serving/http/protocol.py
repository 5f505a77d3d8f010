"""One HTTP connection: requests in, one after another, and an answer to each, from the ASGI application.

What cannot be read as a request, is too much or comes too slowly is refused with a problem document, after
the answers to what came before it, and ends its connection. A request is begun when it is whole and right and
all before it are answered, so nobody is refused what was done, or answered twice.

Of uvicorn there are its `RequestResponseCycle`, which is the ASGI side of one request, its `FlowControl`, and
what its server knows of all connections. `tests/integration/serving/http/test_uvicorn.py` lists every name.
"""

import asyncio
import logging
from typing import Any, cast
from urllib.parse import unquote

import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl
from uvicorn.server import ServerState

from flashsale_project.serving.http.budget import Budget
from flashsale_project.serving.http.heads import BadMessage, Head
from flashsale_project.serving.http.messages import Reader, Request
from sales.problems import problem

logger = logging.getLogger(__name__)

MAX_KEPT = 64 * 1024 * 1024
"""Bytes of requests that a worker keeps of all its connections together: those that are still coming, those
that wait for their turn, and the bodies of those that are being answered."""

FREE = 4096
"""Bytes of a connection that do not count: no ordinary request is refused for the sake of large ones."""

REQUEST_TIMEOUT = 15
"""Seconds that a request may take to arrive, and a new connection to send its first."""

WRITE_TIMEOUT = 30
"""Seconds that a client may leave its answers unread."""

LISTENING = 2
"""Seconds for which somebody who has closed their side is thought to listen for the answer to a question. Who
has left looks the same. What changes something is answered in any case."""

SAFE_METHODS = {"GET", "HEAD", "OPTIONS", "TRACE"}

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

budget = Budget(MAX_KEPT)


class Flow(FlowControl):
    """uvicorn's flow control, where nobody but the protocol decides when to read on."""

    def resume_reading(self) -> None:
        """Called by uvicorn where the body of a request is wanted: it is there."""

    def read_on(self) -> None:
        """Read again, if reading was paused."""
        super().resume_reading()


class Protocol(asyncio.Protocol):
    """One connection, answered by Django. `on_second` must be called once a second."""

    max_connections = 10_000
    """How many a worker may have; more are told that it is overloaded."""

    transport: asyncio.Transport
    flow: Flow

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.loop = _loop or asyncio.get_running_loop()
        self.server_state = server_state
        self.cycle: Any = None
        """What is being answered: a `RequestResponseCycle`, or what a subclass puts there."""
        self._config = config
        self._app_state = app_state
        self._reader = Reader()
        self._task: asyncio.Task[None] | None = None
        self._addresses: dict[str, Any] = {}
        self._kept = 0
        self._body_size = 0
        self._age = 0  # seconds since something happened that `on_second` waits for
        self._is_question = False
        self._has_answered = False
        self._has_said_all = False
        self._is_lost = False

    # --- what the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the transport."""
        self.transport = cast(asyncio.Transport, transport)
        self.flow = Flow(self.transport)
        self.server_state.connections.add(self)  # type: ignore[arg-type]
        self._addresses = {
            "server": get_local_addr(self.transport),
            "client": get_remote_addr(self.transport),
            "scheme": "https" if is_ssl(self.transport) else "http",
        }
        if len(self.server_state.connections) > self.max_connections:
            self._refuse(BadMessage(503, "overloaded", "Too many connections are open.", retry_after=1))

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the transport: what is being answered ends, what waits is never begun."""
        self._is_lost = True
        self.server_state.connections.discard(self)
        self._reader = Reader()
        self._keep(0)
        self.flow.resume_writing()  # who waits to write finds that nobody is there
        if self._task is not None:
            self.cycle.disconnected = True
            self._task.cancel()
            self._task = None
        # A cycle knows this protocol: memory that only the collector would find.
        self.cycle = None

    def eof_received(self) -> bool:
        """Called by the transport: the client has said all it wants, and may still listen."""
        self._has_said_all = True
        self._age = 0
        return not self._is_through()

    def data_received(self, data: bytes) -> None:
        """Called by the transport."""
        if not self._reader.is_receiving:
            self._age = 0
        self._reader.feed(data)
        try:
            self._keep(self._reader.held + self._body_size)
        except BadMessage as refusal:
            self._refuse(refusal)
        else:
            self._go_on()

    def pause_writing(self) -> None:
        """Called by the transport."""
        self.flow.pause_writing()
        self._age = 0

    def resume_writing(self) -> None:
        """Called by the transport."""
        self.flow.resume_writing()
        self._age = 0
        self._go_on()

    # --- what uvicorn calls

    def on_response_complete(self) -> None:
        """Called by uvicorn after each answer."""
        self._task = None
        self._body_size = 0
        self._answered()

    def shutdown(self) -> None:
        """Called by uvicorn's server: close after the answer that is being given, if there is one."""
        if self.cycle is None:
            self.transport.close()
        else:
            self.cycle.keep_alive = False

    # --- what the worker calls

    def hang_up_on_the_slow(self) -> None:
        """End the connection where it is its client who is waited for."""
        if self.flow.write_paused or (self.cycle is None and self._reader.is_receiving):
            self.transport.abort()

    def on_second(self) -> None:
        """End the connection where its client has been too slow for too long."""
        self._age += 1
        if self.flow.write_paused or self.transport.is_closing():
            if self._age > WRITE_TIMEOUT:
                self.transport.abort()
        elif self.cycle is not None:
            if self._has_said_all and self._is_question and self._age > LISTENING:
                self.transport.abort()
        elif self._reader.is_receiving:
            if self._age > REQUEST_TIMEOUT:
                detail = f"A request must arrive within {REQUEST_TIMEOUT} s."
                self._refuse(BadMessage(408, "request_timeout", detail))
        elif self._age > (self._config.timeout_keep_alive if self._has_answered else REQUEST_TIMEOUT):
            self.transport.close()

    # --- requests, one after another

    def _go_on(self) -> None:
        """Answer what is there, until an answer, its reader or the rest of a request must be waited for."""
        try:
            while self._is_free() and self._begin_next():
                pass
        except BadMessage as refusal:
            self._refuse(refusal)
            return
        self._keep(self._reader.held + self._body_size)
        if self._is_free() or not self._reader.held:
            self.flow.read_on()
        else:
            self.flow.pause_reading()
        if self._is_through():
            self.transport.close()

    def _is_free(self) -> bool:
        """Whether the next request can be begun."""
        return self.cycle is None and not self.flow.write_paused and not self.transport.is_closing()

    def _is_through(self) -> bool:
        """Whether nothing can come any more, and nobody waits for an answer."""
        return self._has_said_all and self._is_free()

    def _begin_next(self) -> bool:
        """Begin to answer the next request, if it is there. Raises `BadMessage`."""
        request = self._reader.next()
        if request is not None:
            self._begin(request)
        elif self._reader.take_expectation():
            self.transport.write(CONTINUE)
        return request is not None

    def _begin(self, request: Request) -> None:
        self.cycle = RequestResponseCycle(
            scope=self._scope(request.head),  # type: ignore[arg-type]
            transport=self.transport,
            flow=self.flow,
            logger=logger,
            access_logger=logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=request.head.keep_alive,
            on_response=self.on_response_complete,
        )
        self.cycle.body = request.body
        self.cycle.more_body = False
        self.cycle.message_event.set()
        self._body_size = len(request.body)
        self._is_question = request.head.method in SAFE_METHODS
        self._age = 0
        self._task = self.loop.create_task(self.cycle.run_asgi(self._application), name="a request")
        self.server_state.tasks.add(self._task)
        self._task.add_done_callback(self.server_state.tasks.discard)

    async def _application(self, scope: Any, receive: Any, send: Any) -> None:
        """The ASGI application, which is cancelled when its client is gone: that is no error of its own."""
        try:
            await self._config.loaded_app(scope, receive, send)
        except asyncio.CancelledError:
            if not self._is_lost:
                raise

    def _scope(self, head: Head) -> dict[str, Any]:
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
            "state": self._app_state.copy(),
            **self._addresses,
        }

    def _answered(self) -> None:
        """All of an answer was written."""
        self.cycle = None
        self.server_state.total_requests += 1
        self._has_answered = True
        self._age = 0
        if not self.transport.is_closing():
            self._go_on()

    def _keep(self, size: int) -> None:
        """Note how many bytes of requests are kept here. Raises `BadMessage` where it is too much for all."""
        kept = max(0, size - FREE)
        if not budget.change(kept - self._kept):
            raise BadMessage(503, "overloaded", "Too much is being received at once.", retry_after=1)
        self._kept = kept

    def _refuse(self, refusal: BadMessage) -> None:
        """Answer nothing more but this, in its turn, and close."""
        self._reader.refuse(refusal)
        self._keep(self._body_size)
        if self.cycle is not None:
            return
        response = problem(refusal.status, refusal.reason, refusal.detail, retry_after=refusal.retry_after)
        response["Content-Length"] = str(len(response.content))
        response["Connection"] = "close"
        head = [f"HTTP/1.1 {refusal.status} {response.reason_phrase}\r\n".encode()]
        head += [name + b": " + value + b"\r\n" for name, value in self.server_state.default_headers]
        self.transport.write(b"".join([*head, response.serialize()]))
        self.transport.close()
