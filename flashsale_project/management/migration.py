"""Bringing the tables up to date."""

from django.core.management import call_command
from django.db import connection

from sales import statements


def migrate() -> None:
    """Run all migrations that were not run yet. Raises Django's database errors.

    Two services that start at the same time on one database do not both run them.
    """
    with connection.cursor() as cursor:
        cursor.execute(statements.LOCK_MIGRATION)
        call_command("migrate", verbosity=0, interactive=False)
        cursor.execute(statements.UNLOCK_MIGRATION)
