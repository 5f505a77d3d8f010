"""The tables themselves refuse a wrong row, whoever writes it; and their migrations."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any
from uuid import UUID

import pytest
from django.core.management import call_command
from django.db import IntegrityError, connection, models, transaction
from django.db.migrations.executor import MigrationExecutor

from sales.codes import MAX_ITEMS, MAX_SALE_ID, new_code
from sales.models import Allowance, Checkout, Sale, SaleCertificate, SaleItem
from sales.rotation import create_sale

START = datetime(2031, 5, 6, 7, tzinfo=UTC)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
MICROSECOND = timedelta(microseconds=1)
CODE = UUID("01234567-89ab-8def-8123-456789abcdef")
OTHER_CODE = UUID("fedcba98-7654-8210-8edc-ba9876543210")


@pytest.fixture
def sale(db: None) -> Sale:
    """A sale of five items that lasts an hour."""
    return create_sale(Sale(starts_at=START, ends_at=START + HOUR, items=5, user_limit=3, checkout_ttl=60))


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


# --- items: the columns fit the state

RIGHT_COLUMNS: dict[str, dict[str, Any]] = {
    "available": {"user_id": None, "code": None, "held_until": None, "purchased_at": None},
    "held": {"user_id": 7, "code": CODE, "held_until": START + MINUTE, "purchased_at": None},
    "sold": {"user_id": 7, "code": CODE, "held_until": START + MINUTE, "purchased_at": START},
}
OTHER_VALUES: dict[str, dict[str, list[Any]]] = {
    "available": {"user_id": [0, 7], "code": [CODE], "held_until": [START], "purchased_at": [START]},
    "held": {"user_id": [None, -1], "code": [None], "held_until": [None], "purchased_at": [START]},
    "sold": {
        "user_id": [None, -1],
        "code": [None],
        "held_until": [None, START, START - MICROSECOND],
        "purchased_at": [None, START + MINUTE, START + HOUR],
    },
}


@pytest.mark.parametrize(
    ("state", "column", "value"),
    [
        pytest.param(state, column, value, id=f"{state}-{column}-{value}".replace(" ", "-"))
        for state, columns in OTHER_VALUES.items()
        for column, values in columns.items()
        for value in values
    ],
)
def test_one_wrong_column_of_an_item_is_refused(sale: Sale, state: str, column: str, value: Any) -> None:
    item = SaleItem.objects.filter(sale=sale, item_id=2)
    wrong = {**RIGHT_COLUMNS[state], column: value}
    assert refused(lambda: item.update(state=state, **wrong)) == "item_columns_fit_state"


@pytest.mark.parametrize("columns", RIGHT_COLUMNS)
@pytest.mark.parametrize("state", [*RIGHT_COLUMNS, "gone", ""])
def test_the_columns_of_an_item_fit_its_state_alone(sale: Sale, state: str, columns: str) -> None:
    item = SaleItem.objects.filter(sale=sale, item_id=2)
    if state == columns:
        assert item.update(state=state, **RIGHT_COLUMNS[columns]) == 1
        assert item.filter(state=state, **RIGHT_COLUMNS[columns]).exists()
    else:
        change = lambda: item.update(state=state, **RIGHT_COLUMNS[columns])  # noqa: E731
        assert refused(change) == "item_columns_fit_state"


@pytest.mark.parametrize("user_id", [0, 2**63 - 1])
def test_the_first_and_the_last_user_may_hold(sale: Sale, user_id: int) -> None:
    item = SaleItem.objects.filter(sale=sale, item_id=2)
    assert item.update(state="held", **{**RIGHT_COLUMNS["held"], "user_id": user_id}) == 1


def test_a_purchase_in_the_last_moment_of_the_hold_fits(sale: Sale) -> None:
    item = SaleItem.objects.filter(sale=sale, item_id=2)
    last = {**RIGHT_COLUMNS["sold"], "purchased_at": START + MINUTE - MICROSECOND}
    assert item.update(state="sold", **last) == 1


# --- items: each has its own id and exists once


@pytest.mark.parametrize(
    ("item_id", "key", "constraint"),
    [
        pytest.param(5, 6, "item_has_its_own_id", id="id-of-the-next"),
        pytest.param(5, -MAX_ITEMS + 5, "item_has_its_own_id", id="id-in-the-sale-before"),
        pytest.param(5, MAX_ITEMS + 5, "item_has_its_own_id", id="id-in-the-sale-after"),
        pytest.param(MAX_ITEMS, MAX_ITEMS, "item_has_its_own_id", id="number-that-is-the-next-sales"),
        pytest.param(-1, -1, "sales_saleitem_item_id_check", id="negative-number"),
        pytest.param(2, 2, "sales_saleitem_pkey", id="again"),
    ],
)
def test_an_item_with_a_wrong_id_is_refused(sale: Sale, item_id: int, key: int, constraint: str) -> None:
    row = SaleItem(id=SaleItem.id_of(sale.pk, 0) + key, sale=sale, item_id=item_id)
    assert refused(lambda: insert(row)) == constraint


def test_an_item_number_is_refused_twice_even_under_another_id(sale: Sale) -> None:
    """The primary key refuses it first; this is the constraint behind it."""
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("ALTER TABLE sales_saleitem DROP CONSTRAINT item_has_its_own_id")
    row = SaleItem(id=SaleItem.id_of(sale.pk, 5), sale=sale, item_id=2)
    assert refused(lambda: insert(row)) == "item_once_per_sale"


@pytest.mark.parametrize("item_id", [5, MAX_ITEMS - 1])
def test_an_item_with_its_own_id_is_taken(sale: Sale, item_id: int) -> None:
    insert(SaleItem(id=SaleItem.id_of(sale.pk, item_id), sale=sale, item_id=item_id))
    assert SaleItem.objects.get(sale=sale, item_id=item_id).state == "available"


def test_sales_have_items_of_the_same_number(sale: Sale) -> None:
    following = create_sale(new_sale())
    assert list(SaleItem.objects.filter(item_id=2).order_by("sale").values_list("sale", flat=True)) == [
        sale.pk,
        following.pk,
    ]


def test_an_item_of_no_sale_is_refused(sale: Sale) -> None:
    row = SaleItem(id=SaleItem.id_of(sale.pk + 1, 0), sale_id=sale.pk + 1, item_id=0)
    assert refused(lambda: insert(row)).endswith("_fk_sales_sale_id")


def test_a_negative_version_is_refused(sale: Sale) -> None:
    item = SaleItem.objects.filter(sale=sale, item_id=2)
    assert refused(lambda: item.update(version=-1)) == "sales_saleitem_version_check"


# --- checkouts


@pytest.mark.parametrize(
    ("columns", "constraint"),
    [
        pytest.param({"user_id": -1}, "checkout_user_not_negative", id="negative-user"),
        pytest.param({"item_id": -1}, "sales_checkout_item_id_check", id="negative-item"),
        pytest.param({"code": OTHER_CODE}, "sales_checkout_pkey", id="code-again"),
        *(
            pytest.param(
                {"state": state, "purchased_at": START},
                "checkout_purchased_before_expiry",
                id=f"{state}-but-purchased",
            )
            for state in ("held", "expired", "released", "gone", "")
        ),
        pytest.param({"state": "gone"}, "checkout_purchased_before_expiry", id="unknown-state"),
        *(
            pytest.param(
                {"state": "purchased", "purchased_at": moment}, "checkout_purchased_before_expiry", id=name
            )
            for name, moment in {
                "purchased-never": None,
                "purchased-before-it-was-granted": START - MICROSECOND,
                "purchased-when-it-expired": START + MINUTE,
                "purchased-after-it-expired": START + HOUR,
            }.items()
        ),
    ],
)
def test_a_wrong_checkout_is_refused(sale: Sale, columns: dict[str, Any], constraint: str) -> None:
    insert(new_checkout(sale, code=OTHER_CODE, item_id=1))
    assert refused(lambda: insert(new_checkout(sale, **columns))) == constraint


@pytest.mark.parametrize(
    "columns",
    [
        pytest.param({"state": "held"}, id="held"),
        pytest.param({"state": "expired"}, id="expired"),
        pytest.param({"state": "released"}, id="released"),
        pytest.param({"state": "purchased", "purchased_at": START}, id="purchased-at-once"),
        pytest.param(
            {"state": "purchased", "purchased_at": START + MINUTE - MICROSECOND}, id="purchased-at-last"
        ),
        pytest.param({"user_id": 0}, id="first-user"),
        pytest.param({"user_id": 2**63 - 1}, id="last-user"),
    ],
)
def test_a_right_checkout_is_taken(sale: Sale, columns: dict[str, Any]) -> None:
    insert(new_checkout(sale, **columns))
    assert Checkout.objects.filter(code=CODE, **columns).count() == 1


def test_an_item_is_purchased_once_whoever_writes_it(sale: Sale) -> None:
    insert(purchased(sale, code=OTHER_CODE))
    assert refused(lambda: insert(purchased(sale))) == "item_purchased_once"
    insert(new_checkout(sale))
    change = Checkout.objects.filter(code=CODE)
    assert refused(lambda: change.update(state="purchased", purchased_at=START)) == "item_purchased_once"


def test_an_item_may_have_any_number_of_checkouts_that_are_not_purchases(sale: Sale) -> None:
    insert(purchased(sale))
    for state in ("held", "expired", "released") * 2:
        insert(new_checkout(sale, code=new_code(sale.pk, 0), state=state))
    assert Checkout.objects.filter(sale=sale, item_id=0).count() == 7


def test_purchases_of_other_items_and_other_sales_are_no_repetition(sale: Sale) -> None:
    following = create_sale(new_sale())
    for place in ((sale, 0), (sale, 1), (following, 0)):
        insert(purchased(place[0], item_id=place[1], code=new_code(place[0].pk, place[1])))
    assert Checkout.objects.filter(state="purchased").count() == 3


# --- allowances


@pytest.mark.parametrize(
    ("columns", "constraint"),
    [
        pytest.param({"user_id": -1}, "allowance_user_not_negative", id="negative-user"),
        pytest.param({"taken": 4}, "allowance_within_limit", id="above-the-limit"),
        pytest.param({"taken": 1, "user_limit": 0}, "allowance_within_limit", id="above-no-limit"),
        pytest.param({"taken": -1}, "sales_allowance_taken_check", id="negative"),
        pytest.param({"user_id": 8}, "sales_allowance_pkey", id="again"),
    ],
)
def test_a_wrong_allowance_is_refused(sale: Sale, columns: dict[str, Any], constraint: str) -> None:
    insert(new_allowance(sale, user_id=8))
    assert refused(lambda: insert(new_allowance(sale, **columns))) == constraint


@pytest.mark.parametrize(
    "columns",
    [{"taken": 0}, {"taken": 3}, {"taken": 0, "user_limit": 0}, {"user_id": 0}, {"user_id": 2**63 - 1}],
)
def test_a_right_allowance_is_taken(sale: Sale, columns: dict[str, Any]) -> None:
    insert(new_allowance(sale, **columns))
    assert Allowance.objects.filter(**columns).count() == 1


def test_an_allowance_that_exists_cannot_grow_above_its_limit(sale: Sale) -> None:
    insert(new_allowance(sale, taken=3))
    assert refused(lambda: Allowance.objects.update(taken=4)) == "allowance_within_limit"


def test_a_user_has_an_allowance_in_every_sale(sale: Sale) -> None:
    following = create_sale(new_sale())
    for each in (sale, following):
        insert(new_allowance(each))
    assert Allowance.objects.filter(user_id=7).count() == 2


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


# --- migrations


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
        "SELECT relname, reloptions FROM pg_class WHERE relname LIKE 'sales\\_%' ORDER BY 1",
    )
    found = []
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
            found += cursor.fetchall()
    return found


TABLES = {
    f"sales_{name}"
    for name in ("sale", "saleitem", "checkout", "allowance", "idempotencykey", "salecertificate")
}
MIGRATIONS = [
    *("0001_initial", "0002_fillfactor", "0003_checkout_batch", "0004_idempotencykey"),
    *("0005_sale_certificate", "0006_sale_closed"),
]


@pytest.fixture
def migrated_again(transactional_db: None) -> Iterator[None]:
    """Whatever a test leaves, the tables are there for the next."""
    yield
    call_command("migrate", verbosity=0)
    connection.close()


def test_pages_have_room_for_updates(db: None) -> None:
    assert options_of("sales_saleitem") == ["fillfactor=50"]
    assert options_of("sales_allowance") == ["fillfactor=70"]


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
