"""Running commands, for what they say and what they change."""

import asyncio
from datetime import datetime
from io import StringIO
from typing import Any
from uuid import UUID

import pytest
from django.core.management import CommandError, call_command
from django.test import override_settings

from sales import services
from sales.conf import SaleOptions
from sales.connections import connection_info
from sales.runtime import Runtime
from tests.support.database import Sql

Holds = dict[int, UUID]

SMALL = override_settings(
    FLASHSALE_ITEMS=1234, FLASHSALE_USER_LIMIT=3, FLASHSALE_CHECKOUT_TTL=45, FLASHSALE_PERIOD=365 * 86_400
)

VARIABLES = {
    "items": "FLASHSALE_ITEMS",
    "user_limit": "FLASHSALE_USER_LIMIT",
    "checkout_ttl": "FLASHSALE_CHECKOUT_TTL",
    "period": "FLASHSALE_PERIOD",
}


def said(command: str, *arguments: str) -> str:
    """Run a command that succeeds; what it writes."""
    stdout, stderr = StringIO(), StringIO()
    call_command(command, *arguments, stdout=stdout, stderr=stderr)
    assert stderr.getvalue() == ""
    return stdout.getvalue()


def refused(command: str, *arguments: str) -> tuple[str, str]:
    """Run a command that exits with 1; its error, and what it wrote before."""
    stdout = StringIO()
    with pytest.raises(CommandError) as error:
        call_command(command, *arguments, stdout=stdout)
    assert error.value.returncode == 1
    return str(error.value), stdout.getvalue()


def second(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}"


def hold(*wanted: tuple[int, int], buy: tuple[int, ...] = ()) -> Holds:
    """Let users hold items of the current sale, and buy some; codes by item."""

    async def shop() -> Holds:
        options = SaleOptions(items=100, user_limit=10, checkout_ttl=60, period=3600)
        async with Runtime(connection_info(), options) as worker:
            granted = [services.checkout(worker, user_id=user, item_id=item) for user, item in wanted]
            codes = dict(zip((item for _, item in wanted), await asyncio.gather(*granted), strict=True))
            await asyncio.gather(*(services.purchase(worker, code=codes[item]) for item in buy))
            return codes

    return asyncio.run(shop())


def rows(sql: Sql) -> list[list[tuple[Any, ...]]]:
    """Every row of our tables, with its transaction: one that was only written anew differs too."""
    tables = ("sales_sale", "sales_saleitem", "sales_checkout", "sales_allowance")
    return [sql(f"SELECT xmin::text, ctid::text, * FROM {table} ORDER BY 2") for table in tables]
