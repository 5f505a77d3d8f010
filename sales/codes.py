"""Checkout codes: UUIDs (RFC 9562, version 8) that say which row they belong to.

``sale (26 bits) · item (24 bits) · random (72 bits, os.urandom)``, with the version and variant bits in
their places. Any worker finds the row of a code without an index on codes; the random bits make a code
unguessable, and only a code that matches in full is accepted. Codes sort by sale, then by item.
"""

import os
import re
from uuid import UUID

SALE_BITS = 26
ITEM_BITS = 24
MAX_SALE_ID: int = 2**SALE_BITS - 1
MAX_ITEMS: int = 2**ITEM_BITS

_CANONICAL = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)
_MARKS = (8 << 76) | (2 << 62)  # version 8, variant 10


def new_code(sale_id: int, item_id: int) -> UUID:
    """Make a code for this item of this sale."""
    noise = int.from_bytes(os.urandom(9))
    head = sale_id << 34 | item_id << 10 | noise >> 62  # 60 bits: 48 before the version, 12 after it
    return UUID(int=(head >> 12) << 80 | _MARKS | (head & 0xFFF) << 64 | noise & (2**62 - 1))


def parse_code(text: str) -> UUID | None:
    """Read a code in its canonical 36 characters, in either case; ``None`` where it is not one."""
    return UUID(text) if _CANONICAL.fullmatch(text) else None


def place_of(code: UUID) -> tuple[int, int] | None:
    """The ``(sale_id, item_id)`` a code speaks of; ``None`` for a UUID that is none of ours."""
    number = code.int
    if number & (0xF << 76 | 3 << 62) != _MARKS:
        return None
    head = number >> 80 << 12 | number >> 64 & 0xFFF
    return head >> 34, head >> 10 & MAX_ITEMS - 1


def first_code(sale_id: int) -> UUID:
    """The smallest UUID that codes of this sale can have: all of them lie before that of the next sale."""
    return UUID(int=sale_id << 102)
