"""How clients call a worker, and how they are answered."""

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any
from uuid import UUID

from sales import calls, services
from sales.refusals import Reason, Refusal
from tests.simulation.calls import CALL, Call, text
from tests.simulation.worker import Worker
from tests.simulation.world import World


class Asking:
    """Makes calls, and has every answer checked at the moment it is given."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._random = world.random
        self._waiting: dict[Call, asyncio.Task[None]] = {}

    def checkout(self, worker: Worker, user_id: int, item_id: int | None, key: str | None = None) -> Call:
        """Ask for an item, or for any."""
        call = self._call(worker, "checkout", user_id=user_id, item_id=item_id, key=key)
        if key is None and self._random.random() < 0.5:
            self._start(worker, call, partial(calls.start_checkout, worker.runtime, user_id, item_id))
        else:
            service = partial(services.checkout, worker.runtime, user_id=user_id, item_id=item_id, key=key)
            self._wait_for(worker, call, service)
        return call

    def purchase(self, worker: Worker, code: UUID) -> Call:
        """Ask to buy what a code holds."""
        call = self._call_by_code(worker, "purchase", code)
        if self._random.random() < 0.5:
            self._start(worker, call, partial(calls.start_purchase, worker.runtime, code))
        else:
            self._wait_for(worker, call, partial(services.purchase, worker.runtime, code=code))
        return call

    def release(self, worker: Worker, code: UUID) -> Call:
        """Ask to give back what a code holds."""
        call = self._call_by_code(worker, "release", code)
        self._wait_for(worker, call, partial(services.release, worker.runtime, code=code))
        return call

    def receipt(self, worker: Worker, code: UUID) -> Call:
        """Ask what became of a code."""
        call = self._call_by_code(worker, "receipt", code)
        self._wait_for(worker, call, partial(services.receipt, worker.runtime, code=code))
        return call

    def status(self, worker: Worker, sale_id: int | None) -> Call:
        """Ask for the counts of a sale."""
        taken = {sale: self._world.answers.taken(sale) for sale in self._world.database.sales}
        call = self._call(worker, "status", sale_id=sale_id, before=taken)
        self._wait_for(worker, call, partial(services.status, worker.runtime, sale_id=sale_id))
        return call

    def waiting(self) -> list[Call]:
        """The calls that somebody waits for in a task."""
        return [call for call, task in self._waiting.items() if not task.done() and not call.left]

    def leave(self, call: Call) -> None:
        """Its client does not wait any more."""
        call.left = True
        self._world.say("nobody waits any more for %s", call)
        self._waiting[call].cancel()

    # ---

    def _call(self, worker: Worker, kind: str, **wanted: Any) -> Call:
        call = Call(len(self._world.answers.calls), kind, worker.name, self._world.now(), **wanted)
        self._world.answers.calls.append(call)
        self._world.say("%s asks %s", call, worker.name)
        return call

    def _call_by_code(self, worker: Worker, kind: str, code: UUID) -> Call:
        before = self._world.answers.state(code, confirmed=True)
        return self._call(worker, kind, code=code, before=before)

    def _start(self, worker: Worker, call: Call, service: Callable[[Callable[[Any], None]], Any]) -> None:
        """As the express lane calls a service."""

        def start() -> None:
            refused = service(partial(self._answered, worker, call))
            if refused is not None:
                self._answered(worker, call, refused)

        self._world.loop.call_soon(start, context=_context(worker, call))

    def _wait_for(self, worker: Worker, call: Call, service: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """As a view calls a service."""

        async def wait() -> None:
            try:
                outcome = await service()
            except Exception as error:
                outcome = error
            self._answered(worker, call, outcome)

        self._waiting[call] = self._world.loop.create_task(wait(), context=_context(worker, call))

    def _answered(self, worker: Worker, call: Call, outcome: Any) -> None:
        if isinstance(outcome, Reason):
            outcome = Refusal(outcome)
        self._world.say("%s: %s", call, text(outcome))
        try:
            self._world.answers.check(call, outcome)
            if isinstance(outcome, Refusal) and outcome.reason.name == "draining":
                assert worker.runtime.draining, f"{call}: the worker does not stop"
            self._world.check()
        except AssertionError as violation:
            # Raised here, it would be the service's to handle.
            self._world.loop.trouble.append(str(violation))


def _context(worker: Worker, call: Call) -> contextvars.Context:
    context = worker.context.copy()
    context.run(CALL.set, call)
    return context
