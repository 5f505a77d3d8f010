"""The admin changes nothing else, and shows it only to whoever may see it."""

import re
from collections.abc import Callable
from uuid import UUID

import pytest
from django.contrib import admin
from django.test import Client

from sales.models import Allowance, Checkout, Sale, SaleItem
from tests.integration.sales.admin.pages import CHECKOUTS, ITEMS, LISTS, SALES, stored

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("url", LISTS)
def test_nothing_can_be_added_changed_or_deleted(admin_client: Client, url: str, current: Sale) -> None:
    model = {SALES: Sale, ITEMS: SaleItem, CHECKOUTS: Checkout}[url]
    pk = model.objects.values_list("pk", flat=True)[0]
    before = stored(Sale, SaleItem, Checkout)

    page = admin_client.get(f"{url}{pk}/change/").content.decode()
    assert not re.findall(r'<(?:input|select|textarea)\b(?![^>]*type="hidden")[^>]*name="(?!_)', page)
    assert "_save" not in page
    changed = {field.attname: "1" for field in model._meta.fields}
    assert admin_client.post(f"{url}{pk}/change/", changed).status_code == 403
    for path in ("add/", f"{pk}/delete/"):
        assert admin_client.get(f"{url}{path}").status_code == 403
        assert admin_client.post(f"{url}{path}", changed | {"post": "yes"}).status_code == 403
    admin_client.post(url, {"action": "delete_selected", "_selected_action": [pk], "post": "yes", "index": 0})

    assert stored(Sale, SaleItem, Checkout) == before


@pytest.mark.parametrize("url", LISTS)
def test_the_view_permission_shows_lists_and_pages(
    staff: Callable[..., Client], url: str, current: Sale
) -> None:
    model = {SALES: Sale, ITEMS: SaleItem, CHECKOUTS: Checkout}[url]
    client, other = staff(f"view_{model._meta.model_name}"), staff()
    pk = model.objects.values_list("pk", flat=True)[0]

    for path in (url, f"{url}{pk}/change/"):
        response = client.get(path)
        assert response.status_code == 200
        assert b"addlink" not in response.content
        assert b"deletelink" not in response.content
        assert other.get(path).status_code == 403
    assert client.post(f"{url}{pk}/change/", {}).status_code == 403
    assert [path for path in LISTS if client.get(path).status_code == 200] == [url]


@pytest.mark.parametrize("url", LISTS)
@pytest.mark.parametrize("pk", ["0", "abc", str(10**30), "-1", "%00", str(UUID(int=5))])
def test_page_of_what_does_not_exist_leads_back(
    admin_client: Client, url: str, pk: str, current: Sale
) -> None:
    response = admin_client.get(f"{url}{pk}/change/")

    assert (response.status_code, response.headers.get("Location")) == (302, "/admin/")


def test_allowances_are_left_out() -> None:
    assert not admin.site.is_registered(Allowance)
