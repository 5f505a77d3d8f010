"""The ASGI application: the sale's calls, the admin, and the life of a worker around both."""

import asyncio
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
_ADMIN_PATH = "/admin"
_STATIC_PATH = "/" + settings.STATIC_URL.strip("/") + "/"
_ADMIN_SLOTS = asyncio.Semaphore(8)
"""So many requests of the admin at a time: each has a thread and a connection, and the sale goes first."""


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Hand a request to the handler of its path."""
    if scope["type"] == "lifespan":
        await lifespan(scope, receive, send)
    elif _is_for_admin(scope["path"]):
        async with _ADMIN_SLOTS:
            await _admin(scope, receive, send)
    else:
        await _api(scope, receive, send)


def _is_for_admin(path: str) -> bool:
    return path.startswith(_ADMIN_PATH) or (path.startswith(_STATIC_PATH) and ".." not in path)
