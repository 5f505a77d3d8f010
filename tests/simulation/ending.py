"""The end of a simulation: nothing fails any more, and everybody must know and say what is true."""

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID

from sales.models import SaleItem
from tests.simulation.asking import Asking
from tests.simulation.calls import Call, short, text
from tests.simulation.checks import certify, check_fresh, check_marked
from tests.simulation.clients import Clients
from tests.simulation.refusals import STALE_AFTER
from tests.simulation.troubles import Troubles
from tests.simulation.weather import CALM
from tests.simulation.world import World

ANSWERED_WITHIN = 60.0
"""Seconds after which everybody must have been answered once nothing fails any more."""


class Ending:
    """Peace, the last questions, and the stop of all workers."""

    def __init__(self, world: World, asking: Asking, clients: Clients, troubles: Troubles) -> None:
        self._world = world
        self._random = world.random
        self._scenario = world.scenario
        self._asking = asking
        self._clients = clients
        self._troubles = troubles

    async def find_peace(self) -> None:
        """Nothing fails any more: everybody is answered, and soon everybody knows everything."""
        self._world.say("from now on nothing fails")
        self._world.server.weather = CALM
        quiet_at = max(self._troubles.peace_at, self._world.server.late_until)
        await asyncio.sleep(quiet_at - self._world.loop.now + 0.1)
        if self._random.random() < 0.7 and any(sale.paused for sale in self._world.database.sales.values()):
            self._clients.pause()
        if not any(worker.alive for worker in self._world.workers):
            self._world.start_worker(0)
        await self._until(lambda: not (waiting := self._unanswered()) or f"never answered: {waiting[0]}")
        for worker in self._world.workers:
            await self._until(
                lambda worker=worker: (
                    worker.state in ("serving", "stopped", "crashed")  # type: ignore[misc]
                    or f"{worker.name} is still {worker.state}"
                )
            )
        await asyncio.sleep(STALE_AFTER + 0.3)
        self._world.check()
        for worker in self._world.serving():
            assert worker.ready, f"{worker.name} is not ready"
            for inventory in self._world.current_inventories(worker):
                check_fresh(inventory, self._world.history, self._world.now() - STALE_AFTER)
        await asyncio.sleep(self._scenario.checkout_ttl + STALE_AFTER)
        self._world.check_exact()
        if self._scenario.fair:
            check_marked(self._world.database)

    async def ask_what_is_known(self) -> None:
        """Now that nothing changes, every worker must give the answer that the rows give."""
        for worker in self._world.serving():
            for code in self._world.answers.unknown:
                expected = "unknown_code" if self._world.answers.state(code) is None else "ok"
                outcome = await self._answer(self._asking.receipt(worker, code))
                assert text(outcome) == expected, f"{short(code)}: {text(outcome)} instead of {expected}"
            for _ in range(4):
                user_id = self._random.randint(1, self._scenario.users + 1)
                item_id = self._random.choice([None, self._random.randrange(self._scenario.items + 2)])
                expected = self._expected(user_id, item_id)
                call = self._asking.checkout(worker, user_id, item_id)
                outcome = await self._answer(call)
                assert text(outcome).startswith(expected), f"{call}: {text(outcome)} instead of {expected}"
                if isinstance(outcome, UUID):
                    bought = await self._answer(self._asking.purchase(worker, outcome))
                    assert text(bought).startswith("ok"), f"{short(outcome)} was not sold: {text(bought)}"
            await asyncio.sleep(STALE_AFTER)
            self._world.check_exact()

    async def stop_all(self) -> None:
        """Every worker stops when it is told to, and nothing is left behind."""
        for worker in self._world.serving():
            worker.drain(self._random.uniform(0, 0.5))
        for worker in self._world.workers:
            await self._until(lambda worker=worker: not worker.alive or f"{worker.name} does not stop")  # type: ignore[misc]
        self._world.check()
        certify(self._world.database)
        self._world.answers.check_promises()
        self._world.answers.check_accounts()
        await self._until(lambda: not self._world.server.sessions or "sessions are left")
        assert not self._world.database.locks, f"locks are left: {self._world.database.locks}"

    def _expected(self, user_id: int, item_id: int | None) -> str:
        """The reason for which the rows as they are would refuse, or ``ok``."""
        database, now = self._world.database, self._world.now()
        sale = next(sale for sale in database.sales.values() if sale.starts_at <= now < sale.ends_at)
        states = [database.items[SaleItem.id_of(sale.id, number)].state for number in range(sale.items)]
        if sale.paused:
            return "paused"
        if item_id is None:
            if "available" not in states:
                return "all_held" if "held" in states else "sold_out"
        elif item_id >= sale.items:
            return "invalid_parameter"
        elif states[item_id] != "available":
            return f"item_{states[item_id]}"
        if database.allowances.get((sale.id, user_id), 0) >= sale.user_limit:
            return "user_limit"
        return "ok"

    def _unanswered(self) -> list[Call]:
        alive = {worker.name for worker in self._world.workers if worker.state != "crashed"}
        calls = self._world.answers.calls
        return [call for call in calls if not call.answers and not call.left and call.worker in alive]

    async def _answer(self, call: Call) -> Any:
        await self._until(lambda: bool(call.answers) or f"never answered: {call}", pause=0.005)
        return call.answers[0]

    async def _until(self, check: Callable[[], bool | str], pause: float = 0.1) -> None:
        """Wait until this is true; otherwise it says what is wrong."""
        deadline = self._world.loop.now + ANSWERED_WITHIN
        while (wrong := check()) is not True:
            assert self._world.loop.now < deadline, wrong
            await asyncio.sleep(pause)
