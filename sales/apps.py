"""The app of the sale."""

from django.apps import AppConfig
from django.core.checks import register


class SalesConfig(AppConfig):
    """Registers the system checks."""

    name = "sales"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Called by Django when all models are loaded."""
        from sales import checks

        register(checks.check_options)
        register(checks.check_database)
