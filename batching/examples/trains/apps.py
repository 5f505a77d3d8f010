"""The app of the example."""

from django.apps import AppConfig


class TrainsConfig(AppConfig):
    """Trains and their seats."""

    name = "batching.examples.trains"
    label = "trains"
    default_auto_field = "django.db.models.BigAutoField"
