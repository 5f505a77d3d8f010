"""The first screen of `runsale`."""

import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from flashsale_project.serving.greeting import address, greeting
from sales.models import Sale


@pytest.fixture
def listener(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    """A socket bound to the address of the test."""
    host = request.param
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        try:
            sock.bind((host, 0))
        except OSError as error:
            pytest.skip(f"no {host} here: {error}")
        yield sock


def sale(items: int) -> Sale:
    return Sale(
        pk=7,
        starts_at=datetime(2026, 11, 21, 15, tzinfo=UTC),
        ends_at=datetime(2026, 11, 21, 16, tzinfo=UTC),
        items=items,
        user_limit=10,
        checkout_ttl=60,
    )


@pytest.mark.parametrize(
    ("listener", "host"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.2", "127.0.0.2"),
        ("0.0.0.0", "127.0.0.1"),
        ("::1", "[::1]"),
        ("::", "[::1]"),
    ],
    indirect=["listener"],
)
def test_the_address_is_one_that_works_here(listener: socket.socket, host: str) -> None:
    assert address(listener) == f"http://{host}:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    ("listener", "allowed", "missing"),
    [
        ("127.0.0.1", ["localhost", "127.0.0.1"], None),
        ("127.0.0.1", ["shop.example"], "127.0.0.1"),
        ("127.0.0.2", ["localhost", "127.0.0.1"], "127.0.0.2"),
        ("0.0.0.0", ["localhost", "127.0.0.1"], "here.example"),
        ("0.0.0.0", ["here.example"], None),
        ("0.0.0.0", ["*"], None),
        ("0.0.0.0", [], "here.example"),
        ("::1", ["localhost"], "[::1]"),
    ],
    indirect=["listener"],
)
def test_a_host_by_which_the_admin_would_not_answer_is_told_with_its_setting(
    listener: socket.socket,
    allowed: list[str],
    missing: str | None,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("flashsale_project.serving.greeting.socket.gethostname", lambda: "here.example")
    settings.ALLOWED_HOSTS = allowed
    text = greeting(listener, workers=2, database="PostgreSQL", sale=sale(10_000))
    if missing is None:
        assert "ALLOWED_HOSTS" not in text
    else:
        assert f"ALLOWED_HOSTS={','.join([*allowed, missing])} python manage.py runsale" in text


@pytest.mark.parametrize("listener", ["127.0.0.1"], indirect=True)
@pytest.mark.parametrize(("items", "item"), [(10_000, 456), (457, 456), (456, 455), (1, 0)])
def test_the_example_asks_for_an_item_that_there_is(listener: socket.socket, items: int, item: int) -> None:
    text = greeting(listener, workers=1, database="PostgreSQL", sale=sale(items))
    assert f"/checkout?user_id=123&item_id={item}'" in text
    assert "(1 worker, PostgreSQL)" in text
