"""What Django is given of the headers that it reads with functions which take quadratic time, or fail.

A quoted cookie or a parameter of a media type of some 60 KB keeps `http.cookies` and `django.utils.http`
busy for seconds, on the event loop, and an encoding that nobody knows raises there. The admin has cookies of
its own and two kinds of forms: it is given these, and nothing else that was sent in those headers.
"""

import re

from django.conf import settings

from flashsale_project.access.staff_pass import COOKIE
from flashsale_project.serving.http.heads import Fields

MAX_COOKIE = 4096
"""Bytes of the value of one cookie."""

MESSAGES_COOKIE = "messages"
"""What Django keeps its messages in."""

_FORM = re.compile(
    rb"application/x-www-form-urlencoded(?:; ?charset=utf-8)?"
    rb"|multipart/form-data; ?boundary=[0-9A-Za-z'()+_,./:=?-]{1,70}",
    re.IGNORECASE,
)
_PLAIN = re.compile(rb"[!#-+\--:<-\[\]-~]*+")
"""The value of a cookie without quotes and escapes: those of Django are."""


def own_cookies(headers: Fields) -> dict[str, str]:
    """The cookies of the admin; the first of each name counts."""
    names = {
        name.encode()
        for name in (settings.SESSION_COOKIE_NAME, settings.CSRF_COOKIE_NAME, MESSAGES_COOKIE, COOKIE)
    }
    found: dict[str, str] = {}
    for header, value in headers:
        if header != b"cookie":
            continue
        for pair in value.split(b";"):
            name, _, text = pair.strip().partition(b"=")
            if name in names and len(text) <= MAX_COOKIE and _PLAIN.fullmatch(text):
                found.setdefault(name.decode(), text.decode())
    return found


def for_the_admin(headers: Fields, cookies: dict[str, str]) -> Fields:
    """The headers with these cookies alone, and the type of a form if it is one of ours."""
    kept = [
        (name, value)
        for name, value in headers
        if name != b"cookie" and (name != b"content-type" or _FORM.fullmatch(value))
    ]
    if cookies:
        kept.append((b"cookie", "; ".join(f"{name}={value}" for name, value in cookies.items()).encode()))
    return kept


def for_the_api(headers: Fields) -> Fields:
    """The headers without a type of the body: no call reads one."""
    return [(name, value) for name, value in headers if name != b"content-type"]
