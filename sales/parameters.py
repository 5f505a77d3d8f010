"""What stands in the text of a request, or of a command."""

MAX_DIGITS = 19
"""Digits of the largest 64-bit number."""


def whole_number(text: str) -> int | None:
    """The number that ASCII digits say; ``None`` for anything else, and for more digits than ours have."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS else None
