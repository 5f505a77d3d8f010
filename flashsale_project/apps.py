"""The project as an app, for its command `runsale`."""

from django.apps import AppConfig


class FlashsaleProjectConfig(AppConfig):
    """Has no models; makes Django find `runsale`."""

    name = "flashsale_project"
