"""A sale within the transaction of a test."""

import pytest

from sales.models import Sale
from sales.rotation import create_sale
from tests.integration.sales.models.tables import HOUR, START


@pytest.fixture
def sale(db: None) -> Sale:
    """A sale of five items that lasts an hour."""
    return create_sale(Sale(starts_at=START, ends_at=START + HOUR, items=5, user_limit=3, checkout_ttl=60))
