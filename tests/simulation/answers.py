"""What clients are told, and whether it is true."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from math import inf
from typing import Any, cast
from uuid import UUID

from sales.exceptions import Refusal
from sales.inventory import EXPIRY_MARGIN
from sales.models import SaleItem
from tests.simulation.checks import History
from tests.simulation.database import Checkout, Item, Sale
from tests.simulation.memory import Known, Memories

STALE_AFTER = 1.2
"""Seconds after which a worker knows what others did, where nothing fails."""

CLOCK_ERROR = 0.05
"""Seconds that its idea of the database's time may be wrong, where nothing fails."""

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
    """What was true when it was asked: the state of its code, or the items sold of each sale."""

    @property
    def unheard(self) -> bool:
        """Whether something may have come of it that its client does not know of."""
        return self.left or not self.answers or text(self.answers[0]) == "outcome_unknown"

    def may_have(self, code: UUID) -> bool:
        """Whether it was granted this code, for all that its client knows."""
        if self.left or not self.answers:
            return True
        if text(self.answers[0]) == "outcome_unknown":
            return self.answers[0].members.get("code") in (None, str(code))
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
        return outcome.reason
    if isinstance(outcome, UUID):
        return f"ok {short(outcome)}"
    return repr(outcome) if isinstance(outcome, BaseException) else "ok"


