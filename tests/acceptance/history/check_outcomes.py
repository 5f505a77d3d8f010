"""What clients were told was done is a row, and every row was asked for by somebody."""

from collections import defaultdict
from collections.abc import Iterator

from tests.acceptance.history.evidence import Evidence, Violation
from tests.acceptance.history.operations import CODE, Call, Fate, Operation
from tests.acceptance.history.rows import Checkout

LOST = "lost"
"""The kind of violation that says that something acknowledged is not there."""


def acknowledged_holds_are_rows(evidence: Evidence) -> Iterator[Violation]:
    """Each has a row of its own, of the same user and item, made while the client waited."""
    given: dict[str, Operation] = {}
    for operation in evidence.operations:
        if operation.call is not Call.CHECKOUT or operation.fate is not Fate.DONE:
            continue
        code = operation.code or ""
        row = evidence.checkouts.get(code)
        rows = () if row is None else (row,)
        wrong: tuple[str, str] | None = None
        if not CODE.fullmatch(code):
            wrong = "code", f"{code!r} is no code"
        elif row is None:
            wrong = LOST, f"the acknowledged hold {code} is no row"
        elif (row.user_id, row.item_id) != (operation.user_id, _either(operation.item_id, row.item_id)):
            wrong = "wrong hold", "a hold is of another user or item"
        elif not _within(evidence, row.created_at, operation):
            wrong = "time", "a hold was not made while it was waited for"
        if wrong:
            yield Violation(kind=wrong[0], text=wrong[1], operations=(operation,), rows=rows)
        if code in given:
            text = f"the code {code} was given twice"
            yield Violation(kind="code", text=text, operations=(given[code], operation))
        given[code] = operation


def acknowledged_purchases_are_rows(evidence: Evidence) -> Iterator[Violation]:
    """Each is a purchased checkout, bought while the client waited, and told to one caller only."""
    bought: dict[str | None, Operation] = {}
    for operation in evidence.operations:
        if operation.call is not Call.PURCHASE or operation.fate is not Fate.DONE:
            continue
        row = evidence.checkouts.get(operation.code or "")
        shown = tuple(evidence.about(operation.code or ""))
        if row is None or row.purchased_at is None:
            text = f"the acknowledged purchase of {operation.code} is not in the rows"
            yield Violation(kind=LOST, text=text, operations=shown, rows=() if row is None else (row,))
        elif operation.code in bought:
            # The second of them must hear that it was purchased before: who ships by the answer ships twice.
            text = f"{operation.code} was purchased twice"
            yield Violation(kind="purchased twice", text=text, operations=shown, rows=(row,))
        elif not _within(evidence, row.purchased_at, operation):
            text = f"{operation.code} was not purchased while it was waited for"
            yield Violation(kind="time", text=text, operations=shown, rows=(row,))
        bought.setdefault(operation.code, operation)


def acknowledged_releases_are_rows(evidence: Evidence) -> Iterator[Violation]:
    """What was given back stays given back."""
    for operation in evidence.operations:
        if operation.call is Call.RELEASE and operation.fate is Fate.DONE:
            row = evidence.checkouts.get(operation.code or "")
            if row is None or row.state != "released":
                yield Violation(
                    kind=LOST,
                    text=f"the acknowledged release of {operation.code} is not in the rows",
                    operations=tuple(evidence.about(operation.code or "")),
                    rows=() if row is None else (row,),
                )


def every_hold_was_asked_for(evidence: Evidence) -> Iterator[Violation]:
    """A hold that nobody was told of is that of a request without an answer, and each has one at most."""
    told = {
        operation.code
        for operation in evidence.operations
        if operation.call is Call.CHECKOUT and operation.fate is Fate.DONE
    }
    left: dict[int, list[Checkout]] = defaultdict(list)
    for row in evidence.rows.checkouts:
        if row.code not in told and evidence.in_run(row.created_at):
            left[row.user_id].append(row)
    for user_id, rows in left.items():
        unknown = [o for o in evidence.attempts.get(user_id, ()) if o.fate is Fate.UNKNOWN]
        for row in _unmatched(evidence, rows, unknown):
            tries = [o for o in evidence.attempts.get(user_id, ()) if o.item_id in (None, row.item_id)]
            yield Violation(
                kind="nobody's hold",
                text=f"no request can have made this hold of user {user_id}",
                operations=tuple(sorted(tries, key=lambda o: _distance(evidence, row, o))[:5]),
                rows=(row,),
            )


def every_end_was_asked_for(evidence: Evidence) -> Iterator[Violation]:
    """What is purchased or released was so by a request that was not refused."""
    for row in evidence.rows.checkouts:
        if row.purchased_at is not None and evidence.in_run(row.purchased_at):
            moment, call = row.purchased_at, Call.PURCHASE
        elif row.state == "released" and evidence.in_run(row.created_at):
            moment, call = None, Call.RELEASE
        else:
            continue
        if not any(_can_have_done(evidence, moment, o) for o in evidence.about(row.code, call)):
            yield Violation(
                kind=f"nobody's {call}",
                text=f"no request can have {row.state} {row.code}",
                operations=tuple(evidence.about(row.code)),
                rows=(row,),
            )


def _either(wanted: int | None, given: int) -> int:
    return given if wanted is None else wanted


def _within(evidence: Evidence, moment: float, operation: Operation) -> bool:
    clock = evidence.clock
    return operation.started_at <= clock.latest(moment) and clock.earliest(moment) <= operation.ended_at


def _can_have_done(evidence: Evidence, moment: float | None, operation: Operation) -> bool:
    if operation.fate is Fate.DONE:
        return moment is None or _within(evidence, moment, operation)
    # What got no answer may still be done long after its client has left.
    return operation.fate is Fate.UNKNOWN and (
        moment is None or operation.started_at <= evidence.clock.latest(moment)
    )


def _can_have_made(evidence: Evidence, row: Checkout, operation: Operation) -> bool:
    return (
        operation.item_id in (None, row.item_id)
        and operation.code in (None, row.code)
        and operation.started_at <= evidence.clock.latest(row.created_at)
    )


def _distance(evidence: Evidence, row: Checkout, operation: Operation) -> float:
    return abs(operation.started_at - evidence.clock.latest(row.created_at))


def _unmatched(evidence: Evidence, rows: list[Checkout], operations: list[Operation]) -> list[Checkout]:
    """The rows that are left when as many as possible have an operation of their own (Kuhn's algorithm)."""
    maker: dict[int, Checkout] = {}

    def match(row: Checkout, seen: set[int]) -> bool:
        for number, operation in enumerate(operations):
            if number in seen or not _can_have_made(evidence, row, operation):
                continue
            seen.add(number)
            if number not in maker or match(maker[number], seen):
                maker[number] = row
                return True
        return False

    return [row for row in rows if not match(row, set())]


CHECKS = (
    acknowledged_holds_are_rows,
    acknowledged_purchases_are_rows,
    acknowledged_releases_are_rows,
    every_hold_was_asked_for,
    every_end_was_asked_for,
)
