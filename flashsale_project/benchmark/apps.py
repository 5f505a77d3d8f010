"""The benchmark as an app, for its command `benchsale`."""

from django.apps import AppConfig


class BenchmarkConfig(AppConfig):
    """Has no models; makes Django find `benchsale`."""

    name = "flashsale_project.benchmark"
