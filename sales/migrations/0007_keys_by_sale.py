"""Keys by sale, a purchase that writes one row, and what each batch has changed."""

import django.contrib.postgres.fields
import django.db.models.deletion
from django.core.management.base import CommandError
from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps

WORKERS = """SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND application_name = 'flashsale worker'"""

LOCKS = """SET LOCAL lock_timeout TO '10s';
           LOCK TABLE sales_saleitem, sales_checkout IN ACCESS EXCLUSIVE MODE;
           SET LOCAL lock_timeout TO DEFAULT"""

KEYS = """
    ALTER TABLE sales_saleitem DROP CONSTRAINT sales_saleitem_pkey, ADD PRIMARY KEY (sale_id, id);
    ALTER TABLE sales_checkout DROP CONSTRAINT sales_checkout_pkey, ADD PRIMARY KEY (sale_id, code)
"""
OLD_KEYS = """
    UPDATE sales_checkout AS checkout
    SET state = 'purchased', purchased_at = greatest(item.purchased_at, checkout.created_at)
    FROM sales_saleitem AS item
    WHERE item.sale_id = checkout.sale_id AND item.code = checkout.code
      AND item.state = 'sold' AND checkout.state = 'held';
    ALTER TABLE sales_saleitem DROP CONSTRAINT sales_saleitem_pkey, ADD PRIMARY KEY (id);
    ALTER TABLE sales_checkout DROP CONSTRAINT sales_checkout_pkey, ADD PRIMARY KEY (code)
"""


def refuse_beside_workers(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Raise where workers are connected: theirs are statements for the tables as they were."""
    with schema_editor.connection.cursor() as cursor:
        cursor.execute(LOCKS)  # so that none begins meanwhile
        for _ in range(20):  # a session ends a moment after its service
            cursor.execute("SELECT pg_stat_clear_snapshot()")
            cursor.execute(WORKERS)
            if not cursor.fetchone()[0]:
                return
            cursor.execute("SELECT pg_sleep(0.1)")
    raise CommandError(
        "This migration cannot run beside a service: stop every service that uses this database, "
        "then try again. Holds and purchases stay, and the sale goes on where it was."
    )


class Migration(migrations.Migration):
    """Rebuilds two indexes: seconds for a million items. Nothing was changed where it is refused."""

    dependencies = [("sales", "0006_sale_closed")]

    operations = [
        migrations.RunPython(refuse_beside_workers, migrations.RunPython.noop),
        migrations.RemoveConstraint(model_name="checkout", name="item_purchased_once"),
        migrations.RemoveConstraint(model_name="saleitem", name="item_once_per_sale"),
        migrations.RemoveField(model_name="checkout", name="batch"),
        migrations.RunSQL(KEYS, OLD_KEYS),
        migrations.AlterModelOptions(name="checkout", options={"ordering": ["-sale_id", "-code"]}),
        migrations.AlterModelOptions(name="saleitem", options={"ordering": ["-sale_id", "-id"]}),
        migrations.CreateModel(
            name="Change",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "sale_id", "xid", "batch", blank=True, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("xid", models.BigIntegerField()),
                ("batch", models.BigIntegerField()),
                (
                    "item_ids",
                    django.contrib.postgres.fields.ArrayField(base_field=models.IntegerField(), size=None),
                ),
                (
                    "sale",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        to="sales.sale",
                    ),
                ),
            ],
        ),
        migrations.RunPython(migrations.RunPython.noop, refuse_beside_workers),  # the first, on the way back
    ]
