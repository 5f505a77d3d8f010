"""Commands of those who measure. They need what the service does not.

Raises `ImproperlyConfigured`, which ``manage.py`` shows as one line, where that is not installed.
"""

from importlib.util import find_spec

from django.core.exceptions import ImproperlyConfigured

if find_spec("psutil") is None:
    raise ImproperlyConfigured("benchsale needs psutil; install it with: pip install -e '.[bench]'")
