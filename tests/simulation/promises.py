"""What clients were told for good, and whether it is still true.

An answer may be true by the rows at its moment and still be contradicted: what was in flight then began
earlier, by a clock that said something else.
"""

from collections.abc import Callable
from typing import NamedTuple
from uuid import UUID

from tests.simulation.calls import Call, short
from tests.simulation.database import Database


class Told(NamedTuple):
    """Something that a call was told."""

    call: Call
    what: str


class Taken(NamedTuple):
    """How many items of a sale are sold, and what codes hold others, be their time over or not."""

    sold: int
    held: list[UUID]


class Counted(NamedTuple):
    """How many items a call was told are sold or held, and what was so when it was asked."""

    call: Call
    told: int
    taken: Taken


class Promises:
    """Takes note of what is told for good."""

    def __init__(self, database: Database, state: Callable[[UUID], str | None]) -> None:
        self._database = database
        self._state = state
        self._states: dict[UUID, Told] = {}
        self._uses: dict[tuple[int, int, str], tuple[int | None, UUID]] = {}
        self._counts: list[Counted] = []
        self._unknown: dict[UUID, Call] = {}

    def state(self, call: Call, code: UUID, state: str) -> None:
        """What became of a checkout was told; nothing comes of it any more."""
        first, told = self._states.setdefault(code, Told(call, state))
        assert told == state, f"{call} was told that it is {state}, {first} that it is {told}"

    def use(self, sale_id: int, user_id: int, key: str) -> None:
        """What a key was used for was told, or that it was used: nothing else comes of it."""
        self._uses.setdefault((sale_id, user_id, key), self._database.keys[sale_id, user_id, key])

    def counts(self, call: Call, sale_id: int, told: int) -> None:
        """How many items are sold or held was told."""
        self._counts.append(Counted(call, told, call.before[sale_id]))

    def unknown(self, call: Call, code: UUID) -> None:
        """Nobody has this code, somebody was told."""
        self._unknown.setdefault(code, call)

    def check(self) -> None:
        """All of it is still true."""
        for code, (call, state) in self._states.items():
            now = self._state(code)
            assert now == state, f"{call} was told that it is {state}, now it is {now}"
        for id_, use in self._uses.items():
            assert self._database.keys.get(id_) == use, f"key {id_} was told to be used for {use}"
        for call, told, (sold, held) in self._counts:
            bought = [code for code in held if self._state(code) == "purchased"]
            assert told >= sold + len(bought), (
                f"{call} was told that {told} items are taken; {sold} were sold, and then "
                f"{', '.join(map(short, bought))} bought what they held"
            )
        for code, call in self._unknown.items():
            row = self._database.checkouts.get(code)
            assert row is None, f"{call} was told that there is no {row}"
