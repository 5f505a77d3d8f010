"""The tables of sales and certificates refuse a wrong row, whoever writes it."""

from typing import Any

import pytest
from django.db import connection, models

from sales.codes import MAX_ITEMS, MAX_SALE_ID
from sales.models import Allowance, Checkout, Sale, SaleCertificate, SaleItem
from tests.integration.sales.models.tables import HOUR, MICROSECOND, MINUTE, START, insert, new_sale, refused

# --- sales


@pytest.mark.parametrize(
    ("columns", "constraint"),
    [
        pytest.param({"ends_at": START + HOUR}, "sale_ends_after_start", id="ends-at-its-start"),
        pytest.param({"ends_at": START + HOUR - MICROSECOND}, "sale_ends_after_start", id="ends-before"),
        pytest.param({"items": 0}, "sale_has_items", id="no-items"),
        pytest.param({"items": -1}, "sale_has_items", id="negative-items"),
        pytest.param({"items": MAX_ITEMS + 1}, "sale_has_items", id="more-items-than-codes-have-room-for"),
        pytest.param({"user_limit": 0}, "sale_user_limit_positive", id="no-limit"),
        pytest.param({"user_limit": -1}, "sale_user_limit_positive", id="negative-limit"),
        pytest.param({"checkout_ttl": 0}, "sale_checkout_ttl_positive", id="holds-that-do-not-last"),
        pytest.param({"checkout_ttl": -1}, "sale_checkout_ttl_positive", id="holds-that-end-before"),
        pytest.param({"id": MAX_SALE_ID + 1}, "sale_id_fits_codes", id="id-that-codes-have-no-room-for"),
        pytest.param({"id": -1}, "sale_id_fits_codes", id="negative-id"),
        pytest.param({"starts_at": START}, "sales_sale_starts_at_key", id="same-start"),
        pytest.param({"starts_at": START + HOUR - MICROSECOND}, "sales_do_not_overlap", id="overlap-at-end"),
        pytest.param(
            {"starts_at": START - HOUR, "ends_at": START + MICROSECOND},
            "sales_do_not_overlap",
            id="overlap-at-start",
        ),
        pytest.param(
            {"starts_at": START + MINUTE, "ends_at": START + 2 * MINUTE}, "sales_do_not_overlap", id="inside"
        ),
        pytest.param(
            {"starts_at": START - HOUR, "ends_at": START + 2 * HOUR}, "sales_do_not_overlap", id="around"
        ),
    ],
)
def test_a_wrong_sale_is_refused(sale: Sale, columns: dict[str, Any], constraint: str) -> None:
    assert refused(lambda: insert(new_sale(**columns))) == constraint


@pytest.mark.parametrize(
    "columns",
    [
        pytest.param({}, id="right-after-another"),
        pytest.param({"starts_at": START - HOUR, "ends_at": START}, id="right-before-another"),
        pytest.param({"ends_at": START + HOUR + MICROSECOND}, id="shortest"),
        pytest.param({"items": 1, "user_limit": 1, "checkout_ttl": 1}, id="smallest"),
        pytest.param(
            {"items": MAX_ITEMS, "user_limit": 2**31 - 1, "checkout_ttl": 2**31 - 1, "id": MAX_SALE_ID},
            id="largest",
        ),
        pytest.param({"paused": True}, id="paused"),
    ],
)
def test_a_right_sale_is_taken(sale: Sale, columns: dict[str, Any]) -> None:
    row = new_sale(**columns)
    insert(row)
    assert Sale.objects.filter(**columns).get(pk=row.pk) == row


def test_a_sale_that_exists_cannot_be_moved_onto_another(sale: Sale) -> None:
    insert(following := new_sale())
    moved = Sale.objects.filter(pk=following.pk)
    assert refused(lambda: moved.update(starts_at=START + MINUTE)) == "sales_do_not_overlap"


def test_a_sale_with_items_cannot_be_deleted(sale: Sale) -> None:
    with pytest.raises(models.ProtectedError):
        sale.delete()
    assert refused(lambda: Sale.objects.filter(pk=sale.pk)._raw_delete("default")).endswith(
        "_fk_sales_sale_id"
    )


# --- certificates


def new_certificate(sale: Sale, **columns: Any) -> SaleCertificate:
    right = {"issued_at": START, "version": "0.1.0", "holds": True, "document": {}}
    return SaleCertificate(sale=sale, **{**right, **columns})


def test_a_sale_has_one_certificate(sale: Sale) -> None:
    insert(new_certificate(sale))
    assert refused(lambda: insert(new_certificate(sale, holds=False))) == "sales_salecertificate_pkey"


def test_a_certificate_of_no_sale_is_refused(sale: Sale) -> None:
    missing = new_sale()
    missing.pk = sale.pk + 1
    assert refused(lambda: insert(new_certificate(missing))).startswith("sales_salecertificate_sale_id_")


def test_a_sale_with_a_certificate_cannot_be_deleted(db: None) -> None:
    sale = new_sale()
    sale.save()
    insert(new_certificate(sale))
    with pytest.raises(models.ProtectedError):
        sale.delete()


def test_every_constraint_of_the_models_is_in_the_database(db: None) -> None:
    for model in (Sale, SaleItem, Checkout, Allowance, SaleCertificate):
        with connection.cursor() as cursor:
            existing = connection.introspection.get_constraints(cursor, model._meta.db_table)
        assert {constraint.name for constraint in model._meta.constraints} <= existing.keys()
