"""The typed list of what shapes new sales, read lazily from Django's settings."""

from dataclasses import dataclass
from typing import Self

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from sales.codes import MAX_ITEMS

LIMITS = {"items": MAX_ITEMS, "user_limit": 2**31 - 1, "checkout_ttl": 86_400, "period": 366 * 86_400}
"""The largest value of each option; the smallest is 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SaleOptions:
    """What the next sales to be made look like; ``checkout_ttl`` and ``period`` are in seconds."""

    items: int
    user_limit: int
    checkout_ttl: int
    period: int

    def __post_init__(self) -> None:
        for name, largest in LIMITS.items():
            value = getattr(self, name)
            if not 1 <= value <= largest:
                raise ImproperlyConfigured(
                    f"{variable(name)} must be a whole number from 1 to {largest}, not {value}."
                )

    @classmethod
    def from_settings(cls) -> Self:
        """The options of the settings. Raises `ImproperlyConfigured`, which names the wrong one."""
        return cls(**{name: getattr(settings, variable(name)) for name in LIMITS})


def variable(name: str) -> str:
    """The setting and environment variable of an option."""
    return f"FLASHSALE_{name.upper()}"
