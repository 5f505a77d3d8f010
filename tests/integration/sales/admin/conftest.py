"""Sales at three times, and staff with few permissions."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from sales.models import Sale
from tests.integration.sales.admin.pages import HOUR, hold, new_sale


@pytest.fixture
def ended(db: None) -> Sale:
    sale = new_sale(datetime.now(UTC) - 3 * HOUR, items=4)
    for item_id in range(4):
        hold(sale, item_id, 40 + item_id, became="purchased", ends=-HOUR)
    return sale


@pytest.fixture
def current(db: None) -> Sale:
    """Item 0 is sold, 1 held, 2 was held before, the hold of 3 is over but not swept, 4 was never touched."""
    sale = new_sale(datetime.now(UTC) - HOUR / 2, items=5)
    hold(sale, 0, 7, became="purchased")
    hold(sale, 1, 2)
    hold(sale, 2, 7, became="expired", ends=-HOUR)
    hold(sale, 3, 3, ends=-HOUR)
    return sale


@pytest.fixture
def upcoming(db: None) -> Sale:
    return new_sale(datetime.now(UTC) + HOUR, items=3)


@pytest.fixture
def staff(db: None) -> Callable[..., Client]:
    """Log in a staff member with these permissions and no others."""

    def log_in(*codenames: str) -> Client:
        user = User.objects.create_user(f"staff{User.objects.count()}", is_staff=True)
        user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
        assert user.user_permissions.count() == len(codenames)
        client = Client()
        client.force_login(user)
        return client

    return log_in
