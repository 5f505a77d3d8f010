"""The calls of clients, and what they may be answered."""

from contextvars import ContextVar
from dataclasses import dataclass, field
from math import inf
from typing import Any
from uuid import UUID

from sales.refusals import Refusal

TRY_AGAIN = ["draining", "overloaded", "database_unavailable"]
CODE_REASONS = {"unknown_code", "checkout_expired", "already_purchased", *TRY_AGAIN}

REASONS = {
    "checkout": {
        "invalid_parameter",
        "item_held",
        "item_sold",
        "sold_out",
        "all_held",
        "user_limit",
        "paused",
        "no_sale",
        "idempotency_key_reused",
        "outcome_unknown",
        *TRY_AGAIN,
    },
    "purchase": {*CODE_REASONS, "outcome_unknown"},
    "release": {*CODE_REASONS, "outcome_unknown"},
    "receipt": {"unknown_code", *TRY_AGAIN},
    "status": {"no_sale", *TRY_AGAIN},
}
"""With what a call may be refused."""


@dataclass(eq=False)
class Call:
    """One call of a client, and what came of it. Times are the database's."""

    number: int
    kind: str
    worker: str
    started_at: float
    user_id: int | None = None
    item_id: int | None = None
    sale_id: int | None = None
    code: UUID | None = None
    key: str | None = None
    left: bool = False
    """Its client does not wait any more."""
    answers: list[Any] = field(default_factory=list)
    answered_at: float = inf
    before: Any = None
    """What was true when it was asked: the state of its code, or what is taken of each sale."""

    @property
    def unheard(self) -> bool:
        """Whether something may have come of it that its client does not know of."""
        return self.left or not self.answers or text(self.answers[0]) == "outcome_unknown"

    def may_have(self, code: UUID) -> bool:
        """Whether it was granted this code, for all that its client knows."""
        if self.left or not self.answers:
            return True
        if text(self.answers[0]) == "outcome_unknown":
            return self.answers[0].reason.members.get("code") in (None, str(code))
        return bool(self.answers[0] == code)

    def __str__(self) -> str:
        if self.kind == "checkout":
            item = "any item" if self.item_id is None else f"item {self.item_id}"
            key = f" with key {self.key}" if self.key else ""
            return f"#{self.number} checkout of {item} by user {self.user_id}{key}"
        what = f"sale {self.sale_id or 'now'}" if self.code is None else short(self.code)
        return f"#{self.number} {self.kind} of {what}"


CALL: ContextVar[Call] = ContextVar("call")
"""The call that a service is called for."""


def short(code: UUID) -> str:
    """A code in a trace."""
    return "…" + str(code)[-6:]


def text(outcome: Any) -> str:
    """An outcome in a trace: ``ok``, with the code if there is one, the reason of a refusal, or an error."""
    if isinstance(outcome, Refusal):
        return outcome.reason.name
    if isinstance(outcome, UUID):
        return f"ok {short(outcome)}"
    return repr(outcome) if isinstance(outcome, BaseException) else "ok"
