"""What a call is refused with, in tests."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from sales.refusals import Reason, Refusal


@contextmanager
def refuses(reason: Reason, match: str | None = None) -> Iterator[pytest.ExceptionInfo[Refusal]]:
    """Expect a refusal for this reason, in whatever words; ``match``: in words that match."""
    with pytest.raises(Refusal, match=match) as caught:
        yield caught
    assert caught.value.reason.name == reason.name
