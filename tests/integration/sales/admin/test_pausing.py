"""Pausing and resuming sales: that changes ``paused`` alone, and leaves a trace."""

from collections.abc import Callable

import pytest
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from sales.models import Sale
from tests.integration.sales.admin.pages import SALES, column, run, said, stored

pytestmark = pytest.mark.django_db


def test_pause_takes_the_sales_that_are_not_paused_and_only_their_flag(
    admin_client: Client, admin_user: User, ended: Sale, current: Sale, upcoming: Sale
) -> None:
    Sale.objects.filter(pk=upcoming.pk).update(paused=True)

    with CaptureQueriesContext(connection) as queries:
        response = run(admin_client, "pause", current, upcoming)

    assert response.status_code == 302
    assert said(response) == ["success: 1 sale was paused."]
    assert dict(Sale.objects.values_list("pk", "paused")) == {
        ended.pk: False,
        current.pk: True,
        upcoming.pk: True,
    }
    updates = [q["sql"] for q in queries if q["sql"].startswith("UPDATE") and "sales_" in q["sql"]]
    assert updates == [f'UPDATE "sales_sale" SET "paused" = true WHERE "sales_sale"."id" IN ({current.pk})']
    entries = LogEntry.objects.values_list("user_id", "object_id", "action_flag", "change_message")
    assert list(entries) == [(admin_user.pk, str(current.pk), CHANGE, "Paused.")]


def test_resume_takes_the_sales_that_are_paused(
    admin_client: Client, ended: Sale, current: Sale, upcoming: Sale
) -> None:
    Sale.objects.filter(pk__in=[ended.pk, current.pk]).update(paused=True)

    response = run(admin_client, "resume", ended, current, upcoming)

    assert said(response) == ["success: 2 sales were resumed."]
    assert not Sale.objects.filter(paused=True).exists()
    logged = LogEntry.objects.order_by("object_id").values_list("object_id", "change_message")
    assert list(logged) == [(str(ended.pk), "Resumed."), (str(current.pk), "Resumed.")]


@pytest.mark.parametrize("action", ["pause", "resume"])
def test_each_sale_that_is_paused_or_resumed_is_an_event_of_the_log(
    admin_client: Client, caplog: pytest.LogCaptureFixture, action: str, current: Sale, upcoming: Sale
) -> None:
    Sale.objects.filter(pk=current.pk).update(paused=action == "resume")
    Sale.objects.filter(pk=upcoming.pk).update(paused=action == "pause")
    run(admin_client, action, current, upcoming)
    events = [(r.getMessage(), r.fields) for r in caplog.records if r.name == "sales.operations"]
    assert events == [(f"sale.{action}d", {"sale_id": current.pk, "user": "admin"})]


@pytest.mark.parametrize("action", ["pause", "resume"])
def test_action_without_anything_to_do_says_so(
    admin_client: Client, caplog: pytest.LogCaptureFixture, action: str, current: Sale
) -> None:
    Sale.objects.update(paused=action == "pause")
    before = stored(Sale)

    response = run(admin_client, action, current)
    assert not [record for record in caplog.records if record.name == "sales.operations"]

    assert said(response) == [f"warning: No sale was {action}d: all of them were already."]
    assert stored(Sale) == before
    assert not LogEntry.objects.exists()


def test_pause_of_all_sales_of_a_filter(
    admin_client: Client, ended: Sale, current: Sale, upcoming: Sale
) -> None:
    data = {"action": "pause", "_selected_action": [current.pk], "index": 0, "select_across": 1}

    response = admin_client.post(f"{SALES}?time=upcoming", data)

    assert said(response) == ["success: 1 sale was paused."]
    assert list(Sale.objects.filter(paused=True)) == [upcoming]


def test_whoever_may_change_sales_may_pause_them_and_change_nothing_else(
    staff: Callable[..., Client], current: Sale
) -> None:
    client = staff("change_sale")

    assert said(run(client, "pause", current)) == ["success: 1 sale was paused."]
    before = stored(Sale)
    assert client.post(f"{SALES}{current.pk}/change/", {"items": 9, "paused": ""}).status_code == 403
    assert stored(Sale) == before


def test_pausing_needs_the_change_permission(staff: Callable[..., Client], current: Sale) -> None:
    client = staff("view_sale", "add_sale", "delete_sale", "change_saleitem")

    page = client.get(SALES)
    response = run(client, "pause", current)

    assert b'name="action"' not in page.content
    assert column(response, "is_paused") == ["no"]
    assert not Sale.objects.get().paused
    assert not LogEntry.objects.exists()


@pytest.mark.parametrize(
    "selected", ["x", "", "1.5", "-x", "\x00", "7\x00", str(10**30), "9" * 5000, "1,2", "[]"]
)
@pytest.mark.parametrize(
    ("url", "action"),
    [
        (SALES, "pause"),
        (SALES, "resume"),
        ("/admin/auth/user/", "delete_selected"),
        ("/admin/auth/group/", "delete_selected"),
    ],
)
def test_an_action_on_what_cannot_be_is_refused_whatever_stands_beside_it(
    admin_client: Client, admin_user: User, current: Sale, url: str, action: str, selected: str
) -> None:
    right = current.pk if url == SALES else admin_user.pk
    for extra in ({}, {"select_across": "1"}, {"index": "x"}, {"index": "-9"}, {"select_across": "x"}):
        data = {"action": action, "_selected_action": [right, selected], "post": "yes", **extra}
        assert admin_client.post(url, data).status_code in (200, 302)
    assert Sale.objects.get(pk=current.pk).paused is False
    assert User.objects.filter(pk=admin_user.pk).exists()
    assert not LogEntry.objects.exists()
