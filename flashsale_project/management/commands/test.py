"""``manage.py test``: the tests are for pytest."""

from flashsale_project.management.instead import Instead


class Command(Instead):
    """They use its fixtures, so that Django's test runner fails to import them."""

    help = "Not for this project: use pytest."
    reason = "The tests are run by pytest: pip install -e '.[test]' && python -m pytest"
