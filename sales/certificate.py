"""The certificate of a sale: its invariants, proven from its rows in one snapshot.

Anybody may have one made at any time (`certify`). Once nothing of a sale can change any more, the
housekeeping of a worker writes one into the database, where it stays (`issue`); see `sales.certifier`.
"""

import contextlib
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import DatabaseError, IntegrityError, connection, transaction

from sales import __version__, metrics, statements
from sales.models import Change, Sale, SaleCertificate

logger = logging.getLogger(__name__)

EXAMPLES = 5
"""Offending rows that are shown for a broken invariant."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One invariant: how many rows break it, and some of them."""

    invariant: str
    broken: int
    examples: list[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Certificate:
    """What the rows of a sale prove at one moment; counts are items."""

    sale: Sale
    issued_at: datetime
    sold: int
    held: int
    expired: int
    available: int
    users: int
    findings: list[Finding]
    version: str = __version__

    @property
    def is_valid(self) -> bool:
        """Whether no invariant is broken."""
        return not any(finding.broken for finding in self.findings)

    @property
    def document(self) -> dict[str, Any]:
        """The certificate as JSON has it, but for its times; holds that are over count as available."""
        return {
            "sale": {
                "id": self.sale.pk,
                "starts_at": self.sale.starts_at,
                "ends_at": self.sale.ends_at,
                "user_limit": self.sale.user_limit,
                "checkout_ttl_seconds": self.sale.checkout_ttl,
            },
            "holds": self.is_valid,
            "items": self.sale.items,
            "sold": self.sold,
            "held": self.held,
            "available": self.available + self.expired,
            "users": self.users,
            "issued_at": self.issued_at,
            "version": self.version,
            "invariants": [
                {
                    "invariant": finding.invariant,
                    "holds": not finding.broken,
                    "broken": finding.broken,
                    "examples": finding.examples,
                }
                for finding in self.findings
            ],
        }


def certify(sale: Sale) -> Certificate:
    """Check every invariant of a sale on one snapshot; the sale may be running.

    Raises Django's database errors.
    """
    findings = []
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statements.SNAPSHOT)
        cursor.execute(statements.ITEM_COUNTS, {"sale": sale.pk})
        issued_at, sold, held, expired, available, users = cursor.fetchone()
        for invariant, statement in statements.INVARIANTS.items():
            cursor.execute(statement, {"sale": sale.pk, "examples": EXAMPLES})
            rows = cursor.fetchall()
            findings.append(
                Finding(
                    invariant=invariant,
                    broken=max((broken for _, broken in rows), default=0),
                    examples=[example for example, _ in rows],
                )
            )
    return Certificate(
        sale=sale,
        issued_at=issued_at,
        sold=sold,
        held=held,
        expired=expired,
        available=available,
        users=users,
        findings=findings,
    )


def issue(sale: Sale) -> SaleCertificate | None:
    """Write the certificate of a sale that is over, unless it has one; return what is written then.

    ``None`` while something of it is held: a purchase may be under way. Safe to race: one is written. A sale
    that breaks its invariants is logged as an error. Raises Django's database errors.
    """
    # Rows so damaged that they cannot be swept will be named by the certificate.
    with contextlib.suppress(IntegrityError), connection.cursor() as cursor:
        cursor.execute(statements.SWEEP, {"sale": sale.pk, "batch": 0})
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statements.WHOLE_TABLES)
        cursor.execute(statements.MARK_ALL, {"sale": sale.pk})
    certificate = certify(sale)
    # Who buys a hold locks its item, so that the sweep leaves it. Where nothing is held, all is decided.
    if certificate.is_valid and certificate.held + certificate.expired:
        return None
    if not certificate.is_valid:
        _raise_alarm(certificate)  # before it is written: rather twice than never
    with transaction.atomic():
        written, _ = SaleCertificate.objects.get_or_create(
            sale=sale,
            defaults={
                "issued_at": certificate.issued_at,
                "version": certificate.version,
                "holds": certificate.is_valid,
                "document": certificate.document,
            },
        )
        Sale.objects.filter(pk=sale.pk).update(closed=True)
    # Those of the sales before: of this one a purchase may still be looking for what became of it.
    with contextlib.suppress(DatabaseError), transaction.atomic():
        Change.objects.filter(sale__closed=True, sale_id__lt=sale.pk).delete()
    return written


def issue_all(sale_ids: Collection[int], go_on: Callable[[], bool]) -> None:
    """`issue` the certificates of those of these sales that have none, as long as ``go_on`` says so.

    Does nothing where another process is at it: one at a time, so that running sales lose no more than one
    core of the database. Its turn ends when this thread's connection is closed, which the caller must do.
    Raises Django's database errors.
    """
    with connection.cursor() as cursor:
        cursor.execute(statements.TRY_LOCK_CERTIFICATES)
        if not cursor.fetchone()[0]:
            return
    for sale in Sale.objects.filter(pk__in=sale_ids, closed=False):
        if not go_on():
            return
        issue(sale)


def _raise_alarm(certificate: Certificate) -> None:
    metrics.BROKEN.labels(certificate.sale.pk).inc()
    logger.error(
        "%s BREAKS ITS INVARIANTS; its certificate says: %s",
        certificate.sale,
        " | ".join(
            f"✗ {finding.invariant} ({finding.broken:,} broken): {', '.join(finding.examples)}"
            for finding in certificate.findings
            if finding.broken
        ),
    )
