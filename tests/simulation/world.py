"""One simulation: a database, workers, what they are held to, and the trace of what happens."""

import operator
from collections import Counter
from collections.abc import Callable
from random import Random

from sales.inventory import Inventory
from tests.simulation.answers import Answers
from tests.simulation.calls import short
from tests.simulation.checks import History, certify, check_exact, check_memory
from tests.simulation.database import Database
from tests.simulation.loop import PROCESS, SimulatedLoop
from tests.simulation.refusals import STALE_AFTER
from tests.simulation.replication import Standby
from tests.simulation.rows import Sale, Tables
from tests.simulation.scenario import Scenario
from tests.simulation.server import Server
from tests.simulation.worker import EPOCH, Worker

LONG = 1e6
"""Seconds that a sale lasts which does not end."""

Trace = Callable[[str], None]


class World:
    """A simulation under way. What clients do to it, and what happens to it, is drawn by others."""

    def __init__(self, seed: int, trace: Trace | None) -> None:
        self.random = random = Random(seed)
        self.scenario = scenario = Scenario.draw(random)
        self.loop = SimulatedLoop(random, orderly=scenario.orderly)
        self.database = Database(self.now)
        self.server = Server(self.loop, random, self.database, self.say)
        self._make_sales()
        if scenario.replicated:
            self.database.standby = Standby(self.database.committed.copy(), self.server.pass_on)
        self.history = History(self.database)
        self.answers = Answers(
            self.history,
            self.server.batches,
            fair=scenario.fair,
            kind=scenario.kind,
            steady=scenario.steady,
            short_queues=scenario.max_pending < scenario.actions,
        )
        self.workers: list[Worker] = []
        self._trace = trace
        self._lives: Counter[int] = Counter()
        self.database.on_commit = self._committed
        self.database.on_renewal = self._renewed

    def now(self) -> float:
        """The database's time."""
        return EPOCH + self.loop.now

    def say(self, template: str, *values: object) -> None:
        """Write a line of the trace."""
        if self._trace is not None:
            self._trace(f"{self.loop.now:9.4f} {PROCESS.get():8} {template % values}")

    def start_worker(self, number: int) -> None:
        """Start a worker with this number."""
        self._lives[number] += 1
        worker = Worker(number, self._lives[number], self.server)
        self.workers.append(worker)
        self.say("%s starts", worker.name)

    def serving(self) -> list[Worker]:
        """The workers that clients reach."""
        return [worker for worker in self.workers if worker.serving]

    def some_worker(self) -> Worker | None:
        """One that clients reach, if there is any."""
        serving = self.serving()
        return self.random.choice(serving) if serving else None

    # --- checks

    def check(self) -> None:
        """What every worker knows was committed, and none knows less than before."""
        for worker in self.workers:
            if worker.alive:
                for sale_id, inventory in worker.inventories.items():
                    server = worker.runtime.memory._marks[sale_id].server
                    check_memory(inventory, self.history, server)
                    before, now = worker.versions.get((sale_id, server), []), list(inventory._versions)
                    assert all(map(operator.le, before, now)), f"{worker.name} knew {before}, knows {now}"
                    worker.versions[sale_id, server] = now

    def check_exact(self) -> None:
        """Where nothing changes any more: every worker knows the rows, and every promise was kept."""
        self.check()
        certify(self.database)
        self.answers.check_promises()
        self.answers.check_accounts()
        for worker in self.serving():
            for inventory in self.current_inventories(worker):
                check_exact(inventory, self.database)

    def current_inventories(self, worker: Worker) -> list[Inventory]:
        """What a worker knows: it must be of the sales that are not over."""
        known = sorted(worker.inventories)
        live, were = ([sale.id for sale in self.database.live(self.now() - ago)] for ago in (0, STALE_AFTER))
        assert known in (live, were), f"{worker.name} knows the sales {known} of {live}"
        return list(worker.inventories.values())

    def _committed(self, changed: Tables) -> None:
        for item in changed.items.values():
            code = f"by {short(item.code)}" if item.code else ""
            self.say("item %s.%s is %s %s", item.sale_id, item.item_id, item.state, code)
        try:
            self.history.take_in(changed)
        except AssertionError as violation:
            self.loop.trouble.append(str(violation))

    def _renewed(self, former: int) -> None:
        try:
            self.history.go_on(former)
            self.answers.check_promises()
        except AssertionError as violation:
            self.loop.trouble.append(f"after server {former}: {violation}")

    # ---

    def _make_sales(self) -> None:
        scenario, starts_at = self.scenario, self.now() - 100
        for number in range(1, scenario.sales + 1):
            if number == scenario.sales:
                ends_at = starts_at + LONG
            elif number == 1:
                ends_at = self.now() + scenario.ends
            else:
                ends_at = starts_at + self.random.uniform(2, 5)
            self.database.add_sale(
                Sale(
                    id=number,
                    starts_at=starts_at,
                    ends_at=ends_at,
                    items=scenario.items + number - 1,
                    user_limit=scenario.user_limit,
                    checkout_ttl=scenario.checkout_ttl,
                    paused=False,
                )
            )
            starts_at = ends_at
