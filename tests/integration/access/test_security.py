"""What the admin's answers tell browsers, and what no output tells anybody."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client

from flashsale_project.access import strangers
from flashsale_project.settings import env

PROJECT = Path(__file__).parents[3]
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


# --- browsers that are not served


@pytest.fixture
def complaints(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Callable[[], list[Any]]:
    """The fields of what is logged about unlisted hosts, from now on, as if nobody had come before."""
    monkeypatch.setattr("flashsale_project.access.strangers._complaints", strangers._Complaints())

    def found() -> list[Any]:
        return [getattr(r, "fields", None) for r in caplog.records if r.getMessage() == "host.refused"]

    return found


@pytest.mark.parametrize("host", ["shop.example", "192.168.1.5:8080", "a_b", "x" * 5_000, "\x1b[2K"])
def test_an_unlisted_host_is_told_which_setting_names_it(
    complaints: Callable[[], list[Any]], host: str
) -> None:
    answer = Client().get(LOGIN, headers={"host": host})
    text = answer.content.decode()
    assert (answer.status_code, answer.headers["Content-Type"]) == (400, "text/plain; charset=utf-8")
    assert "ALLOWED_HOSTS" in text
    assert ascii(host[:100]) in text
    assert len(text) < 1_000
    assert complaints() == [{"host": host[:100], "setting": "ALLOWED_HOSTS", "requests": 1}]


def test_unlisted_hosts_are_logged_once_a_minute_with_their_number(
    complaints: Callable[[], list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        Client().get(LOGIN, headers={"host": "shop.example"})
    assert [fields["requests"] for fields in complaints()] == [1]
    much_later = time.time() * 2
    monkeypatch.setattr("flashsale_project.access.strangers.time.monotonic", lambda: much_later)
    Client().get(LOGIN, headers={"host": "other.example"})
    assert [(fields["host"], fields["requests"]) for fields in complaints()] == [
        ("shop.example", 1),
        ("other.example", 5),
    ]


def test_a_login_without_tls_from_another_machine_is_told_what_to_do(browser: Client) -> None:
    browser.cookies.clear()  # a browser keeps no secure cookie that came without TLS
    answer = browser.post(LOGIN, {"username": "boss", "password": SECRET})
    text = answer.content.decode()
    assert answer.status_code == 403
    for words in ("CSRF cookie not set", "https", "CSRF_TRUSTED_ORIGINS", "http://127.0.0.1", "DEBUG=true"):
        assert words in text


def test_a_login_from_an_origin_that_is_not_trusted_is_told_which_setting_names_it(browser: Client) -> None:
    token = browser.cookies["csrftoken"].value
    answer = browser.post(LOGIN, {"csrfmiddlewaretoken": token}, headers={"origin": ORIGIN + "x" * 9_000})
    text = answer.content.decode()
    assert answer.status_code == 403
    assert ORIGIN in text
    assert "CSRF_TRUSTED_ORIGINS" in text
    assert len(text) < 1_000


# --- secrets


def configured(data_dir: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command with these settings."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "PYTHONPATH", "HOME")}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=PROJECT,
        env=kept | {"FLASHSALE_DATA_DIR": str(data_dir)} | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:ses/ame@localhost/sales",
        "postgresql://me:ses?ame@localhost/sales",
        "postgresql://me:12/ses?ame@localhost/sales",
        "postgresql://me:12/ses#ame@localhost/sales",
        "postgresql://me:12/sesame@localhost/sales",
        "postgresql://me:sesame@localhost:ses/sales",
        "//me:sesame@localhost/sales",
        "me:sesame@localhost/sales",
        "sqlite://me:sesame@localhost/sales",
        "sesame",
    ],
)
def test_a_database_url_that_cannot_be_read_is_not_shown(tmp_path: Path, url: str) -> None:
    result = configured(tmp_path, "manage.py", "check", DATABASE_URL=url)
    output = result.stdout + result.stderr
    assert result.returncode == 1
    assert output.startswith("Error: DATABASE_URL must ")
    assert output.count("\n") == 1
    assert "ses" not in output
    assert "ame@" not in output


@pytest.mark.parametrize("password", ["ses[ame", "ses#ame", "ses%2Fame", "ses@ame", "ses:ame"])
def test_a_password_with_special_characters_can_be_used(tmp_path: Path, password: str) -> None:
    code = "from flashsale_project.settings import DATABASES as d; print(d['default']['PASSWORD'], end='')"
    result = configured(
        tmp_path, "-c", code, DATABASE_URL=f"postgresql://me:{password}@localhost:5432/sales", SECRET_KEY="x"
    )
    assert result.stdout == password.replace("%2F", "/"), result.stderr


@pytest.mark.parametrize(
    ("query", "wanted"), [("", "read-write"), ("?target_session_attrs=primary", "primary")]
)
def test_of_several_servers_the_one_that_takes_writes_is_used(
    tmp_path: Path, query: str, wanted: str
) -> None:
    code = (
        "import django, psycopg; django.setup(); from sales.connections import connection_info as info; "
        "facts = psycopg.conninfo.conninfo_to_dict(info()); "
        "print(*map(facts.get, ('host', 'port', 'password', 'target_session_attrs')), end='')"
    )
    url = f"postgresql://me:ses%2Fame@one:5432,two:6543/sales{query}"
    result = configured(
        tmp_path,
        "-c",
        code,
        DATABASE_URL=url,
        SECRET_KEY="x",
        DJANGO_SETTINGS_MODULE="flashsale_project.settings",
    )
    assert result.stdout == f"one,two 5432,6543 ses/ame {wanted}", result.stderr


def test_a_secret_key_may_begin_with_a_dollar_sign(tmp_path: Path) -> None:
    code = "from flashsale_project.settings import SECRET_KEY; print(SECRET_KEY, end='')"
    assert configured(tmp_path, "-c", code, SECRET_KEY=f"${SECRET}").stdout == f"${SECRET}"


def test_a_line_of_the_env_file_that_cannot_be_read_is_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    env.read_env(StringIO(f"DATABASE_URL postgresql://me:{SECRET}@localhost/sales"))
    assert caplog.messages == ["Invalid line: (not shown)"]
