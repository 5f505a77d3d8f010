"""``manage.py verifysale``: prints the certificate of a sale."""

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.core.serializers.json import DjangoJSONEncoder
from django.db import DatabaseError
from django.utils import timezone

from sales.certificate import Certificate, certify
from sales.diagnosis import diagnose
from sales.models import Sale


class Command(BaseCommand):
    """The exit code is 1 where an invariant is broken."""

    help = "Proves the invariants of a sale from its rows and prints its certificate."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the id of a sale, and the form to print in."""
        parser.add_argument("sale", nargs="?", type=int, metavar="ID", help="a sale (the current one)")
        parser.add_argument("--json", action="store_true", help="print it as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        """Print it. Raises `CommandError` for a broken invariant, or where there is nothing to check."""
        try:
            certificate = certify(self._sale(options["sale"]))
        except DatabaseError as error:
            raise CommandError(f"Nothing was verified. {diagnose(error)}") from error
        self.stdout.write(_json(certificate) if options["json"] else _text(certificate))
        if not certificate.is_valid:
            raise CommandError(f"{certificate.sale} breaks its invariants.")

    @staticmethod
    def _sale(number: int | None) -> Sale:
        if number is not None:
            sale = Sale.objects.filter(pk=number).first()
            missing = f"There is no sale {number}."
        else:
            # Between sales, the last one is the one people ask about.
            sale = Sale.objects.filter(starts_at__lte=timezone.now()).first()
            missing = "There is no sale yet."
        if sale is None:
            raise CommandError(missing)
        return sale


def _json(certificate: Certificate) -> str:
    return json.dumps(certificate.document, cls=DjangoJSONEncoder, indent=2)


def _text(certificate: Certificate) -> str:
    sale = certificate.sale
    lines = [
        f"{sale}, until {sale.ends_at:%Y-%m-%d %H:%M:%S} UTC",
        f"  {sale.items:,} items: {certificate.sold:,} sold to {certificate.users:,} users, "
        f"{certificate.held:,} held, {certificate.available + certificate.expired:,} available",
        f"  verified {certificate.issued_at:%Y-%m-%d %H:%M:%S} UTC by version {certificate.version}",
    ]
    for finding in certificate.findings:
        mark = "✗" if finding.broken else "✓"
        lines.append(f"  {mark} {finding.invariant}")
        lines += [f"      {example}" for example in finding.examples]
        if (more := finding.broken - len(finding.examples)) > 0:
            lines.append(f"      and {more:,} more")
    return "\n".join(lines)
