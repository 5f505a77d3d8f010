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

from flashsale_project.access.admin_slots import AdminSlots  # noqa: E402
from flashsale_project.access.staff_pass import has_pass  # noqa: E402
from flashsale_project.serving.http.django_headers import for_the_admin, own_cookies  # noqa: E402
from flashsale_project.serving.http.handlers import ApiHandler  # noqa: E402
from flashsale_project.serving.lifespan import lifespan  # noqa: E402
from sales.problems import refused  # noqa: E402
from sales.refusals import Refusal  # noqa: E402

_api = ApiHandler()
_admin = ASGIStaticFilesHandler(ASGIHandler())
_ADMIN_PATH = "/admin"
_STATIC_PATH = "/" + settings.STATIC_URL.strip("/") + "/"
_LOGIN_PATH = "/admin/login"
_slots = AdminSlots()


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Hand a request to the handler of its path."""
    if scope["type"] == "lifespan":
        await lifespan(scope, receive, send)
    elif _is_for_admin(scope["path"]):
        cookies = own_cookies(scope["headers"])
        scope["headers"] = for_the_admin(scope["headers"], cookies)
        try:
            async with _slots.taken(is_staff=has_pass(cookies), is_login=_is_login(scope)):
                await _finish(_admin, scope, receive, send)
        except Refusal as refusal:
            await _api.respond(refused(refusal.reason), send)
    else:
        await _api(scope, receive, send)


def _is_login(scope: Any) -> bool:
    return bool(scope["method"] == "POST" and scope["path"].startswith(_LOGIN_PATH))


async def _finish(app: Any, scope: Any, receive: Any, send: Any) -> None:
    """Run an application that works in threads: once it has begun it comes to its end, whoever leaves.

    Django would give up its wait for a thread, which works on. Cancelling waits for that end.
    """
    is_whole = False

    async def receive_request() -> Any:
        nonlocal is_whole
        if is_whole:  # only that the client has left could come
            await asyncio.Event().wait()
        message = await receive()
        is_whole = not message.get("more_body", False)
        return message

    task = asyncio.create_task(app(scope, receive_request, send), name="a request of the admin")
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _is_for_admin(path: str) -> bool:
    return path.startswith(_ADMIN_PATH) or (path.startswith(_STATIC_PATH) and ".." not in path)
