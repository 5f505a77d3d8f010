"""The ASGI application: the sale's calls, the admin, and the life of a worker around both."""

import os
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "flashsale_project.settings")

import django

django.setup()

from django.conf import settings  # noqa: E402
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler  # noqa: E402
from django.core.handlers.asgi import ASGIHandler  # noqa: E402

from flashsale_project.handlers import ApiHandler  # noqa: E402
from flashsale_project.lifespan import lifespan  # noqa: E402

_api = ApiHandler()
_admin = ASGIStaticFilesHandler(ASGIHandler())
_ADMIN_PATHS = ("/admin", "/" + settings.STATIC_URL.strip("/") + "/")


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Hand a request to the handler of its path."""
    if scope["type"] == "lifespan":
        await lifespan(scope, receive, send)
    elif scope["path"].startswith(_ADMIN_PATHS) and ".." not in scope["path"]:
        await _admin(scope, receive, send)
    else:
        await _api(scope, receive, send)
