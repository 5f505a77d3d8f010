"""One simulation: a database, workers and a crowd, and everything that can happen to them."""

import asyncio
import contextvars
import operator
from collections import Counter
from collections.abc import Callable, Coroutine
from functools import partial
from random import Random
from typing import Any
from uuid import UUID

from sales import services
from sales.codes import new_code
from sales.exceptions import Refusal
from sales.inventory import Inventory
from sales.models import SaleItem
from tests.simulation.answers import CALL, STALE_AFTER, Answers, Call, short, text
from tests.simulation.checks import History, certify, check_exact, check_fresh, check_memory
from tests.simulation.database import Database, Sale, Tables
from tests.simulation.loop import PROCESS, SimulatedLoop
from tests.simulation.network import Server, Session
from tests.simulation.replication import Standby
from tests.simulation.scenario import CALM, Scenario
from tests.simulation.worker import EPOCH, Worker

LONG = 1e6
"""Seconds that a sale lasts which does not end."""

ANSWERED_WITHIN = 60.0
"""Seconds after which everybody must have been answered once nothing fails any more."""

Trace = Callable[[str], None]

CALLS = {
    "checkout": 30,
    "repeated_checkout": 4,
    "rush": 6,
    "purchase": 25,
    "repeated_purchase": 4,
    "release": 8,
    "receipt": 3,
    "status": 4,
    "leave": 5,
    "sweep": 1,
    "pause": 1,
}
"""What clients and operators do, and how often."""

TROUBLES = {
    "crash": 4,
    "stop": 3,
    "stall": 3,
    "stall_database": 1,
    "outage": 1,
    "terminate": 3,
    "cancel": 2,
    "lose_standby": 2,
    "failover": 4,
}
"""What happens to them, and how often."""


