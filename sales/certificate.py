"""The certificate of a sale: its invariants, proven from its rows in one snapshot.

Anybody may have one made at any time (`certify`). Once nothing of a sale can change any more, a worker
writes one into the database, where it stays (`issue`).
"""

import contextlib
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import IntegrityError, connection, transaction

from sales import __version__, metrics, statements
from sales.models import Sale, SaleCertificate

logger = logging.getLogger(__name__)

EXAMPLES = 5
"""Offending rows that are shown for a broken invariant."""

# Each query finds the rows that break the invariant, as readable text.
INVARIANTS = {
    "every item from 0 to N-1 exists once: sold + held + available = items": """
        SELECT format('%%s items of %%s, numbered %%s to %%s',
                      count(item_id), sale.items, min(item_id), max(item_id))
        FROM sales_sale AS sale LEFT JOIN sales_saleitem AS item ON item.sale_id = sale.id
        WHERE sale.id = %(sale)s GROUP BY sale.items
        HAVING count(item_id) <> sale.items OR count(DISTINCT item_id) <> sale.items
            OR min(item_id) <> 0 OR max(item_id) <> sale.items - 1
            OR count(*) FILTER (WHERE state IN ('sold', 'held', 'available')) <> sale.items
    """,
    "an item is purchased at most once": """
        SELECT format('item %%s was purchased %%s times', item_id, count(*))
        FROM sales_checkout WHERE sale_id = %(sale)s AND state = 'purchased'
        GROUP BY item_id HAVING count(*) > 1
    """,
    "every sold item has exactly its purchased checkout, of the same user": """
        SELECT format('item %%s is sold to user %%s by %%s', item.item_id, item.user_id, item.code)
        FROM sales_saleitem AS item WHERE sale_id = %(sale)s AND state = 'sold' AND NOT EXISTS (
            SELECT FROM sales_checkout AS checkout
            WHERE checkout.code = item.code AND checkout.state = 'purchased'
              AND checkout.sale_id = item.sale_id AND checkout.item_id = item.item_id
              AND checkout.user_id = item.user_id AND checkout.purchased_at = item.purchased_at)
    """,
    "every purchased checkout is of an item sold by it": """
        SELECT format('checkout %%s of item %%s is purchased', checkout.code, checkout.item_id)
        FROM sales_checkout AS checkout WHERE sale_id = %(sale)s AND state = 'purchased' AND NOT EXISTS (
            SELECT FROM sales_saleitem AS item
            WHERE item.sale_id = checkout.sale_id AND item.item_id = checkout.item_id
              AND item.state = 'sold' AND item.code = checkout.code)
    """,
    "every held item has exactly its held checkout, of the same user and until the same time": """
        SELECT format('item %%s is held by user %%s by %%s', item.item_id, item.user_id, item.code)
        FROM sales_saleitem AS item WHERE sale_id = %(sale)s AND state = 'held' AND NOT EXISTS (
            SELECT FROM sales_checkout AS checkout
            WHERE checkout.code = item.code AND checkout.state = 'held'
              AND checkout.sale_id = item.sale_id AND checkout.item_id = item.item_id
              AND checkout.user_id = item.user_id AND checkout.expires_at = item.held_until)
    """,
    "every held checkout is of an item held by it": """
        SELECT format('checkout %%s of item %%s is held', checkout.code, checkout.item_id)
        FROM sales_checkout AS checkout WHERE sale_id = %(sale)s AND state = 'held' AND NOT EXISTS (
            SELECT FROM sales_saleitem AS item
            WHERE item.sale_id = checkout.sale_id AND item.item_id = checkout.item_id
              AND item.state = 'held' AND item.code = checkout.code)
    """,
    "each user's allowance is what they hold and have bought": """
        SELECT format('user %%s: allowance %%s, items %%s', user_id, coalesce(taken, 0), coalesce(items, 0))
        FROM (SELECT user_id, taken FROM sales_allowance WHERE sale_id = %(sale)s) AS allowance
        FULL JOIN (SELECT user_id, count(*) AS items FROM sales_saleitem
                   WHERE sale_id = %(sale)s AND state <> 'available' GROUP BY user_id) AS owned
            USING (user_id)
        WHERE coalesce(taken, 0) <> coalesce(items, 0)
    """,
    "no user has more than the limit": """
        SELECT format('user %%s has %%s of %%s',
                      user_id, greatest(allowance.taken, owned.items), sale.user_limit)
        FROM (SELECT user_id, taken FROM sales_allowance WHERE sale_id = %(sale)s) AS allowance
        FULL JOIN (SELECT user_id, count(*) AS items FROM sales_saleitem
                   WHERE sale_id = %(sale)s AND state <> 'available' GROUP BY user_id) AS owned
            USING (user_id)
        JOIN sales_sale AS sale ON sale.id = %(sale)s
        WHERE greatest(allowance.taken, owned.items) > sale.user_limit
    """,
    "no purchase after its hold expired": """
        SELECT format('checkout %%s expired %%s, purchased %%s', code, expires_at, purchased_at)
        FROM sales_checkout WHERE sale_id = %(sale)s AND state = 'purchased'
          AND (purchased_at >= expires_at OR purchased_at < created_at)
    """,
}


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
    def holds(self) -> bool:
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
            "holds": self.holds,
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
        # The invariants must be judged on one and the same state.
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        # Tables that were filled a moment ago have no statistics yet. The planner then takes them for tiny,
        # and compares every item with every checkout: ten seconds for 10,000 of them.
        cursor.execute("SET LOCAL enable_nestloop TO off")
        # One core is enough, the others sell; compiling the plans takes longer than running them.
        cursor.execute("SET LOCAL max_parallel_workers_per_gather TO 0; SET LOCAL jit TO off")
        cursor.execute(
            """SELECT now(), count(*) FILTER (WHERE state = 'sold'),
                      count(*) FILTER (WHERE state = 'held' AND held_until > now()),
                      count(*) FILTER (WHERE state = 'held' AND held_until <= now()),
                      count(*) FILTER (WHERE state = 'available'),
                      count(DISTINCT user_id) FILTER (WHERE state = 'sold')
               FROM sales_saleitem WHERE sale_id = %s""",
            [sale.pk],
        )
        issued_at, sold, held, expired, available, users = cursor.fetchone()
        for invariant, query in INVARIANTS.items():
            cursor.execute(
                f"SELECT text, count(*) OVER () FROM ({query}) AS broken (text) LIMIT {EXAMPLES}",  # noqa: S608
                {"sale": sale.pk},
            )
            rows = cursor.fetchall()
            findings.append(
                Finding(
                    invariant=invariant,
                    broken=rows[0][1] if rows else 0,
                    examples=[text for text, _ in rows],
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
        cursor.execute(statements.SWEEP, {"sale": sale.pk})
    certificate = certify(sale)
    # Who buys a hold locks its item, so that the sweep leaves it. Where nothing is held, all is decided.
    if certificate.holds and certificate.held + certificate.expired:
        return None
    if not certificate.holds:
        _raise_alarm(certificate)  # before it is written: rather twice than never
    with transaction.atomic():
        written, _ = SaleCertificate.objects.get_or_create(
            sale=sale,
            defaults={
                "issued_at": certificate.issued_at,
                "version": certificate.version,
                "holds": certificate.holds,
                "document": certificate.document,
            },
        )
        Sale.objects.filter(pk=sale.pk).update(closed=True)
    return written


def issue_all(sale_ids: Collection[int], go_on: Callable[[], bool]) -> None:
    """`issue` the certificates of those of these sales that have none, as long as ``go_on`` says so.

    Does nothing where another process is at it: one at a time, so that running sales lose no more than one
    core of the database. Its turn ends when this thread's connection is closed, which the caller must do.
    Raises Django's database errors.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(hashtext('flashsale certificate'))")
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
