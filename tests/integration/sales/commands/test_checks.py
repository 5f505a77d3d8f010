"""The system checks, and the options that they look at."""

import pytest
from django.conf import settings
from django.core.checks import CheckMessage, run_checks
from django.db.utils import ConnectionHandler
from django.test import override_settings

from sales.conf import LIMITS, SaleOptions
from tests.integration.sales.commands.running import SMALL, VARIABLES


def told() -> list[CheckMessage]:
    """What our system checks say, among all that are registered."""
    return [message for message in run_checks() if (message.id or "").startswith("sales.")]


@pytest.mark.django_db
def test_right_settings_pass_the_checks() -> None:
    assert told() == []


@pytest.mark.django_db
@pytest.mark.parametrize(("name", "largest"), LIMITS.items())
def test_an_option_out_of_range_is_e001(name: str, largest: int) -> None:
    variable = VARIABLES[name]
    for wrong in (0, -1, largest + 1):
        with override_settings(**{variable: wrong}):
            (message,) = told()
            assert (message.id, message.is_serious()) == ("sales.E001", True)
            assert message.msg == f"{variable} must be a whole number from 1 to {largest}, not {wrong}."
    for right in (1, largest):
        with override_settings(**{variable: right}):
            assert told() == []


@pytest.mark.django_db
def test_another_database_than_postgresql_is_e002(monkeypatch: pytest.MonkeyPatch) -> None:
    other = ConnectionHandler({"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}})
    with monkeypatch.context() as patch:
        patch.setattr("sales.checks.connections", other)
        (message,) = told()
    assert (message.id, message.is_serious()) == ("sales.E002", True)
    assert message.msg == "Sales need PostgreSQL."
    assert "DATABASE_URL" in (message.hint or "")
    assert told() == []


def test_options_are_read_when_they_are_asked_for() -> None:
    assert SaleOptions.from_settings() == SaleOptions(
        items=settings.FLASHSALE_ITEMS,
        user_limit=settings.FLASHSALE_USER_LIMIT,
        checkout_ttl=settings.FLASHSALE_CHECKOUT_TTL,
        period=settings.FLASHSALE_PERIOD,
    )
    with SMALL:
        assert SaleOptions.from_settings() == SaleOptions(
            items=1234, user_limit=3, checkout_ttl=45, period=365 * 86_400
        )
