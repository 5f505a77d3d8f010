"""Refusals: the answers that are not 200, each with a reason that a program can act on.

A `Reason` is a value: most answers of a sale are one, returned as it is. Where something is raised, a
`Refusal` wraps it. A refusal is a normal answer: it leaves nothing behind and is never logged as a warning.
What it says of an item or a limit is true by committed rows as this worker knows them (see
`sales.inventory.Inventory.refusal`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from batching import BatchError, LoadFailed, ProcessFailed, ProcessorStopped, QueueFull


@dataclass(frozen=True, eq=False, slots=True)
class Reason:
    """Why a call is refused: ``name`` for programs, ``message`` for people, ``status`` of HTTP.

    ``retry_after`` is in whole seconds; ``members`` are further facts, by their names in the answer. Two are
    of one kind where their names are equal.
    """

    name: str
    message: str
    status: int = 409
    retry_after: int | None = None
    members: Mapping[str, Any] = field(default_factory=dict)

    def saying(self, message: str) -> "Reason":
        """The same, in other words."""
        return replace(self, message=message)

    def after(self, seconds: int) -> "Reason":
        """The same, to be tried again after so many seconds."""
        return replace(self, retry_after=seconds)

    def having(self, **members: Any) -> "Reason":
        """The same, with these facts."""
        return replace(self, members=members)


INVALID_PARAMETER = Reason("invalid_parameter", "A parameter is invalid.", status=400)
NO_CERTIFICATE = Reason("no_certificate", "This sale has no certificate yet.", status=404)

# A checkout
ITEM_HELD = Reason("item_held", "This item is held by somebody; it comes back if they do not buy it.")
ITEM_SOLD = Reason("item_sold", "This item is sold.")
SOLD_OUT = Reason("sold_out", "Every item of this sale is sold.")
ALL_HELD = Reason("all_held", "Every item that is not sold is held; the next hold to expire may free one.")
PAUSED = Reason("paused", "The sale is paused.")
NO_SALE = Reason("no_sale", "There is no sale now.")
IDEMPOTENCY_KEY_REUSED = Reason(
    "idempotency_key_reused", "This Idempotency-Key was used for another request.", status=422
)

# A user
USER_LIMIT = Reason(
    "user_limit", "This user holds and has bought as many items of this sale as one user may."
)
HOLD_LIMIT = Reason(
    "hold_limit", "This user has held and not bought as many items of this sale as one user may."
)
"""As many holds have run out, or were given back: the sale goes on for others."""

# A code
UNKNOWN_CODE = Reason("unknown_code", "No checkout has this code.")
CHECKOUT_EXPIRED = Reason("checkout_expired", "The hold of this code is over.")
ALREADY_PURCHASED = Reason("already_purchased", "This checkout was purchased before.")
"""Its member ``receipt`` is a `sales.storage.Receipt`."""

# This worker: try again
DRAINING = Reason("draining", "The service is stopping; nothing was done.", status=503, retry_after=1)
OVERLOADED = Reason(
    "overloaded", "Too many requests are waiting; nothing was done.", status=503, retry_after=1
)
DATABASE_UNAVAILABLE = Reason(
    "database_unavailable", "The database does not answer; try again.", status=503, retry_after=1
)
# … or ask first
OUTCOME_UNKNOWN = Reason(
    "outcome_unknown",
    "The database fell silent: this may have been done or not. The receipt of the code tells.",
    status=503,
    retry_after=1,
)

REASONS = frozenset(value for value in globals().values() if isinstance(value, Reason))
"""All of them, as they are told most often."""


class Refusal(Exception):
    """A call is refused, for this reason. Nothing was changed, unless the reason is `OUTCOME_UNKNOWN`."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.message)
        self.reason = reason


class DatabaseFailure(Refusal):
    """The database did not do what was asked of it, or did not say so."""


class DatabaseUnavailable(DatabaseFailure):
    """The database did not answer, or refused; nothing was changed, or what may be done twice.

    ``why``: other words for it.
    """

    def __init__(self, why: str | None = None) -> None:
        super().__init__(DATABASE_UNAVAILABLE if why is None else DATABASE_UNAVAILABLE.saying(why))


class OutcomeUnknown(DatabaseFailure):
    """The database fell silent over what was asked: it was done, or not, or will be yet."""

    def __init__(self) -> None:
        super().__init__(OUTCOME_UNKNOWN)


def refusal_of(error: BatchError) -> Refusal:
    """What a caller is told of a batch that failed; the error is chained."""
    refusal = Refusal(reason_of(error))
    refusal.__cause__ = error
    return refusal


def reason_of(error: BatchError) -> Reason:
    """What it means for a call that its batch has failed."""
    if isinstance(error, QueueFull):
        return OVERLOADED
    cause = error.__cause__
    if isinstance(error, ProcessorStopped) and cause is None:
        return DRAINING
    if isinstance(error, LoadFailed | ProcessFailed) or isinstance(cause, DatabaseUnavailable):
        return DATABASE_UNAVAILABLE
    return OUTCOME_UNKNOWN  # the save was cut off, or has a fault of ours
