"""uvicorn's HTTP protocol, with limits to what one connection may send, keep waiting, and leave unread.

What cannot be read as a request, is too much or comes too slowly is refused with a problem document, and
ends its connection. uvicorn itself has none of these limits.
"""

import asyncio
import logging
from typing import Any, NoReturn

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from flashsale_project.handlers import MAX_TARGET
from sales.views import problem

logger = logging.getLogger(__name__)

MAX_HEADERS = 64 * 1024
"""Bytes of headers that a request may have."""

MAX_UNREAD = MAX_HEADERS + 4 * MAX_TARGET
"""Bytes that may come without making a head complete, or a piece of a body."""

MAX_BODY = 1024 * 1024
"""Bytes of a body: only the admin's forms have one, and Django keeps it in a file before it looks at it."""

SLICE = 4096
"""Bytes that are read at once: so many requests are read ahead of their turn on a connection at most."""

REQUEST_TIMEOUT = 15
"""Seconds that a request may take to arrive, and a new connection to send its first."""

WRITE_TIMEOUT = 30
"""Seconds that a client may leave its answers unread."""


class Flow(FlowControl):
    """uvicorn's flow control, which does not read on while requests still wait for their turn."""

    def __init__(self, transport: asyncio.Transport, protocol: "Protocol") -> None:
        super().__init__(transport)
        self._protocol = protocol

    def resume_reading(self) -> None:
        """Called by uvicorn after each answer, and where the body of a request is wanted."""
        if not self._protocol.pipeline:
            super().resume_reading()
            self._protocol.read_on()


