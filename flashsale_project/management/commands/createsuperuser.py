"""``manage.py createsuperuser``: Django's own, also before the first start of the service."""

from typing import Any

from django.contrib.auth.management.commands import createsuperuser

from flashsale_project.management.migration import migrate


class Command(createsuperuser.Command):
    """Makes the tables first, where they are missing."""

    requires_migrations_checks = False

    def handle(self, *args: Any, **options: Any) -> str | None:
        """Make the user."""
        migrate()
        return super().handle(*args, **options)
