"""The first screen of `runsale`: where the service is, how to use it, and which options do not apply yet.

And its last line.
"""

import socket
from collections.abc import Sequence

from django.conf import settings
from django.http.request import validate_host

from sales.certificate import certify
from sales.models import Sale
from sales.rotation import Kept

WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
"""What listens on all addresses, and the address by which this machine itself reaches it."""


def address(sock: socket.socket) -> str:
    """A URL that works on this machine."""
    host, port = sock.getsockname()[:2]
    return f"http://{_in_url(WILDCARDS.get(host, host))}:{port}"


def count_of_workers(count: int) -> str:
    """So many workers, in words."""
    return f"{count} worker" if count == 1 else f"{count} workers"


def greeting(sock: socket.socket, *, workers: int, database: str, sale: Sale | None) -> str:
    """What to do now."""
    url, item = address(sock), 456
    lines = ["", f"Flash sale on {url}  ({count_of_workers(workers)}, {database})"]
    if sale is not None:
        item = min(item, sale.items - 1)
        lines.append(
            f"Sale {sale.pk}: {sale.items:,} items until {sale.ends_at:%H:%M:%S} UTC, "
            f"{sale.user_limit} for each user, a hold lasts {sale.checkout_ttl} s"
        )
    lines += [
        "",
        f"  hold an item   curl -X POST '{url}/checkout?user_id=123&item_id={item}'",
        f"  buy it         curl -X POST '{url}/purchase?code=…'   (the code you got)",
        f"  the sale       curl {url}/sale",
        f"  admin          {url}/admin/   (make yourself a user: python manage.py createsuperuser)",
        "  certificate    python manage.py verifysale",
        "  stop           Ctrl-C",
        "",
    ]
    if hint := _hint_of_hosts(sock):
        lines += [hint, ""]
    return "\n".join(lines)


def _hint_of_hosts(sock: socket.socket) -> str:
    """The admin of a service that is open to other machines must be told by which names they call it."""
    host = sock.getsockname()[0]
    name = socket.gethostname() if host in WILDCARDS else _in_url(host)
    if settings.DEBUG or validate_host(name, settings.ALLOWED_HOSTS):
        return ""
    listed = ", ".join(settings.ALLOWED_HOSTS) or "no host"
    return (
        f"The admin answers to {listed} only. To have it answer to {name} too:\n"
        f"  ALLOWED_HOSTS={','.join([*settings.ALLOWED_HOSTS, name])} python manage.py runsale …\n"
        "From other machines people need https to log in: see CSRF_TRUSTED_ORIGINS in\n"
        "flashsale_project/README.md."
    )


def note_on_kept_sales(kept: Sequence[Kept]) -> str:
    """Which sales go on as they were made although other options were given, and how to begin afresh."""
    lines = []
    for one in kept:
        differences = [
            f"{has:,} {name}, not {wanted:,}"
            for (name, has), wanted in zip(_facts(one.sale).items(), _facts(one.wanted).values(), strict=True)
            if has != wanted
        ]
        lines.append(f"Sale {one.sale.pk} exists and stays as it was made: {'; '.join(differences)}.")
    lines.append(f"Your options hold for sales that start at {kept[-1].sale.ends_at:%H:%M:%S} UTC or later.")
    if "EMBEDDED_DATA_DIR" in settings.DATABASES["default"]:
        lines.append(
            "To try them now, beside what there is: FLASHSALE_DATA_DIR=<a new directory> python manage.py …"
        )
    lines.append(
        "To begin afresh: stop, `python manage.py flush` (deletes all sales, checkouts and users), start."
    )
    return "\n".join([*lines, ""])


def farewell(answers: int, sale: Sale | None) -> str:
    """What was done, and how the current sale stands. Raises Django's database errors."""
    text = f"Stopped after {answers:,} answers."
    if sale is None:
        return text
    certificate = certify(sale)
    verdict = "every invariant holds." if certificate.is_valid else "INVARIANTS ARE BROKEN: verifysale."
    return (
        f"{text} Sale {sale.pk}: {certificate.sold:,} sold, {certificate.held:,} held, "
        f"{certificate.available + certificate.expired:,} free, all of it in the database; {verdict}"
    )


def _facts(sale: Sale) -> dict[str, int]:
    return {
        "items": sale.items,
        "for each user": sale.user_limit,
        "seconds for a hold": sale.checkout_ttl,
        "seconds long": round((sale.ends_at - sale.starts_at).total_seconds()),
    }


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
