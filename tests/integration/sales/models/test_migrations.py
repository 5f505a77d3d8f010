"""Migrations go forwards and backwards, and say what the models say."""

from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from sales.models import Sale, SaleCertificate
from sales.rotation import create_sale
from tests.integration.sales.models.tables import HOUR, new_sale, rows


def options_of(table: str) -> list[str] | None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT reloptions FROM pg_class WHERE relname = %s", [table])
        return cursor.fetchone()[0]


def our_tables() -> set[str]:
    return {name for name in connection.introspection.table_names() if name.startswith("sales_")}


def applied() -> list[str]:
    recorded = MigrationExecutor(connection).loader.applied_migrations
    return sorted(name for app, name in recorded if app == "sales")


def schema() -> list[tuple[Any, ...]]:
    """Columns, constraints and indexes of our tables, as the database tells them."""
    statements = (
        # Without their places: a column that was dropped and added again comes last.
        """SELECT table_name, column_name, data_type, is_nullable, column_default,
                  character_maximum_length, is_identity
           FROM information_schema.columns WHERE table_name LIKE 'sales\\_%' ORDER BY 1, 2""",
        """SELECT conname, contype, convalidated, pg_get_constraintdef(oid) FROM pg_constraint
           WHERE conrelid::regclass::text LIKE 'sales\\_%' ORDER BY 1""",
        "SELECT indexname, indexdef FROM pg_indexes WHERE tablename LIKE 'sales\\_%' ORDER BY 1",
        # But for that of items, which new items change: see `test_pages_have_room_for_updates`.
        """SELECT relname, reloptions FROM pg_class
           WHERE relname LIKE 'sales\\_%' AND relname <> 'sales_saleitem' ORDER BY 1""",
    )
    found = []
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
            found += cursor.fetchall()
    return found


TABLES = {
    f"sales_{name}"
    for name in ("sale", "saleitem", "checkout", "allowance", "idempotencykey", "salecertificate", "change")
}

MIGRATIONS = [
    *("0001_initial", "0002_fillfactor", "0003_checkout_batch", "0004_idempotencykey"),
    *("0005_sale_certificate", "0006_sale_closed", "0007_keys_by_sale"),
]


@pytest.fixture
def migrated_again(transactional_db: None) -> Iterator[None]:
    """Whatever a test leaves, the tables are there for the next."""
    yield
    call_command("migrate", verbosity=0)
    connection.close()


def test_pages_have_room_for_updates(db: None) -> None:
    assert options_of("sales_allowance") == ["fillfactor=70"]
    create_sale(new_sale(items=1_000))
    assert options_of("sales_saleitem") == ["fillfactor=100"]  # all of a page is for use
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT max(items) FROM (SELECT count(*) AS items FROM sales_saleitem
                                       GROUP BY (ctid::text::point)[0]) AS page"""
        )
        assert cursor.fetchone()[0] <= 60  # of 100 that would have room


def test_migrations_are_applied_backwards_and_forwards_again(migrated_again: None) -> None:
    before = schema()
    create_sale(new_sale())
    assert (our_tables(), applied()) == (TABLES, MIGRATIONS)
    call_command("migrate", "sales", "zero", verbosity=0)
    assert (our_tables(), applied()) == (set(), [])
    call_command("migrate", "sales", verbosity=0)
    assert (our_tables(), applied()) == (TABLES, MIGRATIONS)
    assert schema() == before
    assert rows() == [[], [], [], [], []]


def test_the_fillfactor_alone_goes_backwards_and_keeps_the_rows(migrated_again: None) -> None:
    create_sale(new_sale())
    before = rows()
    call_command("migrate", "sales", "0001", verbosity=0)
    assert (options_of("sales_saleitem"), options_of("sales_allowance")) == (None, None)
    assert applied() == MIGRATIONS[:1]
    call_command("migrate", "sales", verbosity=0)
    assert (options_of("sales_saleitem"), options_of("sales_allowance")) == (
        ["fillfactor=50"],
        ["fillfactor=70"],
    )
    assert rows() == before


def test_sales_with_a_certificate_are_closed_by_the_migration(migrated_again: None) -> None:
    certified = create_sale(new_sale())
    other = create_sale(new_sale(starts_at=certified.ends_at, ends_at=certified.ends_at + HOUR))
    SaleCertificate.objects.create(
        sale=certified, issued_at=certified.ends_at, version="0", holds=True, document={}
    )
    call_command("migrate", "sales", "0005", verbosity=0)
    call_command("migrate", "sales", verbosity=0)
    assert list(Sale.objects.filter(closed=True)) == [certified]
    assert list(Sale.objects.filter(closed=False)) == [other]


def test_migrations_say_all_that_the_models_say(db: None) -> None:
    stdout = StringIO()
    call_command("makemigrations", "sales", check=True, dry_run=True, stdout=stdout)
    assert stdout.getvalue() == "No changes detected in app 'sales'\n"
