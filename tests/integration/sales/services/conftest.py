"""Every test ends with a proof that nothing is wrong."""

from collections.abc import AsyncIterator

import pytest

from sales.certificate import certify
from sales.models import Sale
from tests.support.threads import in_thread


@pytest.fixture(autouse=True)
async def certified(sale: Sale) -> AsyncIterator[None]:
    """After every test, the invariants of its sale are proven."""
    yield
    await in_thread(_assert_certified, sale)


def _assert_certified(sale: Sale) -> None:
    sale.refresh_from_db()
    assert [finding for finding in certify(sale).findings if finding.broken] == []
