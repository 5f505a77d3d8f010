"""The express lane: the two hot calls answered inside the HTTP protocol.

Through ASGI and Django a request costs ten times the CPU of what it asks for. So an ordinary
``POST /checkout`` or ``POST /purchase`` is recognised as a whole, by one expression, and answered with the
same services: refusals at once, from responses built once, the others when their batch has committed, without
a task each. Whatever is unusual about a request (see `HOT`) takes the stock way, as if this was not here.

`HOT` is as strict as `heads` is, and matches nothing that would be read otherwise there: it says only which
way a request takes. An answer that is still to come stands where that of a request to Django would, so the
order of answers, the shutdown and the flow control are those of `Protocol`.
"""

import logging
import re
from typing import Any
from uuid import UUID

from django.http import HttpResponse
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from flashsale_project.serving.http.heads import MAX_FIELDS, NAME, TEXT, TOKEN
from flashsale_project.serving.http.protocol import Protocol
from sales.calls import start_checkout, start_purchase
from sales.problems import internal_error, refused
from sales.refusals import REASONS, Reason, Refusal
from sales.runtime import Runtime

logger = logging.getLogger(__name__)

MAX_HOT = 4096
"""Bytes of a request that is looked at here."""

CAREFUL = (
    *("connection", "content-length", "content-type", "expect", "host"),
    *("idempotency-key", "transfer-encoding"),
)
"""Headers that may change an answer. All others change nothing, whatever they say: who lets a view look at
another one adds it here."""


def _any_case(name: str) -> str:
    return "".join(f"[{letter.upper()}{letter}]" if letter.isalpha() else letter for letter in name)


def _header(name: str, value: str) -> str:
    return rf"{_any_case(name)}:[ \t]*+(?:{value})[ \t]*+\r\n"


def _plain_headers() -> str:
    """Headers that are not careful, and careful ones that say the usual."""
    character = TOKEN.decode().replace("_", "")  # Django drops names with a _
    any_value = TEXT.decode() + r"*+\r\n"
    firsts = sorted({name[0] for name in CAREFUL})
    # Most names need no closer look.
    harmless = "".join(c for c in map(chr, range(128)) if re.match(character, c) and c.lower() not in firsts)
    kinds = [f"[{re.escape(harmless)}]{character}*+:{any_value}"]
    for first in firsts:
        rest = "|".join(_any_case(name[1:]) for name in CAREFUL if name[0] == first)
        kinds.append(f"{_any_case(first)}(?!(?:{rest}):){character}*+:{any_value}")
    kinds.append(_header("connection", _any_case("keep-alive")))
    kinds.append(_header("content-type", "application/x-www-form-urlencoded|application/json|text/plain"))
    return f"(?:{'|'.join(kinds)}){{0,{MAX_FIELDS // 3 - 1}}}+"


def _hot() -> "re.Pattern[bytes]":
    # Numbers of up to 18 digits fit in 64 bits, so nothing here needs to be refused for its size.
    target = (
        r"(?:/checkout\?user_id=([0-9]{1,18})(?:&item_id=([0-9]{1,18}))?"
        r"|/purchase\?code=([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}))"
    )
    host, length = _header("host", NAME.decode() + "++(?::[0-9]{0,5}+)?"), _header("content-length", "0")
    plain = _plain_headers()
    least = f"{host}(?:{length})?"
    usual = f"{plain}(?:{host}{plain}(?:{length}{plain})?|{length}{plain}{host}{plain})"
    return re.compile(rf"POST {target} HTTP/1\.1\r\n(?:{least}|{usual})\r\n".encode())


HOT = _hot()
"""An ordinary hot call, all of it: user and item, or code. No body, one host, at most one length."""

Hot = tuple[bytes | None, ...]
"""What `HOT` finds."""


class Pending:
    """An answer that is still to come."""

    __slots__ = ("is_purchase", "keep_alive")
    response_complete = False

    def __init__(self, is_purchase: bool) -> None:
        self.is_purchase = is_purchase
        self.keep_alive = True


class ExpressProtocol(Protocol):
    """A connection with a lane for the two hot calls."""

    # The same for all connections, until uvicorn sets the default headers anew (every second).
    _defaults: Any = None
    _defaults_bytes = b""
    _granted = b""  # up to the code
    _purchased = b""
    _closing = False
    _ready: dict[Reason, bytes] = {}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._runtime: Runtime = self._app_state["runtime"]

    def data_received(self, data: bytes) -> None:
        """Called by the transport."""
        if (
            len(data) <= MAX_HOT
            and self.cycle is None
            and self._reader.is_fresh
            and not self.flow.write_paused
            and (match := HOT.fullmatch(data)) is not None
            and not self._is_closing()
        ):
            self._ask(match.groups())
        else:
            super().data_received(data)

    def _begin_next(self) -> bool:
        if not self._is_closing() and (hot := self._reader.take(HOT, MAX_HOT)) is not None:
            self._ask(hot)
            return True
        return super()._begin_next()

    # --- asking

    def _ask(self, hot: Hot) -> None:
        """One of the two hot calls is there, and it is its turn."""
        user_id, item_id, code = hot
        self._age = 0
        no: Reason | BaseException | None
        try:
            if code is not None:
                no = start_purchase(self._runtime, UUID(code.decode()), self._answer)
            else:
                assert user_id is not None
                item = None if item_id is None else int(item_id)
                no = start_checkout(self._runtime, int(user_id), item, self._answer)
        except Exception as error:
            no = error
        if no is None:
            self.cycle = Pending(code is not None)
        else:
            self.transport.write(self._refusal_bytes(no))
            self.server_state.total_requests += 1
            self._has_answered = True

    def _answer(self, result: UUID | BaseException) -> None:
        """What was asked for is committed, or has failed."""
        pending: Pending | None = self.cycle
        if pending is None:  # the connection was lost
            return
        is_closing = self._is_closing()
        if isinstance(result, BaseException):
            answer = self._refusal_bytes(result)
        elif pending.is_purchase:
            answer = self._purchased
        else:
            answer = self._granted + str(result).encode()
        if is_closing:
            pending.keep_alive = False
        elif not pending.keep_alive:
            head, body = answer.split(b"\r\n\r\n", 1)
            answer = head + b"\r\nconnection: close\r\n\r\n" + body
        self.transport.write(answer)
        if not pending.keep_alive:
            self.transport.close()
        self._answered()

    # --- answers as bytes

    def _refusal_bytes(self, no: Reason | BaseException) -> bytes:
        if isinstance(no, Refusal):
            no = no.reason
        if isinstance(no, Reason):
            return self._ready.get(no) or self._bytes(refused(no))
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
        ExpressProtocol._purchased = self._bytes(HttpResponse("purchased", content_type="text/plain"))
        ExpressProtocol._ready = {reason: self._bytes(refused(reason)) for reason in REASONS}
        any_code = str(UUID(int=0))
        ExpressProtocol._granted = self._bytes(
            HttpResponse(any_code, content_type="text/plain")
        ).removesuffix(any_code.encode())
