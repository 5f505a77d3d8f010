"""The express lane: the two hot calls answered inside uvicorn's HTTP protocol.

Through ASGI and Django a request costs ten times the CPU of what it asks for. So ``POST /checkout`` and
``POST /purchase`` are recognised while they are parsed, and answered with the same services: refusals at
once, from responses built once, the others when their batch has committed, without a task each. Whatever
is unusual about a request (see `PLAIN`, `CAREFUL` and `TARGET`) takes the stock way, as if this was not here.
Headers that the parser has read once, byte for byte, are not parsed again.

Requests of one connection are answered one after another, as uvicorn does it: an answer that is still to
come stands where uvicorn keeps the cycle of a request, so its own order, shutdown and flow control hold.
That is all of uvicorn's inside that is used here: ``cycle``, ``pipeline``, ``flow`` and ``server_state``.
"""

import logging
import re
from typing import Any
from uuid import UUID

from django.http import HttpResponse
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from flashsale_project.protocol import SLICE, Protocol
from sales.exceptions import Refusal
from sales.runtime import Runtime
from sales.services import Refused, start_checkout, start_purchase
from sales.views import internal_error, refused

logger = logging.getLogger(__name__)

MAX_TARGET = 256
"""Bytes of a target that is looked at here."""

MAX_HEADERS = 32
MAX_VALUE = 1024
"""Headers, and bytes of the value of one, that are kept here for the case that the stock way is taken."""

MAX_HEADS = 256
"""Heads that are remembered."""

# Numbers of up to 18 digits fit in 64 bits, so nothing here needs to be refused for its size.
_TARGET = (
    rb"(?:/checkout\?user_id=([0-9]{1,18})(?:&item_id=([0-9]{1,18}))?"
    rb"|/purchase\?code=([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}))"
)
TARGET = re.compile(_TARGET)
REQUEST_LINE = re.compile(rb"POST " + _TARGET + rb" HTTP/1\.1")


def _spelled(*names: str) -> set[bytes]:
    return {name.encode() for title in names for name in (title, title.lower())}


PLAIN = _spelled(
    *("Host", "User-Agent", "Accept", "Accept-Encoding", "Accept-Language", "Cache-Control", "Cookie"),
    *("DNT", "Forwarded", "Origin", "Pragma", "Priority", "Referer", "Sec-Fetch-Dest", "Sec-Fetch-Mode"),
    *("Sec-Fetch-Site", "Traceparent", "Tracestate", "X-Forwarded-For", "X-Forwarded-Host"),
    *("X-Forwarded-Proto", "X-Real-IP", "X-Request-ID"),
)
"""Headers that change nothing, whatever they say."""

CAREFUL = {
    name: values
    for title, values in {
        "Connection": {b"keep-alive", b"Keep-Alive"},
        "Content-Length": {b"0"},
        "Content-Type": {b"application/x-www-form-urlencoded", b"application/json", b"text/plain"},
    }.items()
    for name in _spelled(title)
}
"""Headers that change nothing where they say this."""


class Pending:
    """An answer that is still to come, where uvicorn looks for the cycle of a request."""

    __slots__ = ("disconnected", "keep_alive", "match", "message_event", "response_complete")

    def __init__(self, match: "re.Match[bytes]") -> None:
        self.match = match
        self.keep_alive = True
        self.response_complete = False
        self.disconnected = False
        self.message_event = _NOBODY_WAITS


