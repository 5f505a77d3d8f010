"""Leave room on the pages of items, so that an update stays on its page and touches no index (HOT)."""

from django.db import migrations


class Migration(migrations.Migration):
    """Each item is updated twice or more within an hour of its creation."""

    dependencies = [("sales", "0001_initial")]

    operations = [
        migrations.RunSQL(
            sql="ALTER TABLE sales_saleitem SET (fillfactor = 50)",
            reverse_sql="ALTER TABLE sales_saleitem RESET (fillfactor)",
        ),
        migrations.RunSQL(
            sql="ALTER TABLE sales_allowance SET (fillfactor = 70)",
            reverse_sql="ALTER TABLE sales_allowance RESET (fillfactor)",
        ),
    ]
