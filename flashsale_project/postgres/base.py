"""Django's PostgreSQL backend, connected to an embedded server that is started by the first connection."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured
from django.db.backends.postgresql import base, client

from flashsale_project.postgres.binaries import EmbeddedPostgresError
from flashsale_project.postgres.server import DATABASE, EmbeddedPostgres

if TYPE_CHECKING:
    from collections.abc import Iterable

_servers: dict[tuple[int, str, str], EmbeddedPostgres] = {}


def embedded_postgres(settings_dict: dict[str, Any]) -> EmbeddedPostgres:
    """Returns this process's one server object for the data directory named in an entry of DATABASES."""
    data_dir, bin_dir = settings_dict["EMBEDDED_DATA_DIR"], settings_dict.get("EMBEDDED_BIN_DIR")
    # By process, so that a forked child does not use its parent's; setdefault, so that threads agree on one.
    return _servers.setdefault(
        (os.getpid(), str(data_dir), str(bin_dir)), EmbeddedPostgres(data_dir, bin_dir)
    )


class DatabaseClient(client.DatabaseClient):
    """`dbshell` starts the server too."""

    def runshell(self, parameters: Iterable[str]) -> None:
        """Runs psql. Raises ImproperlyConfigured if the server cannot be provided."""
        self.connection.get_connection_params()
        super().runshell(parameters)


class DatabaseWrapper(base.DatabaseWrapper):
    """Takes host, port, user and password from the embedded server."""

    client_class = DatabaseClient

    def __init__(self, settings_dict: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        """Names the database if the settings do not; None stays: Django means the maintenance database."""
        if settings_dict["NAME"] == "":
            settings_dict["NAME"] = DATABASE
        super().__init__(settings_dict, *args, **kwargs)

    def get_connection_params(self) -> dict[str, Any]:
        """Acquires the server first; blocks while it starts. Raises ImproperlyConfigured if it cannot."""
        try:
            address = urlsplit(embedded_postgres(self.settings_dict).acquire())
        except EmbeddedPostgresError as error:
            raise ImproperlyConfigured(str(error)) from error
        self.settings_dict.update(
            HOST=address.hostname,
            PORT=str(address.port),
            USER=address.username,
            PASSWORD=address.password,
        )
        return super().get_connection_params()
