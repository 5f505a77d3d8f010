"""uvicorn's HTTP protocol, with refusals of our own for what is not a request we can read."""

from typing import NoReturn

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from flashsale_project.handlers import MAX_TARGET
from sales.views import problem

MAX_HEADERS = 64 * 1024
"""Bytes of headers that a request may have."""


class Protocol(HttpToolsProtocol):
    """Ends a connection that sends nonsense, or too much of it, with a problem document."""

    _refusal: tuple[int, str, str] | None = None
    _header_size = 0

    def on_message_begin(self) -> None:
        """Called by the parser."""
        super().on_message_begin()
        self._header_size = 0

    def on_url(self, url: bytes) -> None:
        """Called by the parser with a piece of the target."""
        # A little more than the handler allows, so that it can answer and keep the connection.
        if len(self.url) + len(url) > 4 * MAX_TARGET:
            self._refuse(414, "uri_too_long", f"The target is longer than {MAX_TARGET} bytes.")
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser with a whole header."""
        self._header_size += len(name) + len(value)
        if self._header_size > MAX_HEADERS:
            self._refuse(431, "headers_too_large", f"The headers are longer than {MAX_HEADERS} bytes.")
        super().on_header(name, value)

    def on_response_complete(self) -> None:
        """Called by uvicorn after each answer."""
        super().on_response_complete()
        # It has resumed reading, though others are still waiting: whoever sends faster than it is answered
        # would fill the memory.
        if self.pipeline and not self.transport.is_closing():
            self.flow.pause_reading()

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn when the parser, or one of the methods above, has failed."""
        status, reason, detail = self._refusal or (400, "invalid_request", "This is not an HTTP request.")
        response = problem(status, reason, detail)
        response["Content-Length"] = str(len(response.content))
        response["Connection"] = "close"
        head = [f"HTTP/1.1 {status} {response.reason_phrase}\r\n".encode()]
        head += [name + b": " + value + b"\r\n" for name, value in self.server_state.default_headers]
        head.append(response.serialize())
        self.transport.write(b"".join(head))
        self.transport.close()

    def _refuse(self, status: int, reason: str, detail: str) -> NoReturn:
        self._refusal = (status, reason, detail)
        raise ValueError(reason)  # ends the parser, which makes uvicorn send the refusal
