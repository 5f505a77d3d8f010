"""``manage.py runserver``: Django's server for development cannot run a sale."""

from flashsale_project.management.instead import Instead


class Command(Instead):
    """It has no worker that knows the sale, so that every call of it would fail."""

    help = "Not for this project: use runsale."
    reason = (
        "runserver cannot sell: it starts no worker. Use: python manage.py runsale\n"
        "With --port 8000 it takes the port of runserver; with DEBUG=true it shows errors."
    )
