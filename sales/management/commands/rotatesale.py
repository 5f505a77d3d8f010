"""``manage.py rotatesale``: the current and the next sale exist afterwards."""

from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError

from sales.conf import SaleOptions
from sales.diagnosis import diagnose
from sales.rotation import rotate


class Command(BaseCommand):
    """Safe to repeat, and to run beside a service or another of its kind."""

    help = "Makes sure that the current and the next sale exist."

    def handle(self, *args: Any, **options: Any) -> None:
        """Create what is missing. Raises `CommandError` where settings or database do not allow it."""
        try:
            created = rotate(SaleOptions.from_settings())
        except ImproperlyConfigured as error:
            raise CommandError(f"No sale was made: {error}") from error
        except DatabaseError as error:
            raise CommandError(f"No sale was made. {diagnose(error)}") from error
        for sale in created:
            self.stdout.write(f"{sale}: {sale.items:,} items until {sale.ends_at:%Y-%m-%d %H:%M:%S} UTC")
        if not created:
            self.stdout.write("Nothing to do: the current and the next sale exist.")
