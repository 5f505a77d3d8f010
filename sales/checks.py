"""System checks: wrong settings are told before the first customer comes."""

from collections.abc import Sequence
from typing import Any

from django.core.checks import CheckMessage, Error
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from sales.conf import SaleOptions


def check_options(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """E001: an option of new sales is out of range."""
    try:
        SaleOptions.from_settings()
    except ImproperlyConfigured as error:
        return [
            Error(
                str(error), hint="See the table of settings in flashsale_project/README.md.", id="sales.E001"
            )
        ]
    return []


def check_database(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """E002: the database is not PostgreSQL."""
    if connections["default"].vendor == "postgresql":
        return []
    return [
        Error(
            "Sales need PostgreSQL.",
            hint="Set DATABASE_URL to postgresql://…, or leave it out to use the embedded one.",
            id="sales.E002",
        )
    ]
