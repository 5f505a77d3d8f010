"""Rows that are right, and what refuses those that are not."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import IntegrityError, connection, models, transaction

from sales.models import Allowance, Checkout, Sale, SaleCertificate, SaleItem

START = datetime(2031, 5, 6, 7, tzinfo=UTC)

HOUR = timedelta(hours=1)

MINUTE = timedelta(minutes=1)

MICROSECOND = timedelta(microseconds=1)

CODE = UUID("01234567-89ab-8def-8123-456789abcdef")

OTHER_CODE = UUID("fedcba98-7654-8210-8edc-ba9876543210")


def new_sale(**columns: Any) -> Sale:
    """One that is right, and follows `sale`."""
    shape = {"items": 5, "user_limit": 3, "checkout_ttl": 60}
    return Sale(**{"starts_at": START + HOUR, "ends_at": START + 2 * HOUR, **shape, **columns})


def new_checkout(sale: Sale, **columns: Any) -> Checkout:
    """A hold of a minute."""
    right = {"code": CODE, "item_id": 0, "user_id": 7, "state": "held"}
    times = {"created_at": START, "expires_at": START + MINUTE}
    return Checkout(sale=sale, **{**right, **times, **columns})


def purchased(sale: Sale, **columns: Any) -> Checkout:
    """As `new_checkout`, bought at once."""
    return new_checkout(sale, **{"state": "purchased", "purchased_at": START, **columns})


def new_allowance(sale: Sale, **columns: Any) -> Allowance:
    return Allowance(sale=sale, **{"user_id": 7, "taken": 1, "user_limit": 3, **columns})


def rows() -> list[list[tuple[Any, ...]]]:
    """Every row of every table of ours."""
    models = (Sale, SaleItem, Checkout, Allowance, SaleCertificate)
    return [list(model.objects.order_by("pk").values_list()) for model in models]


def refused(write: Any) -> str:
    """The name of the constraint that refused this write; nothing was changed by it."""
    before = rows()

    def attempt() -> None:
        with transaction.atomic():
            write()
            connection.check_constraints()  # those that wait for the end of the transaction too

    with pytest.raises(IntegrityError) as error:
        attempt()
    assert rows() == before
    return error.value.__cause__.diag.constraint_name  # type: ignore[union-attr]


def insert(row: models.Model) -> None:
    row.save(force_insert=True)
