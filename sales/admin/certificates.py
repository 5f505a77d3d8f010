"""The certificate of a sale, as its page shows it."""

from typing import Any

from django.utils.html import format_html, format_html_join

from sales.admin.cells import mark
from sales.models import SaleCertificate


def lines_of(certificate: SaleCertificate) -> str:
    """The certificate, a line for each invariant, and for each row that is shown because it breaks one."""
    said = certificate.document
    return format_html(
        "{} {}<br>{} items: {} sold to {} users, {} held, {} available<br>issued {} UTC by version {}{}",
        mark(certificate.holds),
        "every invariant holds" if certificate.holds else "BROKEN",
        *(f"{said[name]:,}" for name in ("items", "sold", "users", "held", "available")),
        f"{certificate.issued_at:%Y-%m-%d %H:%M:%S}",
        certificate.version,
        format_html_join("", "{}", ((_lines_of_finding(finding),) for finding in said["invariants"])),
    )


def _lines_of_finding(finding: dict[str, Any]) -> str:
    more = finding["broken"] - len(finding["examples"])
    return format_html(
        "<br>{} {}{}{}",
        mark(finding["holds"]),
        finding["invariant"],
        format_html_join("", "<br>&emsp;{}", ((text,) for text in finding["examples"])),
        format_html("<br>&emsp;and {} more", f"{more:,}") if more else "",
    )
