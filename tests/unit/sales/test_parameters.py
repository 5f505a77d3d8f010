"""Numbers in the text of requests and commands."""

import pytest

from sales.parameters import whole_number


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("007", 7), ("9" * 19, 10**19 - 1)])
def test_ascii_digits_are_a_number(text: str, number: int) -> None:
    assert whole_number(text) == number


@pytest.mark.parametrize("text", ["", " 7", "7 ", "-1", "+1", "1.5", "1_000", "1e3", "٣", "²", "9" * 20])
def test_anything_else_is_none(text: str) -> None:
    assert whole_number(text) is None
