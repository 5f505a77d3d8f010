"""Refusals: the answers that are not 200, each with a reason a program can act on.

Refusal
├── 400  InvalidParameter
├── 404  NoCertificate
├── 409  ItemHeld · ItemSold · SoldOut · AllHeld · Paused · NoSale                   (checkout)
│        UserLimit · HoldLimit                                                       (a user)
│        UnknownCode · CheckoutExpired · AlreadyPurchased                           (a code)
├── 422  IdempotencyKeyReused
└── 503  Draining · Overloaded · DatabaseUnavailable                                (try again)
         OutcomeUnknown                                                             (ask first)

A refusal is a normal answer: it leaves nothing behind and is never logged as a warning. What it says of an
item or a limit is true by committed rows as this worker knows them (see `sales.inventory.Inventory.refusal`).
"""

from typing import Any, ClassVar


class Refusal(Exception):
    """The request was understood and refused, and nothing was changed.

    ``reason`` is for programs, the message for people; ``retry_after`` is in whole seconds.
    """

    status: ClassVar[int] = 409
    reason: ClassVar[str]
    message: ClassVar[str]
    default_retry_after: ClassVar[int | None] = None

    def __init__(self, message: str = "", *, retry_after: int | None = None, **members: Any) -> None:
        super().__init__(message or self.message)
        self.retry_after = self.default_retry_after if retry_after is None else retry_after
        self.members = members


class InvalidParameter(Refusal):
    """A parameter is missing, repeated, malformed or out of range."""

    status = 400
    reason = "invalid_parameter"
    message = "A parameter is invalid."


class NoCertificate(Refusal):
    """The certificate of this sale is not written yet."""

    status = 404
    reason = "no_certificate"
    message = "This sale has no certificate yet."


class ItemHeld(Refusal):
    """Somebody holds this item; it may come back."""

    reason = "item_held"
    message = "This item is held by somebody; it comes back if they do not buy it."


class ItemSold(Refusal):
    """This item is sold."""

    reason = "item_sold"
    message = "This item is sold."


class SoldOut(Refusal):
    """Every item of the sale is sold."""

    reason = "sold_out"
    message = "Every item of this sale is sold."


class AllHeld(Refusal):
    """No item is free now; ``retry_after`` says when the next hold expires."""

    reason = "all_held"
    message = "Every item that is not sold is held; the next hold to expire may free one."


class UserLimit(Refusal):
    """This user holds and has bought as many items as one user may."""

    reason = "user_limit"
    message = "This user holds and has bought as many items of this sale as one user may."


class HoldLimit(Refusal):
    """This user has let expire, or given back, as many holds as one user may; the sale goes on for others."""

    reason = "hold_limit"
    message = "This user has held and not bought as many items of this sale as one user may."


class Paused(Refusal):
    """The sale is paused by its operator."""

    reason = "paused"
    message = "The sale is paused."


class NoSale(Refusal):
    """There is no such sale, or none at this time."""

    reason = "no_sale"
    message = "There is no sale now."


class UnknownCode(Refusal):
    """No checkout has this code."""

    reason = "unknown_code"
    message = "No checkout has this code."


class CheckoutExpired(Refusal):
    """The hold of this code is over, by time or because it was given back."""

    reason = "checkout_expired"
    message = "The hold of this code is over."


class AlreadyPurchased(Refusal):
    """This code was bought before; ``members["receipt"]`` is its receipt."""

    reason = "already_purchased"
    message = "This checkout was purchased before."


class IdempotencyKeyReused(Refusal):
    """This user sent this key before, with another request."""

    status = 422
    reason = "idempotency_key_reused"
    message = "This Idempotency-Key was used for another request."


class Draining(Refusal):
    """This process is stopping."""

    status = 503
    reason = "draining"
    message = "The service is stopping; nothing was done."
    default_retry_after = 1


class Overloaded(Refusal):
    """Too much work is queued; nothing was held."""

    status = 503
    reason = "overloaded"
    message = "Too many requests are waiting; nothing was done."
    default_retry_after = 1


class DatabaseUnavailable(Refusal):
    """The database did not answer; nothing is known to have been changed."""

    status = 503
    reason = "database_unavailable"
    message = "The database does not answer; try again."
    default_retry_after = 1


class OutcomeUnknown(DatabaseUnavailable):
    """The database fell silent over what was asked; ``members["code"]``, if there is one, has a receipt."""

    reason = "outcome_unknown"
    message = "The database fell silent: this may have been done or not. The receipt of the code tells."
