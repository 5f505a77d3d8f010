"""Runs made by hand, for the judge to judge."""

from dataclasses import replace
from typing import Any

from tests.acceptance.history.checker import Verdict, judge
from tests.acceptance.history.evidence import LAG
from tests.acceptance.history.operations import Call, Operation
from tests.acceptance.history.rows import Allowance, Checkout, Clock, Item, Rows, Sale

EPOCH = 1000.0
"""The database's time when the monotonic clock of these stories is 0."""


SALE = Sale(
    id=1,
    starts_at=EPOCH - 100,
    ends_at=EPOCH + 1000,
    items=3,
    user_limit=2,
    checkout_ttl=10,
    rows=3,
    numbers=3,
    first=0,
    last=2,
)


class Story:
    """A run made by hand: what it tells is consistent, until a test spoils it.

    Times are seconds; each request takes from 0.1 before to 0.1 after what it does. The rows are read at 100.
    """

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.checkouts: dict[str, Checkout] = {}
        self.sales = [SALE]
        self.items: dict[int, dict[str, Any]] = {}
        self.taken: dict[int, int] = {}

    def ask(self, call: Call, at: float, status: int, reason: str = "", **facts: Any) -> None:
        """A request and its answer."""
        retry_after = "1" if status == 503 else None
        times = {"started_at": at - 0.1, "ended_at": at + 0.1}
        facts = times | {"client": 1, "retry_after": retry_after} | facts
        self.operations.append(Operation(call=call, status=status, reason=reason, **facts))

    def hold(self, user: int, item: int, at: float, *, told: bool = True) -> str:
        """A hold, with an answer or without."""
        code = f"{len(self.checkouts):08x}-0000-8000-8000-000000000000"
        self.checkouts[code] = Checkout(
            code=code,
            sale_id=1,
            item_id=item,
            user_id=user,
            created_at=EPOCH + at,
            expires_at=EPOCH + at + 10,
            purchased_at=None,
            state="held" if at > 90 else "expired",
        )
        facts: dict[str, Any] = {"user_id": user, "item_id": item}
        if told:
            self.ask(Call.CHECKOUT, at, 200, code=code, **facts)
        else:
            self.ask(Call.CHECKOUT, at, 0, "left", **facts)
        return code

    def buy(self, code: str, at: float, status: int = 200) -> str:
        """A purchase that was done."""
        self.change(code, state="purchased", purchased_at=EPOCH + at)
        self.ask(Call.PURCHASE, at, status, code=code)
        return code

    def give_back(self, code: str, at: float, status: int = 204) -> str:
        """A release that was done."""
        self.change(code, state="released")
        self.ask(Call.RELEASE, at, status, code=code)
        return code

    def change(self, code: str, **fields: Any) -> None:
        """Change a row."""
        self.checkouts[code] = replace(self.checkouts[code], **fields)

    def receipt(self, code: str, at: float, **fields: Any) -> None:
        """Ask for a receipt, which says what the row says, or something else."""
        self.ask(Call.RECEIPT, at, 200, code=code, answer=self.document(code) | fields)

    def document(self, code: str) -> dict[str, Any]:
        """The receipt of a checkout."""
        row = self.checkouts[code]
        times = {name: getattr(row, name) for name in ("created_at", "expires_at", "purchased_at")}
        return {
            "code": code,
            "sale_id": 1,
            "item_id": row.item_id,
            "user_id": row.user_id,
            "state": row.state,
        } | {name: None if time is None else iso(time) for name, time in times.items()}

    def judge(self, lag: float = LAG) -> Verdict:
        """What the judge says."""
        items: dict[int, Item] = {}
        taken = dict.fromkeys((row.user_id for row in self.checkouts.values()), 0)
        for row in self.checkouts.values():
            version = items[row.item_id].version if row.item_id in items else 0
            item = Item(
                sale_id=1,
                item_id=row.item_id,
                state="available",
                version=version + 2,
                user_id=None,
                code=None,
                held_until=None,
                purchased_at=None,
            )
            if row.state in ("held", "purchased"):
                taken[row.user_id] += 1
                item = replace(
                    item,
                    state="held" if row.state == "held" else "sold",
                    version=version + 1 + (row.state == "purchased"),
                    user_id=row.user_id,
                    code=row.code,
                    held_until=row.expires_at,
                    purchased_at=row.purchased_at,
                )
            items[row.item_id] = item
        rows = Rows(
            read_at=EPOCH + 100,
            sales=self.sales,
            items=[replace(item, **self.items.get(number, {})) for number, item in items.items()],
            checkouts=list(self.checkouts.values()),
            allowances=[
                Allowance(sale_id=1, user_id=user, taken=count, user_limit=2)
                for user, count in (taken | self.taken).items()
            ],
        )
        return judge(self.operations, rows, Clock(low=EPOCH, high=EPOCH), lag=lag)


def iso(time: float) -> str:
    return f"1970-01-01T00:{int(time) // 60:02}:{time % 60:09.6f}Z"


def kinds(story: Story, lag: float = LAG) -> list[str]:
    return sorted({violation.kind for violation in story.judge(lag).violations})
