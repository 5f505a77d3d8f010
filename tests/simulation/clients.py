"""What clients and operators do, and how often."""

import asyncio
from collections.abc import Callable
from uuid import UUID

from sales.codes import new_code
from tests.simulation.asking import Asking
from tests.simulation.database import Deadlock
from tests.simulation.transaction import Transaction
from tests.simulation.weather import ONE_LOSS
from tests.simulation.world import World


class Clients:
    """All that anybody wants."""

    def __init__(self, world: World, asking: Asking) -> None:
        self._world = world
        self._random = world.random
        self._scenario = world.scenario
        self._asking = asking
        self.actions: dict[Callable[[], None], int] = {
            self.checkout: 30,
            self.repeated_checkout: 4,
            self.rush: 6,
            self.purchase: 25,
            self.repeated_purchase: 4,
            self.release: 8,
            self.receipt: 3 * world.scenario.curiosity,
            self.status: 4 * world.scenario.curiosity,
            self.leave: 5,
            self.sweep: 1,
            self.pause: 1,
            self.buy_all: 2,
        }
        if world.scenario.weather != ONE_LOSS:  # what deadlocks when it is done again is in doubt
            self.actions[self.lock] = 3
        """What they do, and how often."""

    def checkout(self) -> None:
        """Somebody wants an item, or any."""
        if worker := self._world.some_worker():
            item_id = self._random.choice([None, self._random.randrange(self._scenario.items + 2)])
            key = self._random.choice([None, None, "a", "b"])
            self._asking.checkout(worker, self._random.randint(1, self._scenario.users), item_id, key)

    def repeated_checkout(self) -> None:
        """One with a key, for who lost the answer or waits for it; now and then they ask for another item."""
        keyed = [call for call in self._world.answers.calls if call.key is not None]
        if keyed and (worker := self._world.some_worker()):
            call = keyed[-1 - min(int(self._random.expovariate(0.5)), len(keyed) - 1)]
            item_id = (
                call.item_id if self._random.random() < 0.9 else self._random.randrange(self._scenario.items)
            )
            assert call.user_id is not None
            self._asking.checkout(worker, call.user_id, item_id, call.key)

    def rush(self) -> None:
        """Many want the same at the same time."""
        item_id = self._random.choice([None, self._random.randrange(self._scenario.items)])
        for _ in range(self._random.randint(2, 6)):
            if worker := self._world.some_worker():
                self._asking.checkout(worker, self._random.randint(1, self._scenario.users), item_id)

    def purchase(self) -> None:
        """Somebody buys."""
        if worker := self._world.some_worker():
            self._asking.purchase(worker, self._some_code())

    def repeated_purchase(self) -> None:
        """The same code several times at once."""
        code = self._some_code()
        for _ in range(self._random.randint(2, 3)):
            if worker := self._world.some_worker():
                self._asking.purchase(worker, code)

    def release(self) -> None:
        """Somebody gives back a hold."""
        if worker := self._world.some_worker():
            self._asking.release(worker, self._some_code())

    def receipt(self) -> None:
        """Somebody asks for a receipt."""
        if worker := self._world.some_worker():
            self._asking.receipt(worker, self._some_code())

    def status(self) -> None:
        """Somebody asks how much is left."""
        if worker := self._world.some_worker():
            self._asking.status(worker, self._random.choice([None, None, 1, 2, 3]))

    def leave(self) -> None:
        """A client does not wait any more."""
        if waiting := self._asking.waiting():
            self._asking.leave(self._random.choice(waiting))

    def sweep(self) -> None:
        """An operator frees what is over."""

        async def sweep() -> None:
            for sale_id in list(self._world.database.sales):
                transaction = Transaction(self._world.database)
                try:
                    await transaction.sweep(sale_id, batch=0)
                    await self._world.server.pace()
                except asyncio.CancelledError:
                    transaction.rollback()
                    raise
                transaction.commit()

        self._world.server.work_for_operator(sweep())

    def buy_all(self) -> None:
        """All that is held is bought at once."""
        held = [item.code for item in self._world.database.items.values() if item.state == "held"]
        if worker := self._world.some_worker():
            for code in held:
                assert code is not None
                self._asking.purchase(worker, code)

    def lock(self) -> None:
        """An operator locks what is held, the last first, and changes nothing; and all of it is bought."""
        database = self._world.database
        wanted = [id_ for id_, item in sorted(database.items.items()) if item.state == "held"][-3:]

        async def lock() -> None:
            transaction = Transaction(database)
            try:
                for id_ in reversed(wanted):
                    await transaction.lock_item(id_)
                    await asyncio.sleep(self._random.uniform(0, 0.02))
            except Deadlock:
                self._world.say("an operator is refused for a deadlock")
            finally:
                transaction.rollback()

        if len(wanted) > 1:
            self._world.server.work_for_operator(lock())
            self.buy_all()

    def pause(self) -> None:
        """An operator pauses the sales, or resumes them."""
        for sale in list(self._world.database.sales.values()):
            self._world.database.sales[sale.id] = sale._replace(paused=not sale.paused)
        self._world.say("sales are %s", "resumed" if sale.paused else "paused")

    def _some_code(self) -> UUID:
        """Rather a new one, and now and then one that nobody was given."""
        codes = self._world.answers.codes
        if not codes or self._random.random() < 0.05:
            return new_code(self._random.randint(1, 3), self._random.randint(0, self._scenario.items))
        return codes[-1 - min(int(self._random.expovariate(0.3)), len(codes) - 1)]
