"""What the admin's answers tell browsers."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client

LOGIN = "/admin/login/?next=/admin/"
ORIGIN = "https://shop.example"
SECRET = "sesame-0123456789"


def opened_login(host: str = "localhost") -> Client:
    """Somebody who has opened the page of the login, and can log in as ``boss``."""
    User.objects.create_superuser("boss", password=SECRET)
    client = Client(enforce_csrf_checks=True)
    assert client.get(LOGIN, headers={"host": host}).status_code == 200
    return client


@pytest.fixture
def browser(db: None) -> Client:
    """Somebody who has opened the page of the login on this machine."""
    return opened_login()


def login(browser: Client, **headers: str) -> int:
    """Send the form; the status of the answer."""
    token = browser.cookies["csrftoken"].value
    data = {"username": "boss", "password": SECRET, "csrfmiddlewaretoken": token}
    return browser.post(LOGIN, data, headers=headers).status_code


def test_the_deployment_check_has_nothing_to_say(settings: Any) -> None:
    settings.SECRET_KEY = "a key that is long enough, whatever this run was given: 0123456789"
    call_command("check", deploy=True, fail_level="WARNING")


@pytest.mark.parametrize("path", [LOGIN, "/admin/", "/admin/nowhere/"])
def test_the_answers_of_the_admin_carry_security_headers(browser: Client, path: str) -> None:
    headers = browser.get(path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Content-Security-Policy"].startswith("default-src 'self'; ")


def test_the_cookies_of_the_admin_are_for_tls_and_not_for_scripts(browser: Client) -> None:
    assert login(browser) == 302
    assert browser.get("/admin/").status_code == 200
    for name in ("sessionid", "csrftoken"):
        cookie = browser.cookies[name]
        assert cookie["secure"]
        assert cookie["httponly"]
        assert cookie["samesite"] == "Lax"


@pytest.mark.parametrize(
    ("trusted", "origin", "status"),
    [([], ORIGIN, 403), ([ORIGIN], ORIGIN, 302), ([ORIGIN], "https://other.example", 403)],
)
def test_a_login_through_a_proxy_with_tls_needs_its_origin(
    settings: Any, db: None, trusted: list[str], origin: str, status: int
) -> None:
    settings.ALLOWED_HOSTS = ["shop.example"]
    settings.CSRF_TRUSTED_ORIGINS = trusted
    assert login(opened_login("shop.example"), host="shop.example", origin=origin) == status


def test_nobody_can_claim_that_tls_was_used(browser: Client) -> None:
    request = browser.get(LOGIN, headers={"X-Forwarded-Proto": "https"}).wsgi_request
    assert not request.is_secure()
