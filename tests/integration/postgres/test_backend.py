"""The embedded PostgreSQL as an engine of Django."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psycopg
import pytest
from django.core.exceptions import ImproperlyConfigured

from flashsale_project.postgres import base as backend
from flashsale_project.postgres.binaries import EmbeddedPostgresError
from flashsale_project.postgres.server import EmbeddedPostgres
from tests.integration.postgres.servers import (
    servers_under,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Make = Callable[..., EmbeddedPostgres]
    StartProcess = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def settings_dict(place: Path) -> Iterator[dict[str, Any]]:
    """An entry of DATABASES as Django completes it."""
    yield {
        "ENGINE": "flashsale_project.postgres",
        "NAME": "",
        "EMBEDDED_DATA_DIR": place / "data",
        "EMBEDDED_BIN_DIR": None,
        "ATOMIC_REQUESTS": False,
        "AUTOCOMMIT": True,
        "CONN_MAX_AGE": 0,
        "CONN_HEALTH_CHECKS": False,
        "OPTIONS": {},
        "TIME_ZONE": None,
        "USER": "",
        "PASSWORD": "",
        "HOST": "",
        "PORT": "",
        "TEST": {"CHARSET": None, "COLLATION": None, "MIGRATE": True, "MIRROR": None, "NAME": None},
    }
    for server in list(backend._servers.values()):
        if server.location.is_relative_to(place):
            server.release()


def test_djangos_connection_starts_the_server(settings_dict: dict[str, Any], place: Path) -> None:
    connection = backend.DatabaseWrapper(settings_dict, "embedded")
    assert connection.vendor == "postgresql"
    assert servers_under(place) == []
    params = connection.get_connection_params()
    with psycopg.connect(**params) as raw:
        assert raw.execute("SELECT current_database()").fetchone() == ("flashsale",)
    server = backend.embedded_postgres(settings_dict)
    assert server.pid is not None
    assert settings_dict["PORT"] == str(urlsplit(server.url).port)

    maintenance = backend.DatabaseWrapper({**settings_dict, "NAME": None}, "embedded")
    assert maintenance.get_connection_params()["dbname"] == "postgres"


def test_djangos_error_is_the_same_sentence(settings_dict: dict[str, Any], place: Path) -> None:
    settings_dict["EMBEDDED_BIN_DIR"] = place
    connection = backend.DatabaseWrapper(settings_dict, "embedded")
    with pytest.raises(ImproperlyConfigured, match=r"lacks postgres or initdb") as caught:
        connection.get_connection_params()
    assert isinstance(caught.value.__cause__, EmbeddedPostgresError)
    assert str(caught.value) == str(caught.value.__cause__)
