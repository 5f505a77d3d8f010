"""Checkout codes: UUIDs (RFC 9562, version 8) that say which row they belong to.

``sale (26 bits) · item (24 bits) · random (72 bits, os.urandom)``, with the version and variant bits in
their places. Any worker finds the row of a code without an index on codes; the random bits make a code
unguessable, and only a code that matches in full is accepted. Codes sort by sale, then by item.
"""

import os
import re
from uuid import UUID, SafeUUID

SALE_BITS = 26
ITEM_BITS = 24
MAX_SALE_ID: int = 2**SALE_BITS - 1
MAX_ITEMS: int = 2**ITEM_BITS

_CANONICAL = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)
_MARKS = (8 << 76) | (2 << 62)  # version 8, variant 10
_RANDOM = (2**10 - 1 << 64) | (2**62 - 1)  # what the place and the marks leave

_set_int, _set_safety = UUID.__dict__["int"].__set__, UUID.__dict__["is_safe"].__set__
_UNKNOWN = SafeUUID.unknown  # looking it up takes longer than all of `_uuid`


def new_code(sale_id: int, item_id: int) -> UUID:
    """Make a code for this item of this sale."""
    place = sale_id << ITEM_BITS | item_id  # 48 bits before the version, the last two after it
    noise = int.from_bytes(os.urandom(10)) & _RANDOM
    return _uuid((place >> 2) << 80 | _MARKS | (place & 3) << 74 | noise)


def _uuid(number: int) -> UUID:
    """The UUID of a number. `UUID` itself asks first which of six ways it is told, for twice as long."""
    code = object.__new__(UUID)
    _set_int(code, number)
    _set_safety(code, _UNKNOWN)
    return code


def parse_code(text: str) -> UUID | None:
    """Read a code in its canonical 36 characters, in either case; ``None`` where it is not one."""
    return UUID(text) if _CANONICAL.fullmatch(text) else None


def place_of(code: UUID) -> tuple[int, int] | None:
    """The ``(sale_id, item_id)`` a code speaks of; ``None`` for a UUID that is none of ours."""
    number = code.int
    if number & (0xF << 76 | 3 << 62) != _MARKS:
        return None
    place = number >> 80 << 2 | number >> 74 & 3
    return place >> ITEM_BITS, place & MAX_ITEMS - 1


def first_code(sale_id: int) -> UUID:
    """The smallest UUID that codes of this sale can have: all of them lie before that of the next sale."""
    return UUID(int=sale_id << 102)
