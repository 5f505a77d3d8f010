"""What the refusals of the service are compared with, on the same uvicorn: the least and the usual.

``bare`` is an ASGI function that sends the bytes of a refusal; ``open`` is the same for a race: it gives a
code to whoever asks for an item, and takes any; ``stock`` is Django as it comes, with one asynchronous view
that returns the same document, and no middleware. Run as
``python -m flashsale_project.benchmark.reference_apps NAME LISTEN_FD``.
"""

import gc
import json
import socket
import sys
from typing import Any

import uvicorn
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from flashsale_project.serving.limits import KEEP_ALIVE
from sales.refusals import ITEM_SOLD

PROBLEM = {
    "title": ITEM_SOLD.name.replace("_", " "),
    "status": ITEM_SOLD.status,
    "detail": ITEM_SOLD.message,
    "reason": ITEM_SOLD.name,
}
_BODY = json.dumps(PROBLEM).encode()
_HEADERS = [(b"content-type", b"application/problem+json"), (b"content-length", str(len(_BODY)).encode())]


async def bare(scope: Any, receive: Any, send: Any) -> None:
    """Refuse."""
    await send({"type": "http.response.start", "status": ITEM_SOLD.status, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": _BODY})


CODE = b"00000000-0000-4000-8000-000000000000"
_SOLD_OUT = b'{"reason": "sold_out"}'


async def open_bare(scope: Any, receive: Any, send: Any) -> None:
    """Grant what is asked for; user 0, and whoever asks for any item, is told that it is sold out."""
    status, body = 200, b"purchased"
    if scope["path"] == "/checkout":
        query = scope["query_string"]
        if b"&item_id=" in query and not query.startswith(b"user_id=0&"):
            body = CODE
        else:
            status, body = ITEM_SOLD.status, _SOLD_OUT
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@csrf_exempt
async def view(request: HttpRequest) -> JsonResponse:
    """Refuse."""
    response = JsonResponse(PROBLEM, status=ITEM_SOLD.status, content_type="application/problem+json")
    response["Content-Length"] = str(len(response.content))
    return response


urlpatterns = [path("checkout", view)]


def stock() -> Any:
    """Django's own ASGI application around the view."""
    settings.configure(
        ALLOWED_HOSTS=["localhost", "127.0.0.1"],
        LOGGING={"version": 1, "loggers": {"django.request": {"level": "ERROR"}}},  # no line for each refusal
        ROOT_URLCONF=sys.modules[view.__module__],
    )
    return get_asgi_application()


def main(name: str, listen_fd: int) -> None:
    """Serve with the settings of a worker (see `flashsale_project.serving.worker`) until SIGTERM."""
    config = uvicorn.Config(
        {"bare": lambda: bare, "open": lambda: open_bare, "stock": stock}[name](),
        http="httptools",
        loop="uvloop",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE,
    )
    gc.collect()
    gc.freeze()
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=listen_fd)])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
