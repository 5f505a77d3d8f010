"""What new sales are like, and a clock of the database that tests can set."""

from collections.abc import Iterator
from datetime import datetime

import pytest
from django.db import connection

from sales.conf import SaleOptions
from tests.integration.sales.rotation.times import SetClock


@pytest.fixture
def options() -> SaleOptions:
    """Sales of 20 items, an hour each."""
    return SaleOptions(items=20, user_limit=3, checkout_ttl=45, period=3600)


@pytest.fixture
def set_clock(db: None) -> Iterator[SetClock]:
    """Set the clock of the database, as this test's transaction sees it."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA clock")
        cursor.execute("SET LOCAL search_path TO clock, public, pg_catalog")

    def set_to(moment: datetime) -> None:
        with connection.cursor() as cursor:
            cursor.execute(
                "CREATE OR REPLACE FUNCTION clock.clock_timestamp() RETURNS timestamptz LANGUAGE sql"
                f" AS $$ SELECT timestamptz '{moment.isoformat()}' $$"
            )

    yield set_to
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL search_path TO DEFAULT")
