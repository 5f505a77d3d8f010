"""``manage.py expirecheckouts``: holds whose time is over are given back once."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError

from sales import operations
from sales.diagnosis import diagnose
from sales.models import Sale
from sales.refusals import DatabaseUnavailable


class Command(BaseCommand):
    """What a running service does by itself every second; for one that does not run."""

    help = "Frees the items whose hold has expired, in all sales, once."

    def handle(self, *args: Any, **options: Any) -> None:
        """Free them. Raises `CommandError` where the database does not answer."""
        try:
            if not Sale.objects.exists():  # or a database, or tables: told at once, and in words
                self.stdout.write("Nothing to do: there is no sale yet.")
                return
            count = operations.expire()
        except DatabaseError as error:
            raise CommandError(f"Nothing was freed. {diagnose(error)}") from error
        except DatabaseUnavailable as error:
            raise CommandError(f"Nothing was freed: {error.__cause__ or error}") from error
        if count:
            self.stdout.write(f"{count:,} expired {'hold was' if count == 1 else 'holds were'} given back.")
        else:
            self.stdout.write("Nothing to do: no hold has expired.")
