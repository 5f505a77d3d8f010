"""Which requests the express lane takes: one expression for all of a request.

It is as strict as `heads` is, and matches nothing that would be read otherwise there: it says only which way
a request takes. It remembers nothing, so a head that nobody has sent before costs no more than any other.

It takes time in proportion to what it looks at: where one alternative has matched no other can, and no run
of characters is ever given back. But no group here or in `heads` has a possessive quantifier (``(?:…)*+``):
before Python 3.11.5 it matches what it must not (python/cpython#106052).
"""

import re

from flashsale_project.serving.http.heads import NAME, TOKEN
from flashsale_project.serving.limits import MAX_FIELDS

CAREFUL = (
    *("connection", "content-length", "content-type", "expect", "host"),
    *("idempotency-key", "transfer-encoding"),
)
"""Headers that may change an answer. All others change nothing, whatever they say: who lets a view look at
another one adds it here."""

BEGINNING = 4
"""Letters by which a name is taken for a careful one. Names that only begin like one go the other way."""

_CHARACTER = TOKEN.decode().replace("_", "")  # Django drops names with a _
_ANY_VALUE = r"[ -~]*+\r\n"


def _any_case(name: str) -> str:
    return "".join(f"[{letter.upper()}{letter}]" if letter.isalpha() else letter for letter in name)


def _line(name: str, value: str) -> str:
    """A header as programs write it, or all in lower case as HTTP/2 has it."""
    return "".join(f"[{c}{c.lower()}]" if c.isupper() else c for c in name) + rf": {value}\r\n"


def _once(group: int, value: str) -> str:
    """The value of a header that is there once: this group, which is empty, must not have been met before."""
    return rf"(?({group})(?!)|()){value}"


def _harmless() -> list[str]:
    """Lines that are not careful, by the first letters of their names: most need no closer look."""
    firsts: dict[str, list[str]] = {}
    for name in CAREFUL:
        firsts.setdefault(name[0], []).append(_any_case(name[1:BEGINNING]))
    others = "".join(c for c in map(chr, range(128)) if re.match(_CHARACTER, c) and c.lower() not in firsts)
    lines = [f"[{re.escape(others)}]{_CHARACTER}*+:{_ANY_VALUE}"]
    for first, rests in firsts.items():
        lines.append(f"{_any_case(first)}(?!{'|'.join(dict.fromkeys(rests))}){_CHARACTER}*+:{_ANY_VALUE}")
    return lines


def _hot() -> "re.Pattern[bytes]":
    # Numbers of up to 18 digits fit in 64 bits, so nothing here needs to be refused for its size.
    target = (
        r"/(?:checkout\?user_id=([0-9]{1,18}+)(?:&item_id=([0-9]{1,18}+)|)"
        r"|purchase\?code=([0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}))"
    )
    others, *careful = _harmless()
    kinds = [
        others,
        _line("Host", _once(4, NAME.decode() + r"++(?::[0-9]{0,5}+)?")),
        _line("Content-Length", _once(5, "0")),
        _line("Connection", "[Kk]eep-[Aa]live"),
        _line("Content-Type", "(?:application/(?:json|x-www-form-urlencoded)|text/plain)"),
        *careful,
    ]
    lines = f"(?:{'|'.join(kinds)}){{1,{MAX_FIELDS}}}"
    return re.compile(rf"POST {target} HTTP/1\.1\r\n{lines}(?(4)|(?!))\r\n".encode())


HOT = _hot()
"""An ordinary hot call, all of it: user and item, or code. No body, one host, at most one length."""

Hot = tuple[bytes | None, ...]
"""What `HOT` finds: user, item and code, and two empty groups, by which it knows what was there."""
