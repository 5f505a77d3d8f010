"""The HTTP API: parse, call the service, map the outcome."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, cast
from uuid import UUID

from django.core.exceptions import SuspiciousOperation
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.views import defaults
from django.views.decorators.csrf import csrf_exempt

from sales import metrics, services
from sales.codes import parse_code
from sales.documents import receipt_document, sale_document
from sales.limits import MAX_USER_ID
from sales.models import IdempotencyKey
from sales.parameters import whole_number
from sales.problems import internal_error, problem, refused
from sales.refusals import ALREADY_PURCHASED, INVALID_PARAMETER, Refusal
from sales.runtime import Runtime

MAX_KEY: int = IdempotencyKey._meta.get_field("key").max_length or 0

Handler = Callable[..., Awaitable[HttpResponse]]


def api(**handlers: Handler) -> Callable[..., Coroutine[Any, Any, HttpResponseBase]]:
    """One view for these methods: others get 405, and a `Refusal` becomes its problem document."""
    by_method = {method.upper(): handler for method, handler in handlers.items()}
    if "GET" in by_method:
        by_method["HEAD"] = by_method["GET"]
    allowed = ", ".join(sorted(by_method))

    async def view(request: HttpRequest, **kwargs: str) -> HttpResponse:
        if (handler := by_method.get(request.method or "")) is None:
            response = problem(405, "method_not_allowed", f"This answers to {allowed}.")
            response["Allow"] = allowed
            return response
        try:
            return await handler(request, **kwargs)
        except Refusal as refusal:
            return refused(refusal.reason)

    return csrf_exempt(view)


async def post_checkout(request: HttpRequest) -> HttpResponse:
    """``POST /checkout?user_id=…[&item_id=…]``, with an ``Idempotency-Key`` or without"""
    user_id = _number(_parameter(request, "user_id"), "user_id")
    item_id = _parameter(request, "item_id", required=False)
    code = await services.checkout(
        _runtime(request),
        user_id=user_id,
        item_id=None if item_id is None else _number(item_id, "item_id"),
        key=_idempotency_key(request),
    )
    return HttpResponse(str(code), content_type="text/plain")


async def post_purchase(request: HttpRequest) -> HttpResponse:
    """``POST /purchase?code=…``; with an ``Idempotency-Key``, what was bought before is bought"""
    code, key = _code(_parameter(request, "code")), _idempotency_key(request)
    try:
        await services.purchase(_runtime(request), code=code)
    except Refusal as refusal:
        if key is None or refusal.reason.name != ALREADY_PURCHASED.name:
            raise
    return HttpResponse("purchased", content_type="text/plain")


async def get_checkout(request: HttpRequest, *, code: str) -> HttpResponse:
    """``GET /checkouts/<code>``: the receipt."""
    return JsonResponse(receipt_document(await services.receipt(_runtime(request), code=_code(code))))


async def delete_checkout(request: HttpRequest, *, code: str) -> HttpResponse:
    """``DELETE /checkouts/<code>``: the hold is given back."""
    await services.release(_runtime(request), code=_code(code))
    response = HttpResponse(status=204)
    del response["Content-Type"]
    return response


async def get_sale(request: HttpRequest, *, sale_id: str | None = None) -> HttpResponse:
    """``GET /sale`` and ``GET /sales/<id>``"""
    number = None if sale_id is None else _number(sale_id, "The id of a sale")
    status = await services.status(_runtime(request), sale_id=number)
    return JsonResponse(
        sale_document(
            status.sale,
            sold=status.sold,
            held=status.held,
            available=status.available,
            next_starts_at=status.next_starts_at,
        )
    )


async def get_certificate(request: HttpRequest, *, sale_id: str) -> HttpResponse:
    """``GET /sales/<id>/certificate``"""
    number = _number(sale_id, "The id of a sale")
    document = await services.certificate(_runtime(request), sale_id=number)
    return JsonResponse(document)


async def get_healthz(request: HttpRequest) -> HttpResponse:
    """``GET /healthz``: this process answers."""
    return HttpResponse("ok", content_type="text/plain")


async def get_readyz(request: HttpRequest) -> HttpResponse:
    """``GET /readyz``: this process can sell."""
    if _runtime(request).ready:
        return HttpResponse("ready", content_type="text/plain")
    return problem(503, "not_ready", "Not loaded yet, without a database, or stopping.", retry_after=1)


async def get_metrics(request: HttpRequest) -> HttpResponse:
    """``GET /metrics``, of all workers of this service."""
    metrics.flush_answers()
    text = await asyncio.to_thread(metrics.exposition)
    return HttpResponse(text, content_type="text/plain; version=0.0.4; charset=utf-8")


def not_found(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    """Django's ``handler404``: a page for people in the admin, a problem document for programs."""
    if request.path.startswith("/admin/"):
        return defaults.page_not_found(request, exception)
    return problem(404, "not_found", "There is nothing at this path.")


def failed(request: HttpRequest) -> HttpResponseBase:
    """Django's ``handler500``, likewise."""
    if request.path.startswith("/admin/"):
        return defaults.server_error(request)
    return internal_error()


def _runtime(request: HttpRequest) -> Runtime:
    """The runtime that the ASGI lifespan opened for this process."""
    return cast(Runtime, cast(Any, request).scope["state"]["runtime"])


def _parameter(request: HttpRequest, name: str, *, required: bool = True) -> Any:
    """The one value of a query parameter; ``None`` where it is missing and may be."""
    try:
        values = request.GET.getlist(name)
    except SuspiciousOperation:
        raise _invalid("There are too many parameters.") from None
    if len(values) > 1:
        raise _invalid(f"{name} is given {len(values)} times.")
    if values:
        return values[0]
    if required:
        raise _invalid(f"{name} is missing.")
    return None


def _invalid(message: str) -> Refusal:
    return Refusal(INVALID_PARAMETER.saying(message))


def _number(text: str, name: str) -> int:
    if (number := whole_number(text)) is None or number > MAX_USER_ID:
        raise _invalid(f"{name} must be a whole number from 0 to {MAX_USER_ID}.")
    return number


def _code(text: str) -> UUID:
    if (code := parse_code(text)) is None:
        raise _invalid("A checkout code is a UUID in its form of 36 characters.")
    return code


def _idempotency_key(request: HttpRequest) -> str | None:
    key = request.headers.get("Idempotency-Key")
    if key is not None and not (0 < len(key) <= MAX_KEY and key.isascii() and key.isprintable()):
        raise _invalid(f"An Idempotency-Key has 1 to {MAX_KEY} printable ASCII characters.")
    return key
