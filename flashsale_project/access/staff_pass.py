"""A cookie by which a worker knows staff who are logged in, before it asks the database for anything.

It opens nothing: who may do what is decided by Django's session, as ever. It says who is let in first when
the admin is crowded, so nobody may be able to make one up: it is signed, for one session.
"""

from collections.abc import Mapping

from django.conf import settings
from django.core import signing
from django.http import HttpRequest, HttpResponseBase
from django.utils.deprecation import MiddlewareMixin

COOKIE = "staff_pass"

LIFETIME = 24 * 3600
"""Seconds after which it counts no more; each answer to staff brings a new one."""


class StaffPassMiddleware(MiddlewareMixin):
    """Gives the pass to staff with each answer, and takes it from everybody else."""

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        """Set the cookie of the pass, or delete one that the browser should not have any more."""
        key = request.session.session_key
        if key is not None and request.user.is_active and request.user.is_staff:
            response.set_cookie(
                COOKIE,
                _signer(key).sign("staff"),
                max_age=LIFETIME,
                secure=settings.SESSION_COOKIE_SECURE,
                httponly=True,
                samesite="Lax",
            )
        elif COOKIE in request.COOKIES:
            response.delete_cookie(COOKIE, samesite="Lax")
        return response


def has_pass(cookies: Mapping[str, str]) -> bool:
    """Whether these cookies have a pass for the session that is with it."""
    session, staff_pass = cookies.get(settings.SESSION_COOKIE_NAME), cookies.get(COOKIE)
    if session is None or staff_pass is None:
        return False
    try:
        _signer(session).unsign(staff_pass, max_age=LIFETIME)
    except signing.BadSignature:
        return False
    return True


def _signer(session_key: str) -> signing.TimestampSigner:
    return signing.TimestampSigner(salt=f"flashsale staff pass {session_key}")