class World:
    """A simulation under way."""

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
            short_queues=scenario.max_pending < scenario.actions,
        )
        self.workers: list[Worker] = []
        self._trace = trace
        self._lives: Counter[int] = Counter()
        self._waiting: dict[Call, asyncio.Task[None]] = {}
        self._peace_at = 0.0
        self.database.on_commit = self._committed
        self.database.on_renewal = self._renewed

    def now(self) -> float:
        """The database's time."""
        return EPOCH + self.loop.now

    def say(self, template: str, *values: object) -> None:
        """Write a line of the trace."""
        if self._trace is not None:
            self._trace(f"{self.loop.now:9.4f} {PROCESS.get():8} {template % values}")

    async def play(self) -> None:
        """All of it."""
        self.say("%s", self.scenario)
        for number in range(self.scenario.workers):
            self._start_worker(number)
        self.server.weather = self.scenario.weather
        for _ in range(self.scenario.actions):
            await self._rest()
            if self.random.random() < self.scenario.stalls:
                self._do_stall()
            table = TROUBLES if self.random.random() < self.scenario.trouble else CALLS
            (name,) = self.random.choices(list(table), list(table.values()))
            getattr(self, f"_do_{name}")()
            self._check()
        await self._find_peace()
        await self._ask_what_is_known()
        await self._stop_all()

    async def _rest(self) -> None:
        """Until the next action: not at all, for a while, or just about until a hold or a sale ends."""
        number = self.random.random()
        if number < 0.06:
            ends = [item.held_until for item in self.database.items.values() if item.state == "held"]
            ends += [sale.ends_at for sale in self.database.sales.values() if sale.ends_at < EPOCH + LONG / 2]
            coming = [end - self.now() for end in ends if end is not None and end > self.now()]
            if coming:
                await asyncio.sleep(max(0.0, self.random.choice(coming) + self.random.gauss(0, 0.05)))
        elif number >= self.scenario.burst:
            await asyncio.sleep(self.random.expovariate(1 / self.scenario.rest))

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

    # --- what clients and operators do

    def _do_checkout(self) -> None:
        if worker := self._some_worker():
            item_id = self.random.choice([None, self.random.randrange(self.scenario.items + 2)])
            key = self.random.choice([None, None, "a", "b"])
            self._checkout(worker, self.random.randint(1, self.scenario.users), item_id, key)

    def _do_repeated_checkout(self) -> None:
        """One with a key, for who lost the answer or waits for it; now and then they ask for another item."""
        keyed = [call for call in self.answers.calls if call.key is not None]
        if keyed and (worker := self._some_worker()):
            call = keyed[-1 - min(int(self.random.expovariate(0.5)), len(keyed) - 1)]
            item_id = (
                call.item_id if self.random.random() < 0.9 else self.random.randrange(self.scenario.items)
            )
            assert call.user_id is not None
            self._checkout(worker, call.user_id, item_id, call.key)

    def _do_rush(self) -> None:
        """Many want the same at the same time."""
        item_id = self.random.choice([None, self.random.randrange(self.scenario.items)])
        for _ in range(self.random.randint(2, 6)):
            if worker := self._some_worker():
                self._checkout(worker, self.random.randint(1, self.scenario.users), item_id)

    def _do_purchase(self) -> None:
        if worker := self._some_worker():
            self._purchase(worker, self._some_code())

    def _do_repeated_purchase(self) -> None:
        """The same code several times at once."""
        code = self._some_code()
        for _ in range(self.random.randint(2, 3)):
            if worker := self._some_worker():
                self._purchase(worker, code)

    def _do_release(self) -> None:
        if worker := self._some_worker():
            code = self._some_code()
            self._wait_for(
                worker,
                self._call(worker, "release", code=code, before=self.answers.state(code, confirmed=True)),
                partial(services.release, worker.runtime, code=code),
            )

    def _do_receipt(self) -> None:
        if worker := self._some_worker():
            self._receipt(worker, self._some_code())

    def _do_status(self) -> None:
        if worker := self._some_worker():
            sale_id = self.random.choice([None, None, 1, 2, 3])
            sold = {sale: self.answers.sold(sale) for sale in self.database.sales}
            call = self._call(worker, "status", sale_id=sale_id, before=sold)
            self._wait_for(worker, call, partial(services.status, worker.runtime, sale_id=sale_id))

    def _do_leave(self) -> None:
        """A client does not wait any more."""
        if waiting := [call for call, task in self._waiting.items() if not task.done() and not call.left]:
            call = self.random.choice(waiting)
            call.left = True
            self.say("nobody waits any more for %s", call)
            self._waiting[call].cancel()

    def _do_sweep(self) -> None:
        """An operator frees what is over."""

        async def sweep() -> None:
            for sale_id in list(self.database.sales):
                transaction = self.database.begin()
                try:
                    await transaction.sweep(sale_id)
                    await self.server.pace()
                except asyncio.CancelledError:
                    transaction.rollback()
                    raise
                transaction.commit()

        self.server.work_for_operator(sweep())

    def _do_pause(self) -> None:
        for sale in list(self.database.sales.values()):
            self.database.sales[sale.id] = sale._replace(paused=not sale.paused)
        self.say("sales are %s", "resumed" if sale.paused else "paused")

    def _some_worker(self) -> Worker | None:
        serving = self._serving()
        return self.random.choice(serving) if serving else None

    def _some_code(self) -> UUID:
        """Rather a new one, and now and then one that nobody was given."""
        codes = self.answers.codes
        if not codes or self.random.random() < 0.05:
            return new_code(self.random.randint(1, 3), self.random.randint(0, self.scenario.items))
        return codes[-1 - min(int(self.random.expovariate(0.3)), len(codes) - 1)]

    # --- what happens to them

    def _do_crash(self) -> None:
        if alive := [worker for worker in self.workers if worker.alive]:
            worker = self.random.choice(alive)
            self.say("%s crashes", worker.name)
            worker.crash()
            self._replace(worker)

    def _do_stop(self) -> None:
        """A worker is told to stop, and replaced."""
        if serving := [worker for worker in self.workers if worker.state == "serving"]:
            worker = self.random.choice(serving)
            self.say("%s is told to stop", worker.name)
            worker.drain(self.random.uniform(0, 0.5))
            self._replace(worker)

    def _do_stall(self) -> None:
        """A worker gets no processor for a while."""
        if worker := self._some_worker():
            self._stall(worker.name)

    def _do_stall_database(self) -> None:
        """The server gets no processor for a while."""
        self._stall("database")

    def _do_outage(self) -> None:
        """The server is restarted."""
        seconds = self.random.choice([0.0, 0.5, 3.0])
        self.say("the database is away for %s s", seconds)
        self.server.shut_down()
        self._later(seconds, self.server.start)

    def _do_terminate(self) -> None:
        """An operator ends a session."""
        if self.server.sessions:
            self.say("a session is terminated")
            self.random.choice(self.server.sessions).terminate()

    def _do_cancel(self) -> None:
        """An operator, or a time limit, cancels what a session does."""
        if self.server.sessions:
            self.say("a statement is cancelled")
            self.random.choice(self.server.sessions).cancel()

    def _do_lose_standby(self) -> None:
        """The standby cannot be reached for a while."""
        if (standby := self.database.standby) is not None and not standby.is_away:
            seconds = self.random.choice([0.1, 1.0, 8.0])
            self.say("the standby is away for %s s", seconds)
            standby.is_away = True
            self._later(seconds, standby.come_back)

    def _do_failover(self) -> None:
        """The server is lost, and its standby promoted: at once, or in the worst of all ways."""
        if self.random.random() < 0.3:
            self._fail_over()
        elif (standby := self.database.standby) is not None:
            self.say("the standby is cut off for ever")
            standby.is_away = True
            self._later(self.random.uniform(0, 1), self._keep_all_from_waiting)
            self._later(self.random.uniform(1, 3), self._fail_over)

    def _keep_all_from_waiting(self) -> None:
        """Operators do that where nothing goes on."""
        self.say("nobody waits for the standby any more")
        end = self.random.choice([Session.cancel, Session.terminate])
        for session in list(self.server.sessions):
            if session.awaits_standby:
                end(session)

    def _fail_over(self) -> None:
        if self.database.standby is not None:
            self.say("the standby takes over")
            self.server.fail_over()

    def _start_worker(self, number: int) -> None:
        self._lives[number] += 1
        worker = Worker(number, self._lives[number], self.server)
        self.workers.append(worker)
        self.say("%s starts", worker.name)

    def _replace(self, worker: Worker) -> None:
        self._later(self.random.uniform(0, 2), partial(self._start_worker, worker.number))

    def _stall(self, process: str) -> None:
        seconds = self.random.choice([0.05, 0.5, 4.0])
        self.say("%s gets no processor for %s s", process, seconds)
        self.loop.stall(process, seconds)
        self._later(seconds, lambda: None)

    def _later(self, seconds: float, what: Callable[[], None]) -> None:
        """It is part of the trouble: no peace before."""
        self._peace_at = max(self._peace_at, self.loop.now + seconds)
        self.loop.call_later(seconds, what)

    # --- calls and answers

    def _call(self, worker: Worker, kind: str, **wanted: Any) -> Call:
        call = Call(len(self.answers.calls), kind, worker.name, self.now(), **wanted)
        self.answers.calls.append(call)
        self.say("%s asks %s", call, worker.name)
        return call

    def _checkout(self, worker: Worker, user_id: int, item_id: int | None, key: str | None = None) -> Call:
        call = self._call(worker, "checkout", user_id=user_id, item_id=item_id, key=key)
        if key is None and self.random.random() < 0.5:
            self._start(worker, call, partial(services.start_checkout, worker.runtime, user_id, item_id))
        else:
            service = partial(services.checkout, worker.runtime, user_id=user_id, item_id=item_id, key=key)
            self._wait_for(worker, call, service)
        return call

    def _purchase(self, worker: Worker, code: UUID) -> Call:
        call = self._call(worker, "purchase", code=code, before=self.answers.state(code, confirmed=True))
        if self.random.random() < 0.5:
            self._start(worker, call, partial(services.start_purchase, worker.runtime, code))
        else:
            self._wait_for(worker, call, partial(services.purchase, worker.runtime, code=code))
        return call

    def _receipt(self, worker: Worker, code: UUID) -> Call:
        call = self._call(worker, "receipt", code=code, before=self.answers.state(code, confirmed=True))
        self._wait_for(worker, call, partial(services.receipt, worker.runtime, code=code))
        return call

    def _start(self, worker: Worker, call: Call, service: Callable[[Callable[[Any], None]], Any]) -> None:
        """As the express lane calls a service."""

        def start() -> None:
            refused = service(partial(self._answered, worker, call))
            if refused is not None:
                self._answered(worker, call, refused)

        self.loop.call_soon(start, context=_context(worker, call))

    def _wait_for(self, worker: Worker, call: Call, service: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """As a view calls a service."""

        async def wait() -> None:
            try:
                outcome = await service()
            except Exception as error:
                outcome = error
            self._answered(worker, call, outcome)

        self._waiting[call] = self.loop.create_task(wait(), context=_context(worker, call))

    def _answered(self, worker: Worker, call: Call, outcome: Any) -> None:
        if isinstance(outcome, type):
            outcome = outcome()
        self.say("%s: %s", call, text(outcome))
        try:
            self.answers.check(call, outcome)
            if isinstance(outcome, Refusal) and outcome.reason == "draining":
                assert worker.runtime.draining, f"{call}: the worker does not stop"
            self._check()
        except AssertionError as violation:
            # Raised here, it would be the service's to handle.
            self.loop.trouble.append(str(violation))

    # --- checks

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

    def _check(self) -> None:
        for worker in self.workers:
            if worker.alive:
                for sale_id, inventory in worker.inventories.items():
                    server = worker.runtime._marks[sale_id].server
                    check_memory(inventory, self.history, server)
                    before, now = worker.versions.get((sale_id, server), []), list(inventory._versions)
                    assert all(map(operator.le, before, now)), f"{worker.name} knew {before}, knows {now}"
                    worker.versions[sale_id, server] = now

    def _check_exact(self) -> None:
        self._check()
        certify(self.database)
        self.answers.check_promises()
        self.answers.check_accounts()
        for worker in self._serving():
            for inventory in self._current_inventories(worker):
                check_exact(inventory, self.database)

    def _serving(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.serving]

    def _current_inventories(self, worker: Worker) -> list[Inventory]:
        known = sorted(worker.inventories)
        live, were = ([sale.id for sale in self.database.live(self.now() - ago)] for ago in (0, STALE_AFTER))
        assert known in (live, were), f"{worker.name} knows the sales {known} of {live}"
        return list(worker.inventories.values())

    # --- the end

    async def _find_peace(self) -> None:
        """Nothing fails any more: everybody is answered, and soon everybody knows everything."""
        self.say("from now on nothing fails")
        self.server.weather = CALM
        await asyncio.sleep(max(self._peace_at, self.server.late_until) - self.loop.now + 0.1)
        if self.random.random() < 0.7 and any(sale.paused for sale in self.database.sales.values()):
            self._do_pause()
        if not any(worker.alive for worker in self.workers):
            self._start_worker(0)
        await self._until(lambda: not (waiting := self._unanswered()) or f"never answered: {waiting[0]}")
        for worker in self.workers:
            await self._until(
                lambda worker=worker: (
                    worker.state in ("serving", "stopped", "crashed")  # type: ignore[misc]
                    or f"{worker.name} is still {worker.state}"
                )
            )
        await asyncio.sleep(STALE_AFTER + 0.3)
        self._check()
        for worker in self._serving():
            assert worker.ready, f"{worker.name} is not ready"
            for inventory in self._current_inventories(worker):
                check_fresh(inventory, self.history, self.now() - STALE_AFTER)
        await asyncio.sleep(self.scenario.checkout_ttl + STALE_AFTER)
        self._check_exact()

    async def _ask_what_is_known(self) -> None:
        """Now that nothing changes, every worker must give the answer that the rows give."""
        for worker in self._serving():
            for code in self.answers.unknown:
                expected = "unknown_code" if self.answers.state(code) is None else "ok"
                outcome = await self._answer(self._receipt(worker, code))
                assert text(outcome) == expected, f"{short(code)}: {text(outcome)} instead of {expected}"
            for _ in range(4):
                user_id = self.random.randint(1, self.scenario.users + 1)
                item_id = self.random.choice([None, self.random.randrange(self.scenario.items + 2)])
                expected = self._expected(user_id, item_id)
                call = self._checkout(worker, user_id, item_id)
                outcome = await self._answer(call)
                assert text(outcome).startswith(expected), f"{call}: {text(outcome)} instead of {expected}"
                if isinstance(outcome, UUID):
                    bought = await self._answer(self._purchase(worker, outcome))
                    assert text(bought).startswith("ok"), f"{short(outcome)} was not sold: {text(bought)}"
            await asyncio.sleep(STALE_AFTER)
            self._check_exact()

    async def _stop_all(self) -> None:
        """Every worker stops when it is told to, and nothing is left behind."""
        for worker in self._serving():
            worker.drain(self.random.uniform(0, 0.5))
        for worker in self.workers:
            await self._until(lambda worker=worker: not worker.alive or f"{worker.name} does not stop")  # type: ignore[misc]
        self._check()
        certify(self.database)
        self.answers.check_promises()
        self.answers.check_accounts()
        await self._until(lambda: not self.server.sessions or "sessions are left")
        assert not self.database.locks, f"locks are left: {self.database.locks}"

    def _expected(self, user_id: int, item_id: int | None) -> str:
        """The reason for which the rows as they are would refuse, or ``ok``."""
        sale = next(s for s in self.database.sales.values() if s.starts_at <= self.now() < s.ends_at)
        states = [self.database.items[SaleItem.id_of(sale.id, number)].state for number in range(sale.items)]
        if sale.paused:
            return "paused"
        if item_id is None:
            if "available" not in states:
                return "all_held" if "held" in states else "sold_out"
        elif item_id >= sale.items:
            return "invalid_parameter"
        elif states[item_id] != "available":
            return f"item_{states[item_id]}"
        if self.database.allowances.get((sale.id, user_id), 0) >= sale.user_limit:
            return "user_limit"
        return "ok"

    def _unanswered(self) -> list[Call]:
        alive = {worker.name for worker in self.workers if worker.state != "crashed"}
        calls = self.answers.calls
        return [call for call in calls if not call.answers and not call.left and call.worker in alive]

    async def _answer(self, call: Call) -> Any:
        await self._until(lambda: bool(call.answers) or f"never answered: {call}", pause=0.005)
        return call.answers[0]

    async def _until(self, check: Callable[[], bool | str], pause: float = 0.1) -> None:
        """Wait until this is true; otherwise it says what is wrong."""
        deadline = self.loop.now + ANSWERED_WITHIN
        while (wrong := check()) is not True:
            assert self.loop.now < deadline, wrong
            await asyncio.sleep(pause)


def _context(worker: Worker, call: Call) -> contextvars.Context:
    context = worker.context.copy()
    context.run(CALL.set, call)
    return context