class ExpressProtocol(Protocol):
    """uvicorn's protocol with a lane for the two hot calls."""

    # The same for all connections, until uvicorn sets the default headers anew (every second).
    _defaults: Any = None
    _defaults_bytes = b""
    _granted = b""  # up to the code
    _purchased = b""
    _closing = False
    _ready: dict[type[Refusal], bytes] = {}
    # A client sends the same headers with each of its requests: what the parser made of them once, as bytes
    # from the end of the request line to the end of the request, it need not be asked again.
    _plain_heads: set[bytes] = set()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._runtime: Runtime = self.app_state["runtime"]
        self._stock = True
        self._begun = 0
        self._target = b""
        self._kept: list[tuple[bytes, bytes]] = []
        self._match: re.Match[bytes] | None = None
        self._pending: Pending | None = None
        self._is_blocked = False

    # --- what the transport calls

    def data_received(self, data: bytes) -> None:
        """Called by the transport."""
        end = data.find(b"\r\n")
        if (
            len(data) <= SLICE
            and data[end:] in self._plain_heads
            and not (self._is_receiving or self._rest or self.flow.read_paused or self._last_words)
            and (match := REQUEST_LINE.fullmatch(data, 0, end)) is not None
            and not self._is_closing()
        ):
            if self.timeout_keep_alive_task is not None:
                self._unset_keepalive_if_required()
            self._age = 0
            self._request(match)
        else:
            super().data_received(data)

    def _read(self, data: bytes) -> None:
        is_fresh = not self._is_receiving
        self._begun = 0
        super()._read(data)
        # One whole request, and nothing else.
        if is_fresh and self._begun == 1 and not (self._stock or self._is_receiving or self._has_ended()):
            end = data.find(b"\r\n")
            if REQUEST_LINE.fullmatch(data, 0, end) is not None:
                if len(self._plain_heads) >= MAX_HEADS:
                    self._plain_heads.clear()
                self._plain_heads.add(data[end:])

    # --- what the parser calls

    def on_message_begin(self) -> None:
        """Called by the parser."""
        self._begun += 1
        self._is_receiving = self._in_head = True
        self._unread = self._age = 0
        self._stock = False
        self._target = b""
        self._kept = []

    def on_url(self, url: bytes) -> None:
        """Called by the parser with a piece of the target."""
        if self._stock:
            super().on_url(url)
            return
        if len(self._target) + len(url) > MAX_TARGET:
            self._take_stock_way()
            super().on_url(url)
        else:
            self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser with a whole header."""
        if self._stock:
            super().on_header(name, value)
            return
        self._kept.append((name, value))
        if (
            (name not in PLAIN and value not in CAREFUL.get(name, ()))
            or len(value) > MAX_VALUE
            or len(self._kept) > MAX_HEADERS
        ):
            self._take_stock_way()

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        if not self._stock:
            self._match = TARGET.fullmatch(self._target)
            if (
                self._match is not None
                and not self._is_closing()
                and self.parser.get_method() == b"POST"
                and self.parser.get_http_version() == "1.1"
            ):
                return
            self._take_stock_way()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Called by the parser; a request without a length has no body, and one with 0 neither."""
        assert self._stock
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        if self._stock:
            super().on_message_complete()
            return
        self._is_receiving = False
        assert self._match is not None
        self._request(self._match)

    # --- what uvicorn and the transport call

    def _start_asgi_task(self, cycle: RequestResponseCycle | Pending, app: Any) -> None:
        """Called by uvicorn for the next request of the pipeline."""
        if isinstance(cycle, Pending):
            # In a turn of its own: a long row of refusals would be a deep recursion.
            self.loop.call_soon(self._start, cycle)
        else:
            super()._start_asgi_task(cycle, app)

    def resume_writing(self) -> None:
        """Called by the transport."""
        super().resume_writing()
        if self._is_blocked:
            self._is_blocked = False
            self._start_asgi_task(*self.pipeline.pop())

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the transport."""
        self._is_blocked = False
        super().connection_lost(exc)

    # ---

    def _request(self, match: "re.Match[bytes]") -> None:
        """One of the two hot calls is there."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._queue(Pending(match))
        elif self.flow.write_paused:  # a client that does not read its answers gets no more of them
            self._queue(Pending(match))
            self._is_blocked = True
        elif not self.transport.is_closing():
            no = self._ask(match)
            if no is None:
                self.cycle = self._pending = Pending(match)  # type: ignore[assignment]
                return
            self.transport.write(self._refusal_bytes(no))
            self.server_state.total_requests += 1
            self._has_answered = True

    def _take_stock_way(self) -> None:
        """Begin again as if the parser had just called uvicorn."""
        self._stock = True
        super().on_message_begin()
        super().on_url(self._target)
        for name, value in self._kept:
            super().on_header(name, value)

    def _queue(self, pending: Pending) -> None:
        self.flow.pause_reading()
        self.cycle = pending  # type: ignore[assignment]
        self.pipeline.appendleft((pending, self.app))  # type: ignore[arg-type]

    def _start(self, pending: Pending) -> None:
        """It is the turn of a request that had to wait."""
        if self.transport.is_closing():
            return
        if self.flow.write_paused:
            self.pipeline.append((pending, self.app))  # type: ignore[arg-type]
            self._is_blocked = True
            return
        no = self._ask(pending.match)
        if no is None:
            self._pending = pending
        else:
            self._finish(pending, self._refusal_bytes(no))

    def _ask(self, match: "re.Match[bytes]") -> Refused | BaseException | None:
        """Ask the service: a refusal, or ``None``, and then `_answer` is called later."""
        user_id, item_id, code = match.groups()
        try:
            if code is not None:
                return start_purchase(self._runtime, UUID(code.decode()), self._answer)
            item = None if item_id is None else int(item_id)
            return start_checkout(self._runtime, int(user_id), item, self._answer)
        except Exception as error:
            return error

    def _answer(self, result: UUID | BaseException) -> None:
        """What was asked for is committed, or has failed."""
        pending, self._pending = self._pending, None
        assert pending is not None
        if self.server_state.default_headers is not ExpressProtocol._defaults:
            self._set_defaults()
        if isinstance(result, BaseException):
            answer = self._refusal_bytes(result)
        elif pending.match[3] is not None:
            answer = self._purchased
        else:
            answer = self._granted + str(result).encode()
        self._finish(pending, answer)

    def _finish(self, pending: Pending, answer: bytes) -> None:
        pending.response_complete = True
        if self.transport.is_closing():
            return
        if ExpressProtocol._closing:
            pending.keep_alive = False
        elif not pending.keep_alive:
            head, body = answer.split(b"\r\n\r\n", 1)
            answer = head + b"\r\nconnection: close\r\n\r\n" + body
        self.transport.write(answer)
        if not pending.keep_alive:
            self.transport.close()
        if self.pipeline or self.flow.read_paused or self._last_words or self._has_said_all:
            self.on_response_complete()
        else:  # nothing to go on with: `on_second` needs no timer to hang up on the idle
            self.server_state.total_requests += 1
            self._has_answered = True
            self._age = 0

    def _refusal_bytes(self, no: Refused | BaseException) -> bytes:
        if self.server_state.default_headers is not ExpressProtocol._defaults:
            self._set_defaults()
        if isinstance(no, type):
            if (answer := self._ready.get(no)) is None:
                answer = self._ready[no] = self._bytes(refused(no()))
            return answer
        if isinstance(no, Refusal):
            return self._bytes(refused(no))
        logger.error("a request failed", exc_info=no)
        return self._bytes(internal_error())

    def _bytes(self, response: HttpResponse) -> bytes:
        """A response as uvicorn would send it."""
        response["Content-Length"] = str(len(response.content))
        headers = b"".join(
            name.lower().encode() + b": " + value.encode("latin-1") + b"\r\n"
            for name, value in response.items()
        )
        return STATUS_LINE[response.status_code] + self._defaults_bytes + headers + b"\r\n" + response.content

    def _is_closing(self) -> bool:
        """Whether every answer says that it is the last one: that is not for here."""
        if self.server_state.default_headers is not ExpressProtocol._defaults:
            self._set_defaults()
        return ExpressProtocol._closing

    def _set_defaults(self) -> None:
        defaults = ExpressProtocol._defaults = self.server_state.default_headers
        ExpressProtocol._defaults_bytes = b"".join(name + b": " + value + b"\r\n" for name, value in defaults)
        ExpressProtocol._closing = any(name == b"connection" for name, _ in defaults)
        ExpressProtocol._ready.clear()
        ExpressProtocol._purchased = self._bytes(HttpResponse("purchased", content_type="text/plain"))
        any_code = str(UUID(int=0))
        ExpressProtocol._granted = self._bytes(
            HttpResponse(any_code, content_type="text/plain")
        ).removesuffix(any_code.encode())


class _NobodyWaits:
    """The event that uvicorn sets when a client is gone: nobody waits for it here."""

    def set(self) -> None:
        """Nothing."""


_NOBODY_WAITS = _NobodyWaits()
