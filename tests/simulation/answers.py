"""What clients are told, and whether it is true."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from sales.models import SaleItem
from sales.refusals import Refusal
from tests.simulation.calls import REASONS, Call, short, text
from tests.simulation.checks import History
from tests.simulation.memory import Memories
from tests.simulation.promises import Promises, Taken
from tests.simulation.refusals import Refusals
from tests.simulation.rows import Checkout


class Answers:
    """All calls, and the check of every answer at the moment it is given.

    ``workers``: from whom each batch of purchases came. ``fair``: nothing ever fails; ``kind``: nothing that
    cannot be made up for; ``steady``: nothing, though it may take long. ``short_queues``: a queue may be
    full.
    """

    def __init__(
        self,
        history: History,
        workers: Mapping[int, str],
        *,
        fair: bool,
        kind: bool,
        steady: bool,
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
        self._steady = steady
        self._short_queues = short_queues
        self.tried: dict[UUID, Call] = {}
        """The checkouts that these codes were made for."""
        self.unknown: dict[UUID, Call] = {}
        """The codes of checkouts of which nobody knew whether they were granted."""
        self._workers = workers
        self._granted: dict[UUID, Call] = {}
        self._bought: dict[UUID, Call] = {}
        self._promises = Promises(self.database, self.state)
        self._done: dict[str, Callable[[Call, Any], None]] = {
            "checkout": self._checkout,
            "purchase": self._purchase,
            "release": self._release,
            "receipt": self._receipt,
            "status": self._status,
        }
        """How the answer of each kind of call is checked where it was not refused."""
        self._refused: dict[str, Callable[[Call, Refusal], None]] = {
            **Refusals(history, self.memories, fair=fair).checks,
            "database_unavailable": self._database_unavailable,
            "outcome_unknown": self._outcome_unknown,
            "idempotency_key_reused": self._idempotency_key_reused,
            "overloaded": self._overloaded,
            "unknown_code": self._unknown_code,
            "checkout_expired": self._checkout_expired,
            "already_purchased": self._already_purchased,
        }
        """How it is where it was, by the reason."""

    def check(self, call: Call, outcome: Any) -> None:
        """Check an answer."""
        call.answers.append(outcome)
        call.answered_at = self.database.clock()
        assert len(call.answers) == 1, f"{call} has several answers: {', '.join(map(text, call.answers))}"
        if isinstance(outcome, Refusal):
            self.outcomes[f"{call.kind} {outcome.reason.name}"] += 1
            assert outcome.reason.name in REASONS[call.kind], f"{call} was refused with {outcome.reason.name}"
            if outcome.reason.status == 409 and call.key is not None:
                self._check_not_granted_before(call, outcome)
            if (check := self._refused.get(outcome.reason.name)) is not None:
                check(call, outcome)
            return
        assert not isinstance(outcome, BaseException), f"{call} failed with {outcome!r}"
        self.outcomes[f"{call.kind} ok"] += 1
        self._done[call.kind](call, outcome)

    def check_promises(self) -> None:
        """Whatever was promised is still true."""
        for code, call in self._granted.items():
            assert self._row(code).user_id == call.user_id, f"{call}: now it is {self._row(code)}"
        for code in self._bought:
            self._check_bought(code)
        self._promises.check()

    def check_accounts(self) -> None:
        """Whatever was done was told to who asked for it: nothing came of a call that was refused.

        Only a client who left, whose worker crashed or who was told that nobody knows may have got more.
        """
        for code in self.database.checkouts:
            call, checkout = self.tried[code], self._row(code)
            self._check_hold(call, checkout)
            assert call.may_have(code) or self._is_over(call, checkout), (
                f"{call} was told {text(call.answers[0])}: {checkout}"
            )
            if checkout.state == "purchased":
                worker = self._buyer(checkout)
                buyers = [call for call in self._of("purchase", code) if call.worker == worker]
                told = self._bought.get(code) in buyers or any(call.unheard for call in buyers)
                assert told, f"{checkout} was told to nobody who asked {worker}"
            if checkout.state == "released":
                told = any(
                    call.unheard or text(call.answers[0]) == "ok" for call in self._of("release", code)
                )
                assert told, f"{checkout} was told to nobody"

    def _buyer(self, checkout: Checkout) -> str:
        """The worker whose batch has sold the item of a checkout."""
        (worker,) = (
            self._workers[batch]
            for (sale_id, _, batch), item_ids in self.database.committed.changes.items()
            if sale_id == checkout.sale_id and checkout.item_id in item_ids and batch in self._workers
        )
        return worker

    def _is_over(self, call: Call, checkout: Checkout) -> bool:
        """Whether this hold, of which nobody was told, had come and gone before its call was answered."""
        over_at = max(self._came_at(checkout), checkout.expires_at)
        return checkout.state == "expired" and over_at <= call.answered_at

    def _came_at(self, checkout: Checkout) -> float:
        """When a hold was there for all."""
        versions = self.history.of(checkout.sale_id, checkout.item_id)
        return next(version.at for version in versions if version.item.code == checkout.code)

    def _of(self, kind: str, code: UUID) -> list[Call]:
        return [call for call in self.calls if (call.kind, call.code) == (kind, code)]

    def state(self, code: UUID | None, *, confirmed: bool = False) -> str | None:
        """What became of a code, by what no failover can undo or by all; ``None`` for no such code.

        A hold whose time is over is held until it is swept: somebody may just be buying it.
        """
        tables = self.database.confirmed if confirmed else self.database.committed
        checkout = tables.told(code) if code else None
        return checkout.state if checkout is not None else None

    def sold(self, sale_id: int) -> int:
        """How many items of a sale are sold."""
        return self.taken(sale_id).sold

    def taken(self, sale_id: int) -> Taken:
        """What is sold of a sale, and held."""
        items = [item for item in self.database.items.values() if item.sale_id == sale_id]
        held = [item.code for item in items if item.state == "held" and item.code is not None]
        return Taken(sum(item.state == "sold" for item in items), held)

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
        self._promises.use(checkout.sale_id, call.user_id, call.key)
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
        """Whoever was granted something and asks for it again, in the same sale, is not refused.

        Whether they heard of it or not.
        """
        for (sale_id, *who), (item_id, code) in self.database.keys.items():
            sale = self.database.sales[sale_id]
            same = sale.starts_at < call.started_at - 0.1 and call.answered_at + 0.1 < sale.ends_at
            if same and (*who, item_id) == (call.user_id, call.key, call.item_id):
                assert self._came_at(self._row(code)) > call.started_at, f"{call}: {short(code)} was granted"

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
        assert call.code is not None
        assert self.state(call.code) == "released", f"{call}: it is {self.state(call.code)}"
        self._promises.state(call, call.code, "released")

    def _receipt(self, call: Call, receipt: Any) -> None:
        assert call.code is not None
        assert receipt[:4] == self._row(call.code)[:4], f"{call} was told {receipt}"
        states = {call.before, self.state(call.code)}
        if call.before is None:
            states.add("held")  # for a moment
        assert receipt.state in states, f"{call} was told {receipt.state} of {states}"
        if receipt.state != "held":
            self._promises.state(call, call.code, receipt.state)

    def _status(self, call: Call, status: Any) -> None:
        counts = status.sold, status.held, status.available
        assert min(counts) >= 0, f"{call} was told {counts}"
        assert sum(counts) == status.sale.items, f"{call} was told {counts} of {status.sale.items}"
        sold = self.sold(status.sale.id) if len(self.history.servers) == 1 else status.sale.items
        before = call.before[status.sale.id].sold if self._fair else 0
        assert before <= status.sold <= sold, f"{call} was told {status.sold} sold of {before} to {sold}"
        if self._steady and not self._short_queues:
            self._promises.counts(call, status.sale.id, status.sold + status.held)

    def _row(self, code: UUID) -> Checkout:
        checkout = self.database.committed.told(code)
        assert checkout is not None, f"{short(code)} is no row"
        return checkout

    # --- what was refused

    def _database_unavailable(self, call: Call, refusal: Refusal) -> None:
        assert not self._kind, f"{call}: the database was available"

    def _outcome_unknown(self, call: Call, refusal: Refusal) -> None:
        assert not self._kind, f"{call}: the database was available"
        code = refusal.reason.members.get("code")
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
        ids = [(sale_id, call.user_id, call.key) for sale_id in self.database.sales]
        uses = {id_: self.database.keys[id_] for id_ in ids if id_ in self.database.keys}
        others = [id_ for id_, (item_id, _) in uses.items() if item_id != call.item_id]
        assert others, f"{call}: it was not"
        if len(others) == 1:
            self._promises.use(*others[0])

    def _overloaded(self, call: Call, refusal: Refusal) -> None:
        assert self._short_queues or not self._fair, f"{call}: there was not much to do"

    def _unknown_code(self, call: Call, refusal: Refusal) -> None:
        assert call.before is None, f"{call}: it was {call.before}"
        assert call.code is not None
        if call.code not in self.unknown:  # one of which nobody knows whether it was granted may come to be
            self._promises.unknown(call, call.code)

    def _checkout_expired(self, call: Call, refusal: Refusal) -> None:
        assert call.code is not None
        state = refusal.reason.members["state"]
        assert state in ("expired", "released"), f"{call} was told that it is {state}"
        assert self.state(call.code) == state, f"{call}: it is {self.state(call.code)}"
        self._promises.state(call, call.code, state)

    def _already_purchased(self, call: Call, refusal: Refusal) -> None:
        assert self.state(call.code) == "purchased", f"{call}: it is {self.state(call.code)}"
        receipt = refusal.reason.members["receipt"]
        assert (receipt.code, receipt.state) == (call.code, "purchased"), f"{call} was told {receipt}"
        self._promises.state(call, receipt.code, "purchased")
