"""The pages of the admin as a person reads them, and sales as the service leaves them."""

import re
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import Any
from uuid import UUID

from django.contrib.messages import get_messages
from django.db import connection
from django.http import HttpResponse
from django.test import Client
from django.test.utils import CaptureQueriesContext

from sales.codes import new_code
from sales.models import Checkout, Sale, SaleItem
from sales.rotation import create_sale

HOUR = timedelta(hours=1)

SALES, ITEMS, CHECKOUTS = (f"/admin/sales/{name}/" for name in ("sale", "saleitem", "checkout"))

LISTS = (SALES, ITEMS, CHECKOUTS)


def new_sale(starts_at: datetime, *, items: int = 5, paused: bool = False) -> Sale:
    return create_sale(
        Sale(
            starts_at=starts_at,
            ends_at=starts_at + HOUR,
            items=items,
            user_limit=10,
            checkout_ttl=60,
            paused=paused,
        )
    )


def hold(
    sale: Sale,
    item_id: int,
    user_id: int,
    *,
    became: str = "held",
    ends: timedelta = HOUR,
    code: UUID | None = None,
) -> UUID:
    """One checkout and its item as the service leaves them; times are around now."""
    now = datetime.now(UTC)
    code = code or new_code(sale.pk, item_id)
    purchased_at = min(now, now + ends) - timedelta(seconds=1) if became == "purchased" else None
    Checkout.objects.create(
        code=code,
        sale=sale,
        item_id=item_id,
        user_id=user_id,
        created_at=now - 2 * HOUR,
        expires_at=now + ends,
        purchased_at=purchased_at,
        state=became,
    )
    if became in ("held", "purchased"):
        SaleItem.objects.filter(sale=sale, item_id=item_id).update(
            state="sold" if purchased_at else "held",
            user_id=user_id,
            code=code,
            held_until=now + ends,
            purchased_at=purchased_at,
            version=2 if purchased_at else 1,
        )
    return code


def rows(response: HttpResponse) -> list[dict[str, str]]:
    """The cells of a list or a page by column, as a person reads them."""
    assert response.status_code == 200
    table = re.search(
        r'<table id="result_list">.*?<tbody>(.*?)</tbody>', response.content.decode(), re.DOTALL
    )
    return [
        {
            column: text(cell)
            for column, cell in re.findall(r'<t[hd] class="field-(\w+)[^>]*>(.*?)</t[hd]>', row, re.DOTALL)
        }
        for row in (table[1].split("<tr>")[1:] if table else [])
    ]


def text(html: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())


def column(response: HttpResponse, name: str) -> list[str]:
    return [row[name] for row in rows(response)]


def counted(response: HttpResponse) -> str:
    """What stands below a list."""
    # A paragraph up to Django 6.0, a nav with a heading of its own since.
    pattern = r'<(p|nav) class="paginator"[^>]*>(.*?)</\1>'
    paginator = re.search(pattern, response.content.decode(), re.DOTALL)
    assert paginator
    return text(re.sub(r"<(a|span|h2)\b.*?</\1>", "", paginator[2], flags=re.DOTALL))


def number_of_queries(client: Client, url: str, **params: Any) -> int:
    with CaptureQueriesContext(
        connection,
    ) as queries:
        assert client.get(url, params).status_code == 200
    return len(queries)


def stored(*models: Any) -> list[Any]:
    """Everything in these tables."""
    return [list(model.objects.order_by("pk").values()) for model in models]


def said(response: HttpResponse) -> list[str]:
    return [f"{message.level_tag}: {message}" for message in get_messages(response.wsgi_request)]


def run(client: Client, action: str, *sales: Sale) -> HttpResponse:
    return client.post(SALES, {"action": action, "_selected_action": [sale.pk for sale in sales], "index": 0})
