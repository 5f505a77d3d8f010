"""A certificate is written once, whoever races, and says what was proven."""

import json
import logging
from datetime import datetime

import pytest
from django.core.serializers.json import DjangoJSONEncoder

from sales import __version__, metrics
from sales.certificate import certify, issue, issue_all
from sales.models import Sale, SaleCertificate
from sales.statements import INVARIANTS
from tests.integration.sales.certificate.written import BROKEN, damage, elsewhere, written
from tests.support.database import Sql
from tests.support.shopping import MakeSale
from tests.support.threads import at_once

# Only the tables of sales are emptied after each test.
pytestmark = [
    pytest.mark.django_db(transaction=True, available_apps=["sales"]),
    pytest.mark.usefixtures("nobodys_turn"),
]


# --- one certificate


def test_what_is_written_is_what_was_proven(over: Sale, sql: Sql) -> None:
    stored = issue(over)
    assert stored is not None
    (certificate,) = SaleCertificate.objects.all()
    assert certificate == stored
    assert (certificate.sale_id, certificate.holds, certificate.version) == (over.pk, True, __version__)
    proven = json.loads(json.dumps(certify(over).document, cls=DjangoJSONEncoder))
    assert certificate.document | {"issued_at": None} == proven | {"issued_at": None}
    assert certificate.document == {
        "sale": {
            "id": over.pk,
            "starts_at": _iso(over.starts_at),
            "ends_at": _iso(over.ends_at),
            "user_limit": 10,
            "checkout_ttl_seconds": 60,
        },
        "holds": True,
        "items": 10,
        "sold": 2,
        "held": 0,
        "available": 8,
        "users": 2,
        "issued_at": _iso(certificate.issued_at),
        "version": __version__,
        "invariants": [
            {"invariant": invariant, "holds": True, "broken": 0, "examples": []} for invariant in INVARIANTS
        ],
    }
    assert sql("SELECT count(*) FROM sales_saleitem WHERE state = 'held'") == [(0,)]


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def test_it_is_written_once_and_never_again(over: Sale, sql: Sql) -> None:
    first = issue(over)
    before = written(sql)
    damage(sql, over)
    again = issue(over)
    assert first is not None
    assert again is not None
    assert (again.issued_at, again.holds) == (first.issued_at, True)
    assert written(sql) == before


def test_it_waits_for_a_hold_that_lasts_on(over: Sale, sql: Sql) -> None:
    sql(
        """WITH item AS (
               UPDATE sales_saleitem SET held_until = now() + interval '1 hour' WHERE state = 'held')
           UPDATE sales_checkout SET expires_at = now() + interval '1 hour' WHERE state = 'held'"""
    )
    assert issue(over) is None
    assert written(sql) == []


def test_it_waits_for_a_purchase_that_is_under_way(over: Sale, sql: Sql) -> None:
    with elsewhere("SELECT FROM sales_saleitem WHERE state = 'held' FOR UPDATE"):
        assert issue(over) is None
        assert written(sql) == []
    assert issue(over) is not None
    assert [row[1:] for row in written(sql)] == [(over.pk, True)]


def test_a_broken_sale_is_certified_as_such_and_told_loudly(
    over: Sale, sql: Sql, caplog: pytest.LogCaptureFixture
) -> None:
    damage(sql, over)
    certificate = issue(over)
    assert certificate is not None
    assert not certificate.holds
    assert not certificate.document["holds"]
    (broken,) = (finding for finding in certificate.document["invariants"] if not finding["holds"])
    assert broken == {
        "invariant": BROKEN,
        "holds": False,
        "broken": 1,
        "examples": ["user 99: allowance 1, items 0"],
    }
    (record,) = (record for record in caplog.records if record.name == "sales.certificate")
    assert record.levelno == logging.ERROR
    assert record.getMessage() == (
        f"{over} BREAKS ITS INVARIANTS; its certificate says: "
        f"✗ {BROKEN} (1 broken): user 99: allowance 1, items 0"
    )
    assert f'flashsale_broken_certificates_total{{sale="{over.pk}"}} 1.0' in metrics.exposition().decode()


def test_rows_that_cannot_be_swept_do_not_keep_it_from_being_written(over: Sale, sql: Sql) -> None:
    sql("UPDATE sales_allowance SET taken = 0 WHERE user_id = 9")
    certificate = issue(over)
    assert certificate is not None
    assert not certificate.holds
    assert sql("SELECT count(*) FROM sales_saleitem WHERE state = 'held'") == [(1,)]


# --- many at once


@pytest.mark.parametrize("attempt", range(3))
def test_of_many_who_write_it_at_once_one_does(over: Sale, sql: Sql, attempt: int) -> None:
    certificates = at_once([lambda: issue(over)] * 8)
    # To the others the hold looked as if it were being bought, while the first one swept it.
    assert len({certificate.issued_at for certificate in certificates if certificate}) == 1
    assert [row[1:] for row in written(sql)] == [(over.pk, True)]


def test_of_many_processes_one_at_a_time_looks(
    over: Sale, sql: Sql, caplog: pytest.LogCaptureFixture
) -> None:
    damage(sql, over)
    at_once([lambda: issue_all([over.pk], lambda: True)] * 8)
    assert [row[1:] for row in written(sql)] == [(over.pk, False)]
    assert len([record for record in caplog.records if record.name == "sales.certificate"]) == 1


def test_while_another_process_writes_nothing_is_done(over: Sale, sql: Sql) -> None:
    with elsewhere("SELECT pg_advisory_lock(hashtext('flashsale certificate'))"):
        at_once([lambda: issue_all([over.pk], lambda: True)])
        assert written(sql) == []


def test_who_is_stopped_begins_no_other(make_sale: MakeSale, sql: Sql) -> None:
    sales = [make_sale(started=days * 86_400, lasts=3600) for days in (3, 2, 1)]
    go_on = iter([True, False])
    at_once([lambda: issue_all([sale.pk for sale in sales], lambda: next(go_on))])
    assert [row[1] for row in written(sql)] == [sales[-1].pk]  # the newest first: it is the one asked for