class Protocol(HttpToolsProtocol):
    """One connection, answered by Django. `on_second` must be called once a second."""

    max_connections = 10_000
    """How many a worker may have; more are told that it is overloaded."""

    _refusal = (400, "invalid_request", "This is not an HTTP request.")
    _last_words: bytes | None = None
    _header_size = 0
    _body_size = 0
    _unread = 0
    _rest = b""
    _age = 0
    _is_receiving = False
    _in_head = False
    _has_answered = False
    _has_said_all = False
    _running: RequestResponseCycle | None = None

    # --- what the transport calls

    def connection_made(self, transport: Any) -> None:
        """Called by the transport."""
        super().connection_made(transport)
        self.flow = Flow(transport, self)
        if len(self.connections) > self.max_connections:
            self._give_up(503, "overloaded", "Too many connections are open.")

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the transport."""
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._rest = b""
        # Its cycles know this protocol: memory that only the collector would find.
        self.pipeline.clear()
        # uvicorn tells the last cycle only; the one that runs would write, and fail.
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Called by the transport: the client has said all it wants, and may still listen."""
        self._has_said_all = self._is_answering() or bool(self._rest)
        return self._has_said_all

    def data_received(self, data: bytes) -> None:
        """Called by the transport."""
        if self._rest:
            self._rest += data
        elif len(data) > SLICE or self.flow.read_paused:
            self._rest = data
            self._read_rest()
        else:
            self._read(data)

    def pause_writing(self) -> None:
        """Called by the transport."""
        super().pause_writing()
        self._age = 0

    # --- what the parser calls

    def on_message_begin(self) -> None:
        """Called by the parser."""
        super().on_message_begin()
        self._header_size = self._body_size = self._unread = self._age = 0
        self._is_receiving = self._in_head = True

    def on_url(self, url: bytes) -> None:
        """Called by the parser with a piece of the target."""
        # A little more than the handler allows, so that it can answer and keep the connection.
        if len(self.url) + len(url) > 4 * MAX_TARGET:
            self._refuse(414, "uri_too_long", f"The target is longer than {MAX_TARGET} bytes.")
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser with a whole header."""
        self._header_size += len(name) + len(value)
        if len(value) > 6 and name.lower() == b"content-length" and value.isdigit() and int(value) > MAX_BODY:
            self._refuse(*_CONTENT_TOO_LARGE)
        if self._header_size > MAX_HEADERS:
            self._refuse(*_HEADERS_TOO_LARGE)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self._in_head = False
        self._unread = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Called by the parser with a piece of the body."""
        self._unread = 0
        self._body_size += len(body)
        if self._body_size > MAX_BODY:
            self._refuse(*_CONTENT_TOO_LARGE)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self._is_receiving = False
        super().on_message_complete()

    # --- what uvicorn calls

    def on_response_complete(self) -> None:
        """Called by uvicorn after each answer."""
        self._age = 0
        super().on_response_complete()
        if self._is_answering() or self.transport.is_closing():
            return
        if self._last_words is not None:
            self._end(self._last_words)
        elif self._has_said_all and not self._rest:
            self.transport.close()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Called by uvicorn for the next request."""
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    # --- what the worker calls

    def hang_up_on_the_slow(self) -> None:
        """End the connection where it is its client who is waited for."""
        if self.flow.write_paused or self._is_receiving:
            self.transport.abort()

    def on_second(self) -> None:
        """End the connection where its client has been too slow for too long."""
        self._age += 1
        if self.flow.write_paused:
            if self._age > WRITE_TIMEOUT:
                self.transport.abort()
        elif self._is_receiving:
            if self._age > REQUEST_TIMEOUT:
                self._give_up(408, "request_timeout", f"A request must arrive within {REQUEST_TIMEOUT} s.")
        elif self._is_answering() or self.timeout_keep_alive_task is not None:
            pass  # it waits for us, or for uvicorn's own timer, which begins with the answers of a cycle
        elif self._age > (self.timeout_keep_alive if self._has_answered else REQUEST_TIMEOUT):
            self.transport.close()

    # ---

    def read_on(self) -> None:
        """Read what was left when reading was paused, in a turn of its own."""
        if self._rest:
            self.loop.call_soon(self._read_rest)

    def _read_rest(self) -> None:
        while self._rest and not self.flow.read_paused and not self.transport.is_closing():
            data, self._rest = self._rest[:SLICE], self._rest[SLICE:]
            self._read(data)
        if self._has_said_all and not self._rest and not self._is_answering():
            self.transport.close()

    def _read(self, data: bytes) -> None:
        """What uvicorn does with data, with limits, and without a line in the log for nonsense."""
        self._unset_keepalive_if_required()
        self._unread += len(data)
        if self._last_words is not None:
            return
        if self._unread > MAX_UNREAD:
            # The parser collects a header until it is complete, however long it is.
            self._give_up(*_HEADERS_TOO_LARGE)
            return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # Nobody upgrades here: what follows is the next request.
            self._rest = data[upgrade.args[0] :] + self._rest
            self.read_on()
        except httptools.HttpParserError as error:
            cause = error.__context__
            if cause is not None and not isinstance(cause, ValueError | httptools.HttpParserError):
                logger.error("reading a request failed", exc_info=cause)
            self._give_up(*self._refusal)

    def _has_ended(self) -> bool:
        """Whether nothing more is read: the connection closes, or will when all is answered."""
        return self._last_words is not None or self.transport.is_closing()

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, status: int, reason: str, detail: str) -> NoReturn:
        self._refusal = (status, reason, detail)
        raise ValueError(reason)  # ends the parser

    def _give_up(self, status: int, reason: str, detail: str) -> None:
        """Refuse what is being received, after the answers to what came before it, and close."""
        response = problem(status, reason, detail)
        response["Content-Length"] = str(len(response.content))
        response["Connection"] = "close"
        head = [f"HTTP/1.1 {status} {response.reason_phrase}\r\n".encode()]
        head += [name + b": " + value + b"\r\n" for name, value in self.server_state.default_headers]
        head.append(response.serialize())
        if not self._is_answering():
            self._end(b"".join(head))
        elif self._is_receiving and not self._in_head:
            # The body of a request that is being answered already, or waits for that: no answer is better
            # than one that would be taken for the answer to another request.
            self.transport.abort() if self.pipeline else self._end(b"".join(head))
        else:
            self._last_words = b"".join(head)

    def _end(self, answer: bytes) -> None:
        self.transport.write(answer)
        self.transport.close()


_HEADERS_TOO_LARGE = (431, "headers_too_large", f"The headers are longer than {MAX_HEADERS} bytes.")
_CONTENT_TOO_LARGE = (413, "content_too_large", f"The body is longer than {MAX_BODY} bytes.")
