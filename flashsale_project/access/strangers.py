"""What the admin answers to browsers that it does not serve: why, and which setting would change that."""

import logging
import threading
import time

from django.conf import settings
from django.core.exceptions import DisallowedHost
from django.http import HttpRequest, HttpResponse
from django.middleware.csrf import REASON_BAD_ORIGIN, REASON_NO_CSRF_COOKIE

logger = logging.getLogger(__name__)

COMPLAIN_INTERVAL = 60.0
"""Seconds between two lines of the log about hosts that are not listed: anybody can send such requests."""

MAX_HOST = 100
"""Characters of such a host that are shown."""


MAX_REASON = 300
"""Characters of the reason why a form was not taken; it may hold an origin, which anybody can send."""


class _Complaints:
    """Counts what is refused, and tells when it is time for a line. For all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._next = 0.0

    def add(self) -> int:
        """Count one; where a line is due, return how many there were since the last one, else 0."""
        with self._lock:
            self._count += 1
            if (now := time.monotonic()) < self._next:
                return 0
            self._next = now + COMPLAIN_INTERVAL
            count, self._count = self._count, 0
            return count


_complaints = _Complaints()


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """The page for what Django cannot take, above all a host that is not in ``ALLOWED_HOSTS``."""
    if not isinstance(exception, DisallowedHost):
        return _page(400, "This request cannot be understood.")
    host = request.META.get("HTTP_HOST", "")[:MAX_HOST]
    if count := _complaints.add():
        logger.warning(
            "host.refused", extra={"fields": {"host": host, "setting": "ALLOWED_HOSTS", "requests": count}}
        )
    return _page(
        400,
        f"The admin does not answer to the host {host!a}. If that is its name, add it to the setting\n"
        "ALLOWED_HOSTS (the environment or .env; names separated by commas, without port), and start again.",
    )


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """The page for a form that is not known to come from a page of ours."""
    advice = "Go back, load the page again, and send the form again."
    if reason == REASON_NO_CSRF_COOKIE and settings.CSRF_COOKIE_SECURE:
        advice = (
            "The cookies of the admin are for https, and your browser sent none. Come through a proxy with\n"
            "TLS and set CSRF_TRUSTED_ORIGINS=https://…; or come from the machine itself as http://127.0.0.1\n"
            "or http://localhost, also by a tunnel: ssh -L 8080:127.0.0.1:8080 …; or, to try it out in a\n"
            "network that you trust, set DEBUG=true."
        )
    elif reason.startswith(REASON_BAD_ORIGIN.partition("%")[0]):
        advice = (
            "If that is the address of the admin, add it to the setting CSRF_TRUSTED_ORIGINS\n"
            "(the environment or .env: https://shop.example), and start again."
        )
    return _page(403, f"The form was not taken: {reason[:MAX_REASON]}\n\n{advice}")


def _page(status: int, text: str) -> HttpResponse:
    return HttpResponse(f"{text}\n", status=status, content_type="text/plain; charset=utf-8")
