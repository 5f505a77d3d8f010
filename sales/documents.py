"""The JSON of the API: a receipt, and a sale with its counts."""

from datetime import UTC, datetime
from typing import Any

from sales.inventory import SaleFacts
from sales.records import Receipt


def receipt_document(receipt: Receipt) -> dict[str, Any]:
    """``GET /checkouts/<code>``"""
    return {
        "code": str(receipt.code),
        "state": receipt.state,
        "sale_id": receipt.sale_id,
        "item_id": receipt.item_id,
        "user_id": receipt.user_id,
        "created_at": iso(receipt.created_at),
        "expires_at": iso(receipt.expires_at),
        "purchased_at": iso(receipt.purchased_at),
    }


def sale_document(
    sale: SaleFacts, *, sold: int, held: int, available: int, next_starts_at: float | None
) -> dict[str, Any]:
    """``GET /sale`` and ``GET /sales/<id>``; counts are items, times seconds since the epoch."""
    return {
        "id": sale.id,
        "starts_at": iso(sale.starts_at),
        "ends_at": iso(sale.ends_at),
        "items": sale.items,
        "sold": sold,
        "held": held,
        "available": available,
        "user_limit": sale.user_limit,
        "checkout_ttl_seconds": sale.checkout_ttl,
        "paused": sale.paused,
        "next_starts_at": iso(next_starts_at),
    }


def iso(moment: datetime | float | None) -> str | None:
    """ISO 8601 in UTC."""
    if moment is None:
        return None
    if isinstance(moment, float):
        moment = datetime.fromtimestamp(moment, UTC)
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
