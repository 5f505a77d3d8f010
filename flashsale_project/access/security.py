"""A security header of the admin that Django's own middleware sends from Django 6.0 on only."""

from django.http import HttpRequest, HttpResponseBase
from django.utils.deprecation import MiddlewareMixin

POLICY = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
"""What the admin's pages may load and do: all their scripts, styles and pictures are files of this site."""


class ContentSecurityPolicyMiddleware(MiddlewareMixin):
    """Sends `POLICY` with every answer."""

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        """Add the header; nothing else is changed."""
        response["Content-Security-Policy"] = POLICY
        return response
