"""The handler of the sale's own calls: Django without what they do not need."""

from io import BytesIO
from typing import Any, cast

from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.exception import convert_exception_to_response
from django.http import HttpResponse

from flashsale_project.serving.http.django_headers import for_the_api


class ApiHandler(ASGIHandler):
    """Answers with Django's URLs and asynchronous views, but without middleware, signals and threads.

    The stock handler starts two threads for every request (one for the signal that closes ORM
    connections, one to close the response) and costs twenty times the CPU of this. So views behind it
    must be asynchronous and keep off the ORM. A client that leaves cancels its view, which ends only the
    wait: what was accepted for a batch is saved all the same. Bodies are not read: no call has one.
    """

    def load_middleware(self, is_async: bool = False) -> None:
        """Load none: the handler is the URLs and the views alone."""
        self._view_middleware: list[Any] = []
        self._template_response_middleware: list[Any] = []
        self._exception_middleware: list[Any] = []
        self._answer: Any = convert_exception_to_response(self._get_response_async)  # type: ignore[attr-defined]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        scope["headers"] = for_the_api(scope["headers"])
        request, refusal = self.create_request(scope, BytesIO())
        response = cast(HttpResponse, await self._answer(request) if request is not None else refusal)
        await self.respond(response, send)

    async def respond(self, response: HttpResponse, send: Any) -> None:
        """Send an answer whose length is known."""
        if response.status_code != 204:
            response["Content-Length"] = str(len(response.content))
        await self.send_response(response, send)
