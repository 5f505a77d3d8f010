"""One HTTP connection: requests in, one after another, and an answer to each, from the ASGI application.

The way of a request: `data_received` feeds the reader, `_go_on` takes whole requests from it as long as
the connection is free, `_begin` hands one to the application (`cycle`), which writes its answer to the
transport and tells `on_response_complete`; then `_go_on` again.

What cannot be read as a request, is too much or comes too slowly is refused with a problem document, after
the answers to what came before it, and ends its connection. A request is begun when it is whole and right and
all before it are answered, so nobody is refused what was done, or answered twice.
"""

import asyncio
from typing import Any, cast

from flashsale_project.serving.http.budget import Budget, Share
from flashsale_project.serving.http.cycle import Answering, Application, Cycle
from flashsale_project.serving.http.heads import BadMessage
from flashsale_project.serving.http.messages import Reader, Request
from flashsale_project.serving.http.phases import Life, Phase
from flashsale_project.serving.limits import FREE, MAX_CONNECTIONS, MAX_KEPT, REQUEST_TIMEOUT
from flashsale_project.serving.uvicorn_parts import Config, FlowControl, ServerState
from sales.problems import problem

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

budget = Budget(MAX_KEPT)
"""That of all connections of a worker, for what they have sent and nobody has answered yet."""


class Flow(FlowControl):
    """uvicorn's flow control, where nobody but the protocol decides when to read on."""

    def resume_reading(self) -> None:
        """Do nothing: uvicorn calls it where the body of a request is wanted, and that is there."""

    def read_on(self) -> None:
        """Read again, if reading was paused."""
        super().resume_reading()


