"""Deliberate faults in what is done where a connection, or the server itself, was lost."""

from collections.abc import Awaitable, Callable, Collection
from datetime import datetime
from typing import TypeVar
from unittest.mock import patch
from uuid import UUID

import sales.memory
from sales import limits, statements
from sales.connections import Connection, Connections, Lost
from sales.inventory import ItemRow, SaleFacts
from sales.memory import Memory
from sales.records import Changed
from sales.refusals import DATABASE_UNAVAILABLE, DatabaseUnavailable
from sales.storage import Storage, _fetched, _ids_and_codes, _of_batch
from tests.simulation.broken import Fault
from tests.simulation.rows import Item
from tests.simulation.server import Server
from tests.simulation.session import Session
from tests.simulation.transaction import Transaction
from tests.simulation.weather import BAD, ONE_LOSS, SLOW_END, Weather

R = TypeVar("R")


def _true(*arguments: object) -> bool:
    return True


def _false(*arguments: object) -> bool:
    return False


async def _look_only(storage: Storage, sale_id: int, codes: Collection[UUID]) -> Changed:
    parameters = _of_batch(sale_id, _ids_and_codes(codes))
    try:
        async with storage._connections.lend() as connection:
            server = storage._connections.server(connection)
            rows = await _fetched(connection, statements.PURCHASE, parameters)
    except Lost as lost:
        async with storage._connections.second_try(lost) as connection:
            server = storage._connections.server(connection)
            rows = await _fetched(connection, statements.BOUGHT, parameters)
        if not rows:
            raise DatabaseUnavailable from lost
    items = [ItemRow(*row[1:6]) for row in rows]
    return Changed(server, sale_id, parameters["batch"], {row[0] for row in rows}, items)


async def _nothing_held(transaction: Transaction, *arguments: object) -> list[Item]:
    return []


_end_session = Server.end_session


def _told_only(server: Server, pid: int, began_at: datetime) -> bool:
    _end_session(server, pid, began_at)
    return False


async def _once(
    connections: Connections, look: Callable[[Connection], Awaitable[R]], *, bulk: bool = False
) -> R:
    async with connections.lend(bulk=bulk) as connection:
        return await look(connection)


def _hear_nothing(session: object, notice: object) -> None:
    pass


def _learn_from_any(memory: Memory, changed: Changed) -> None:
    if (inventory := memory.inventories.get(changed.sale_id)) is not None:
        inventory.learn(changed.rows)


_load = Memory._load


async def _load_besides(memory: Memory, sale: SaleFacts) -> None:
    known = memory.inventories.get(sale.id)
    await _load(memory, sale)
    if known is not None:
        mark, rows = await memory._storage.load(sale.id)
        known.learn(rows)
        memory.inventories[sale.id], memory._marks[sale.id] = known, mark


async def _load_until_the_last_piece(memory: Memory, sale: SaleFacts) -> None:
    mark, rows = await memory._storage.load(sale.id)
    inventory = sales.memory.Inventory(sale, rows)
    while len(rows) == limits.LOAD_CHUNK:
        mark, rows = await memory._storage.load(sale.id, rows[-1].item_id + 1)
        inventory.learn(rows)
    memory.inventories[sale.id], memory._marks[sale.id] = inventory, mark


FAULTS_AFTER_LOSSES: dict[str, tuple[list[Weather], Fault]] = {
    "what was lost counts as not done": (BAD, lambda: patch("sales.connections._is_lost", _false)),
    "what was lost is not looked for": (BAD, lambda: patch.object(Transaction, "by_code", _nothing_held)),
    "what was lost is looked for before it has ended": (
        [SLOW_END],
        lambda: patch.object(Server, "end_session", _told_only),
    ),
    "what was lost is not done again": ([ONE_LOSS], lambda: patch.object(Storage, "_purchase", _look_only)),
    "what was only read is not read again": ([ONE_LOSS], lambda: patch.object(Connections, "read", _once)),
    "what others bought counts as bought": (BAD, lambda: patch.object(Transaction, "is_of_batch", _true)),
    "what is lost twice counts as not done": (
        BAD,
        lambda: patch("sales.connections.OutcomeUnknown", DatabaseUnavailable),
    ),
    "what is cut off counts as not done": (
        BAD,
        lambda: patch("sales.refusals.OUTCOME_UNKNOWN", DATABASE_UNAVAILABLE),
    ),
}
"""What is wrong where a connection was lost, how to make it so, and the weathers in which it is met."""

FAULTS_AFTER_FAILOVERS: dict[str, Fault] = {
    "what one server has is told": lambda: patch.object(Session, "confirms", _false),
    "nobody hears that a commit did not wait": lambda: patch("sales.connections._take_notice", _hear_nothing),
    "what another server has is learnt": lambda: patch.object(Memory, "learn", _learn_from_any),
    "what another server had is remembered": lambda: patch.object(Memory, "_load", _load_besides),
    "what changes between the pieces of a load is not read": lambda: patch.object(
        Memory, "_load", _load_until_the_last_piece
    ),
}
"""The same where there is a standby, and may be a failover."""
