"""Problem documents (RFC 9457): what HTTP says where the answer is not 200."""

from typing import Any

from django.http import HttpResponse, JsonResponse

from sales.documents import receipt_document
from sales.refusals import Reason


def problem(
    status: int, reason: str, detail: str, *, retry_after: int | None = None, **members: Any
) -> HttpResponse:
    """A problem document with a ``reason`` for programs; ``retry_after`` in seconds."""
    document = {"title": reason.replace("_", " "), "status": status, "detail": detail, "reason": reason}
    response = JsonResponse(document | members, status=status, content_type="application/problem+json")
    if retry_after is not None:
        response["Retry-After"] = str(retry_after)
    # A refusal is a normal answer: Django would log each one as a warning.
    response._has_been_logged = True  # type: ignore[attr-defined]
    return response


def refused(reason: Reason) -> HttpResponse:
    """A refusal in HTTP: the one place that maps it."""
    members = dict(reason.members)
    if "receipt" in members:
        members["receipt"] = receipt_document(members["receipt"])
    return problem(reason.status, reason.name, reason.message, retry_after=reason.retry_after, **members)


def internal_error() -> HttpResponse:
    """What a client is told of a fault of ours."""
    return problem(500, "internal_error", "The service failed; the failure was logged.")