class Answers:
    """All calls, and the check of every answer at the moment it is given.

    ``workers``: from whom each batch of purchases came. ``fair``: nothing ever fails; ``kind``: nothing that
    cannot be made up for. ``short_queues``: a queue may be full.
    """

    def __init__(
        self,
        history: History,
        workers: Mapping[int | None, str],
        *,
        fair: bool,
        kind: bool,
        short_queues: bool,
    ) -> None:
        self.history = history
        self.database = history.database
        self.calls: list[Call] = []
        self.codes: list[UUID] = []
        self.outcomes: Counter[str] = Counter()
        self.memories = Memories(self.database.clock)
        self._fair = fair
        self._kind = kind
        self._short_queues = short_queues
        self.tried: dict[UUID, Call] = {}
        """The checkouts that these codes were made for."""
        self.unknown: dict[UUID, Call] = {}
        """The codes of checkouts of which nobody knew whether they were granted."""
        self._workers = workers
        self._granted: dict[UUID, Call] = {}
        self._bought: dict[UUID, Call] = {}
        self._over: dict[UUID, str] = {}
        """The last state of these codes, as receipts told it."""

    def check(self, call: Call, outcome: Any) -> None:
        """Check an answer."""
        call.answers.append(outcome)
        call.answered_at = self.database.clock()
        assert len(call.answers) == 1, f"{call} has several answers: {', '.join(map(text, call.answers))}"
        if isinstance(outcome, Refusal):
            self.outcomes[f"{call.kind} {outcome.reason}"] += 1
            assert outcome.reason in REASONS[call.kind], f"{call} was refused with {outcome.reason}"
            if outcome.status == 409 and call.key is not None:
                self._check_not_granted_before(call, outcome)
            if (check := getattr(self, f"_{outcome.reason}", None)) is not None:
                check(call, outcome)
            return
        assert not isinstance(outcome, BaseException), f"{call} failed with {outcome!r}"
        self.outcomes[f"{call.kind} ok"] += 1
        getattr(self, f"_{call.kind}")(call, outcome)

    def check_promises(self) -> None:
        """Whatever was promised is still true."""
        for code, call in self._granted.items():
            assert self._row(code).user_id == call.user_id, f"{call}: now it is {self._row(code)}"
        for code in self._bought:
            self._check_bought(code)
        for code, state in self._over.items():
            assert self.state(code) == state, f"{self._row(code)} was told to be {state}"

    def check_accounts(self) -> None:
        """Whatever was done was told to who asked for it: nothing came of a call that was refused.

        Only a client who left, whose worker crashed or who was told that nobody knows may have got more.
        """
        for code, checkout in self.database.checkouts.items():
            call = self.tried[code]
            self._check_hold(call, checkout)
            assert call.may_have(code) or self._is_over(call, checkout), (
                f"{call} was told {text(call.answers[0])}: {checkout}"
            )
            if checkout.state == "purchased":
                worker = self._workers[checkout.batch]
                buyers = [call for call in self._of("purchase", code) if call.worker == worker]
                told = self._bought.get(code) in buyers or any(call.unheard for call in buyers)
                assert told, f"{checkout} was told to nobody who asked {worker}"
            if checkout.state == "released":
                told = any(
                    call.unheard or text(call.answers[0]) == "ok" for call in self._of("release", code)
                )
                assert told, f"{checkout} was told to nobody"

    def _is_over(self, call: Call, checkout: Checkout) -> bool:
        """Whether this hold, of which nobody was told, had come and gone before its call was answered."""
        versions = self.history.of(checkout.sale_id, checkout.item_id)
        came_at = next(version.at for version in versions if version.item.code == checkout.code)
        over_at = max(came_at, checkout.expires_at)
        return checkout.state == "expired" and over_at <= call.answered_at

    def _of(self, kind: str, code: UUID) -> list[Call]:
        return [call for call in self.calls if (call.kind, call.code) == (kind, code)]

    def state(self, code: UUID | None, *, confirmed: bool = False) -> str | None:
        """What a receipt would say now, of what no failover can undo or of all; ``None`` for no receipt."""
        tables = self.database.confirmed if confirmed else self.database.committed
        checkout = tables.checkouts.get(code) if code else None
        if checkout is None:
            return None
        over = checkout.state == "held" and checkout.expires_at <= self.database.clock()
        return "expired" if over else checkout.state

    def sold(self, sale_id: int) -> int:
        """How many items of a sale are sold."""
        items = (item for item in self.database.items.values() if item.sale_id == sale_id)
        return sum(item.state == "sold" for item in items)

    # --- what was granted

    def _checkout(self, call: Call, code: UUID) -> None:
        if call.key is not None and self._is_repeated(call, code):
            return
        self._check_hold(call, self._row(code))
        self._check_new(call, code)
        self._granted[code] = call

    def _is_repeated(self, call: Call, code: UUID) -> bool:
        """Check what a call with a key was told: whether another call with the same key was granted it."""
        assert call.user_id is not None
        assert call.key is not None
        checkout = self._row(code)
        used = self.database.keys.get((checkout.sale_id, call.user_id, call.key))
        assert used == (call.item_id, code), f"{call} was told {short(code)}, the key was used for {used}"
        first = self.tried[code]
        if first is call:
            return code in self._granted
        assert self._asked(first) == self._asked(call), f"{call} was told the code of {first}"
        self._granted.setdefault(code, first)
        if code not in self.codes:
            self.codes.append(code)
        return True

    def _asked(self, call: Call) -> tuple[object, ...]:
        return call.user_id, call.item_id, call.key

    def _check_not_granted_before(self, call: Call, refusal: Refusal) -> None:
        """Whoever was granted something and asks for it again, in the same sale, is not refused."""
        for code, first in self._granted.items():
            sale = self.database.sales[self._row(code).sale_id]
            same = sale.starts_at < call.started_at - 0.1 and call.answered_at + 0.1 < sale.ends_at
            asked_again = self._asked(first) == self._asked(call) and first.answered_at < call.started_at
            assert not (same and asked_again), f"{call}: {first} was granted {short(code)}"

    def _check_hold(self, call: Call, checkout: Checkout) -> None:
        assert checkout.user_id == call.user_id, f"{call} was told the code of another: {checkout}"
        assert call.item_id in (None, checkout.item_id), f"{call} was given {checkout}"
        assert checkout.created_at >= call.started_at, f"{call} was told an old code: {checkout}"

    def _check_new(self, call: Call, code: UUID) -> None:
        assert self.tried[code] is call, f"{call} was told the code of {self.tried[code]}"
        assert code not in {**self._granted, **self.unknown}, f"{call} was told of {short(code)} again"
        self.codes.append(code)

    def _purchase(self, call: Call, answer: UUID | None) -> None:
        assert call.code is not None
        assert answer in (None, call.code), f"{call} was told of {answer}"
        self._check_bought(call.code)
        assert call.code not in self._bought, f"{call}: it was bought before"
        self._bought[call.code] = call

    def _check_bought(self, code: UUID) -> None:
        checkout = self._row(code)
        item = self.database.items[SaleItem.id_of(checkout.sale_id, checkout.item_id)]
        assert checkout.state == "purchased", f"{checkout} was told to be purchased"
        assert (item.state, item.code) == ("sold", code), f"{item} was told to be sold by {checkout}"
        assert item.user_id == checkout.user_id, f"{item} was told to be sold by {checkout}"

    def _release(self, call: Call, answer: UUID | None) -> None:
        assert self.state(call.code) == "released", f"{call}: it is {self.state(call.code)}"

    def _receipt(self, call: Call, receipt: Any) -> None:
        assert call.code is not None
        assert receipt[:4] == self._row(call.code)[:4], f"{call} was told {receipt}"
        states = {call.before, self.state(call.code)}
        if call.before is None:
            states.add("held")  # for a moment
        if call.before in (None, "held") and "purchased" in states:
            states.add("expired")  # the purchase began before the end of the hold, and the reading after it
        assert receipt.state in states, f"{call} was told {receipt.state} of {states}"
        if receipt.state != "held":
            self._over[call.code] = receipt.state

    def _status(self, call: Call, status: Any) -> None:
        counts = status.sold, status.held, status.available
        assert min(counts) >= 0, f"{call} was told {counts}"
        assert sum(counts) == status.sale.items, f"{call} was told {counts} of {status.sale.items}"
        sold = self.sold(status.sale.id) if len(self.history.servers) == 1 else status.sale.items
        before = call.before[status.sale.id] if self._fair else 0
        assert before <= status.sold <= sold, f"{call} was told {status.sold} sold of {before} to {sold}"

    def _row(self, code: UUID) -> Checkout:
        assert code in self.database.checkouts, f"{short(code)} is no row"
        return self.database.checkouts[code]

    # --- what was refused

    def _database_unavailable(self, call: Call, refusal: Refusal) -> None:
        assert not self._kind, f"{call}: the database was available"

    def _outcome_unknown(self, call: Call, refusal: Refusal) -> None:
        assert not self._kind, f"{call}: the database was available"
        code = refusal.members.get("code")
        if code is not None and call.kind == "checkout":
            first = self.tried[UUID(code)]
            if call.key is None:
                self._check_new(call, UUID(code))
            elif UUID(code) not in self.codes:
                self.codes.append(UUID(code))
            assert self._asked(first) == self._asked(call), f"{call} was told the code of {first}"
            self.unknown[UUID(code)] = first
        else:
            assert code in (None, str(call.code)), f"{call} was told of {code}"

    def _idempotency_key_reused(self, call: Call, refusal: Refusal) -> None:
        assert call.user_id is not None
        assert call.key is not None
        uses = [self.database.keys.get((sale_id, call.user_id, call.key)) for sale_id in self.database.sales]
        assert any(use is not None and use[0] != call.item_id for use in uses), f"{call}: it was not"

    def _overloaded(self, call: Call, refusal: Refusal) -> None:
        assert self._short_queues or not self._fair, f"{call}: there was not much to do"

    def _no_sale(self, call: Call, refusal: Refusal) -> None:
        # There always is one; but a worker may not get to hear of the next in time.
        assert call.sale_id not in (None, *self.database.sales) or not self._fair, f"{call}: there is one"

    def _item_sold(self, call: Call, refusal: Refusal) -> None:
        assert self._was_known(call, "sold"), f"{call}: it was not known to be sold"

    def _sold_out(self, call: Call, refusal: Refusal) -> None:
        assert any(all(item.state == "sold" for item in items) for _, items in self._known(call)), (
            f"{call}: not all were known to be sold"
        )

    def _item_held(self, call: Call, refusal: Refusal) -> None:
        assert self._was_known(call, "held"), f"{call}: it was not known to be held"

    def _all_held(self, call: Call, refusal: Refusal) -> None:
        assert any(all(item.state != "available" for item in items) for _, items in self._known(call)), (
            f"{call}: some were known to be free"
        )

    def _user_limit(self, call: Call, refusal: Refusal) -> None:
        assert any(
            sum(item.user_id == call.user_id for item in items) >= sale.user_limit
            for sale, items in self._known(call)
        ), f"{call}: they were not known to have so many"

    def _was_known(self, call: Call, state: str) -> bool:
        """Whether the item that was asked for was known to be in this state."""
        known = (item for _, items in self._known(call) for item in items)
        return any((item.item_id, item.state) == (call.item_id, state) for item in known)

    def _known(self, call: Call) -> Iterator[tuple[Sale, list[Item]]]:
        """What its worker knew of a sale at some moment between question and answer.

        Only what was committed and, where nothing fails, not too long ago; a hold that is over is no hold.
        """
        for memory in self.memories.of(call.worker):
            for known in memory.known(call.started_at, call.answered_at):
                for server in self.history.servers:  # it may have been any
                    items = [
                        self._item(memory.sale.id, item_id, known, server)
                        for item_id in range(memory.sale.items)
                    ]
                    if None not in items:
                        yield self.database.sales[memory.sale.id], cast("list[Item]", items)

    def _item(self, sale_id: int, item_id: int, known: Known, server: int) -> Item | None:
        """An item as a worker knew it on a server; ``None`` where it should have known better."""
        version, versions = known.versions[item_id], self.history.of(sale_id, item_id, server)
        if version >= len(versions):
            return None
        item, newer = versions[version].item, versions[version + 1 : version + 2]
        if self._fair and newer and newer[0].at < known.since - STALE_AFTER:
            return None
        if self._fair and item.state == "held" and item.held_until is not None:
            over_at = item.held_until + EXPIRY_MARGIN + CLOCK_ERROR
            if over_at < known.since:
                return Item(sale_id, item_id)
        return item

    def _unknown_code(self, call: Call, refusal: Refusal) -> None:
        # One that nobody knew whether it was granted may still come to be.
        assert call.before is None, f"{call}: it was {call.before}"

    def _checkout_expired(self, call: Call, refusal: Refusal) -> None:
        assert self.state(call.code) in ("expired", "released"), f"{call}: it is {self.state(call.code)}"

    def _already_purchased(self, call: Call, refusal: Refusal) -> None:
        assert self.state(call.code) == "purchased", f"{call}: it is {self.state(call.code)}"
        receipt = refusal.members["receipt"]
        assert (receipt.code, receipt.state) == (call.code, "purchased"), f"{call} was told {receipt}"
