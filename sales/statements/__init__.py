"""All SQL of the service, each statement by its name: no other module has any."""

from sales.statements.certificate import INVARIANTS, ITEM_COUNTS, SNAPSHOT
from sales.statements.locks import (
    LOCK_MIGRATION,
    LOCK_ROTATION,
    TRY_LOCK_CERTIFICATES,
    TRY_LOCK_SWEEP,
    UNLOCK_MIGRATION,
)
from sales.statements.parts import CONFIRMED
from sales.statements.reads import (
    BOUGHT,
    CERTIFICATES,
    CHANGES,
    COUNTS,
    HELD,
    KEYED,
    LIVE_SALES,
    LOAD,
    OVER_LIMIT,
    RECEIPT,
    STARTED,
    UNCERTIFIED,
)
from sales.statements.rotation import ITEMS, MOMENT
from sales.statements.sessions import (
    AWAITING_STANDBY,
    CLOCK,
    END_SESSION,
    PID,
    READ_ONLY,
    SESSION,
    SETTINGS,
    VERSION,
)
from sales.statements.writes import PURCHASE, RELEASE, SWEEP, TRY_EXPIRE, hold

__all__ = [
    "AWAITING_STANDBY",
    "BOUGHT",
    "CERTIFICATES",
    "CHANGES",
    "CLOCK",
    "CONFIRMED",
    "COUNTS",
    "END_SESSION",
    "HELD",
    "INVARIANTS",
    "ITEMS",
    "ITEM_COUNTS",
    "KEYED",
    "LIVE_SALES",
    "LOAD",
    "LOCK_MIGRATION",
    "LOCK_ROTATION",
    "MOMENT",
    "OVER_LIMIT",
    "PID",
    "PURCHASE",
    "READ_ONLY",
    "RECEIPT",
    "RELEASE",
    "SESSION",
    "SETTINGS",
    "SNAPSHOT",
    "STARTED",
    "SWEEP",
    "TRY_EXPIRE",
    "TRY_LOCK_CERTIFICATES",
    "TRY_LOCK_SWEEP",
    "UNCERTIFIED",
    "UNLOCK_MIGRATION",
    "VERSION",
    "hold",
]
