"""Which requests the express lane takes: one expression for all of a request.

It is as strict as `heads` is, and matches nothing that would be read otherwise there: it says only which way
a request takes.
"""

import re

from flashsale_project.serving.http.heads import NAME, TEXT, TOKEN
from flashsale_project.serving.limits import MAX_FIELDS

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