class Protocol(asyncio.Protocol):
    """One connection, answered by Django. `on_second` must be called once a second."""

    max_connections = MAX_CONNECTIONS
    """How many a worker may have; more are told that it is overloaded."""

    transport: asyncio.Transport
    flow: Flow

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any]) -> None:
        self.server_state = server_state
        self.life = Life()
        self.cycle: Answering | None = None
        """What is being answered."""
        self._application = Application(config, app_state, self.life)
        self._reader = Reader()
        self._share = Share(budget)

    @property
    def phase(self) -> Phase:
        """What is waited for."""
        return self.life.phase(
            is_unread=self.flow.write_paused,
            is_closing=self.transport.is_closing(),
            is_answering=self.cycle is not None,
            is_question=self.cycle is not None and self.cycle.is_question,
            is_receiving=self._reader.is_receiving,
        )

    # --- what the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Join the connections of the worker, or tell the client that there are too many."""
        self.transport = cast(asyncio.Transport, transport)
        self.flow = Flow(self.transport)
        self.server_state.connections.add(self)  # type: ignore[arg-type]
        self._application.learn_addresses(self.transport)
        if len(self.server_state.connections) > self.max_connections:
            self._refuse(BadMessage(503, "overloaded", "Too many connections are open.", retry_after=1))

    def connection_lost(self, exc: Exception | None) -> None:
        """End what is being answered; what waits is never begun."""
        self.life.is_lost = True
        self.server_state.connections.discard(self)
        self._reader = Reader()
        self._share.resize(0)
        self.flow.resume_writing()  # who waits to write finds that nobody is there
        if self.cycle is not None:
            self.cycle.abandon()
        # A cycle knows this protocol: memory that only the collector would find.
        self.cycle = None

    def eof_received(self) -> bool:
        """Note that the client has said all it wants; true where it may still listen for an answer."""
        self.life.has_said_all = True
        self.life.age = 0
        return not self._is_through()

    def data_received(self, data: bytes) -> None:
        """Read on, and answer what is whole."""
        if not self._reader.is_receiving:
            self.life.age = 0
        self._reader.feed(data)
        try:
            self._keep()
        except BadMessage as refusal:
            self._refuse(refusal)
        else:
            self._go_on()

    def pause_writing(self) -> None:
        """Begin nothing more: the client leaves too much unread."""
        self.flow.pause_writing()
        self.life.age = 0

    def resume_writing(self) -> None:
        """Go on: the client has read."""
        self.flow.resume_writing()
        self.life.age = 0
        self._go_on()

    # --- what uvicorn calls

    def on_response_complete(self) -> None:
        """Go on: all of an answer was written."""
        self._answered()

    def shutdown(self) -> None:
        """Close after the answer that is being given, if there is one."""
        if self.cycle is None:
            self.transport.close()
        else:
            self.cycle.keep_alive = False

    # --- what the worker calls

    def answer_no_more(self) -> None:
        """Let the answer that is being given, if there is one, be the last."""
        if self.cycle is not None:
            self.cycle.keep_alive = False

    def hang_up_on_the_slow(self) -> None:
        """End the connection where it is its client who is waited for."""
        if self.phase in (Phase.UNREAD, Phase.RECEIVING):
            self.transport.abort()

    def on_second(self) -> None:
        """End the connection where its client has been too slow for too long."""
        phase = self.phase
        if not self.life.second(phase):
            return
        if phase is Phase.RECEIVING:
            detail = f"A request must arrive within {REQUEST_TIMEOUT} s."
            self._refuse(BadMessage(408, "request_timeout", detail))
        elif phase in (Phase.NEW, Phase.IDLE):
            self.transport.close()
        else:
            self.transport.abort()

    # --- requests, one after another

    def _go_on(self) -> None:
        """Answer what is there, until an answer, its reader or the rest of a request must be waited for."""
        try:
            while self._is_free() and self._begin_next():
                pass
            self._keep()
        except BadMessage as refusal:
            self._refuse(refusal)
            return
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
        return self.life.has_said_all and self._is_free()

    def _is_at_rest(self) -> bool:
        """Whether `_go_on` would find nothing to do: nothing has come, nothing is kept, and more may come."""
        return (
            self._reader.is_fresh
            and not self._share.size
            and not self.flow.read_paused
            and not self.life.has_said_all
        )

    def _begin_next(self) -> bool:
        """Begin to answer the next request, if it is there. Raises `BadMessage`."""
        request = self._reader.next()
        if request is not None:
            self._begin(request)
        elif self._reader.take_expectation():
            self.transport.write(CONTINUE)
        return request is not None

    def _begin(self, request: Request) -> None:
        self.life.age = 0
        self.cycle = cycle = Cycle(
            request,
            application=self._application,
            transport=self.transport,
            flow=self.flow,
            default_headers=self.server_state.default_headers,
            on_response=self.on_response_complete,
        )
        self.server_state.tasks.add(cycle.task)
        cycle.task.add_done_callback(self.server_state.tasks.discard)

    def _answered(self) -> None:
        """All of an answer was written."""
        self.cycle = None
        self.server_state.total_requests += 1
        self.life.has_answered = True
        self.life.age = 0
        if not (self._is_at_rest() or self.transport.is_closing()):
            self._go_on()

    def _keep(self) -> None:
        """Note how many bytes of requests are kept here. Raises `BadMessage` where it is too much for all."""
        body = 0 if self.cycle is None else self.cycle.size
        if not self._share.resize(max(0, self._reader.held + body - FREE)):
            raise BadMessage(503, "overloaded", "Too much is being received at once.", retry_after=1)

    def _refuse(self, refusal: BadMessage) -> None:
        """Answer nothing more but this, in its turn, and close."""
        self._reader.refuse(refusal)
        self._keep()
        if self.cycle is not None:
            return
        response = problem(refusal.status, refusal.reason, refusal.detail, retry_after=refusal.retry_after)
        response["Content-Length"] = str(len(response.content))
        response["Connection"] = "close"
        head = [f"HTTP/1.1 {refusal.status} {response.reason_phrase}\r\n".encode()]
        head += [name + b": " + value + b"\r\n" for name, value in self.server_state.default_headers]
        self.transport.write(b"".join([*head, response.serialize()]))
        self.transport.close()
