"""A call that joins a batch: from its start to its answer.

`start_checkout`, `start_purchase` and `start_release` refuse at once, or start a call. Its steps are methods:
`start` counts it in, `join` submits it to the batch of its sale, the processor calls `decide` with what the
batch has loaded, `sales.saving` saves the batch, and `settled` gives the answer.
"""

import asyncio
import time
from collections.abc import Callable
from uuid import UUID

from batching import BatchError, KeyedProcessor
from sales import limits
from sales.inventory import Hold, HoldBatch, RequestKey, SaleEnded
from sales.metrics import count_answer
from sales.refusals import (
    DRAINING,
    IDEMPOTENCY_KEY_REUSED,
    OVERLOADED,
    Reason,
    Refusal,
    reason_of,
    refusal_of,
)
from sales.runtime import Runtime
from sales.saving import Repeated, Settlement, SettlementBatch

Answer = Callable[[UUID | BaseException], None]
"""Called with the outcome of a call, once: the code, or a `Refusal`, or the error that is a fault of ours."""


def start_checkout(
    runtime: Runtime, user_id: int, item_id: int | None, answer: Answer, *, key: RequestKey | None = None
) -> Reason | None:
    """Hold this item of the current sale, or any free one (``None``), for the user.

    Returns why that is refused; or ``None``, and then ``answer`` is called exactly once, later, once the
    hold is committed or refused.
    """
    memory = runtime.memory
    inventory = memory.selling()
    reason: Reason | None
    if runtime.draining:
        reason = DRAINING
    elif inventory is None:
        reason = runtime.why_no_sale()
    else:
        reason = inventory.refusal(user_id, item_id, memory.clock.now())
        if reason is None:
            return CheckoutCall(runtime, inventory.sale.id, user_id, item_id, answer, key).start()
    count_answer("checkout", reason.name)
    return reason


def start_purchase(runtime: Runtime, code: UUID, answer: Answer) -> Reason | None:
    """Buy the item that this code holds; returns and answers as `start_checkout` does."""
    return SettlementCall("purchase", runtime, runtime.saving.purchases, code, answer).start()


def start_release(runtime: Runtime, code: UUID, answer: Answer) -> Reason | None:
    """Give back the item that this code holds; returns and answers as `start_checkout` does."""
    return SettlementCall("release", runtime, runtime.saving.releases, code, answer).start()


class Call:
    """One call that joins a batch, is saved with it, and is answered once."""

    __slots__ = ("_answer", "_runtime")

    name: str
    outcome = "done"
    """What is counted where all went well."""

    def __init__(self, runtime: Runtime, answer: Answer) -> None:
        self._runtime = runtime
        self._answer = answer

    def start(self) -> Reason | None:
        """Return why it is refused, or give the answer later; either is counted."""
        runtime, name = self._runtime, self.name
        if runtime.draining:
            reason: Reason | None = DRAINING
        elif not runtime.admission.enter(name):
            reason = OVERLOADED
        elif (reason := self.submit()) is not None:
            runtime.admission.leave(name)
        if reason is not None:
            count_answer(name, reason.name)
        return reason

    def submit(self) -> Reason | None:
        """Join the next batch, unless that is refused."""
        try:
            future = self.join()
        except Refusal as refusal:
            return refusal.reason
        except BatchError as error:
            return reason_of(error)
        future.add_done_callback(self.settled)
        return None

    def join(self) -> "asyncio.Future[Hold] | asyncio.Future[Settlement]":
        """Submit to a processor. Raises `Refusal`, or `BatchError`."""
        raise NotImplementedError

    def settled(self, future: "asyncio.Future[Hold] | asyncio.Future[Settlement]") -> None:
        """The batch is saved, or has failed: give the answer."""
        if (error := future.exception()) is None:
            self.end(self.outcome, future.result().code)
        else:
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Answer with what this error means."""
        if isinstance(error, BatchError):
            error = refusal_of(error)
        self.end(error.reason.name if isinstance(error, Refusal) else "internal_error", error)

    def end(self, outcome: str, answer: UUID | BaseException) -> None:
        """Count and give the answer."""
        self._runtime.admission.leave(self.name)
        count_answer(self.name, outcome)
        self._answer(answer)


class CheckoutCall(Call):
    """A checkout. One that met a stale memory, or depends on others of its batch, is decided in the next."""

    __slots__ = ("_began", "_item_id", "_key", "_sale_id", "_tries", "_user_id")

    name = "checkout"
    outcome = "granted"

    def __init__(
        self,
        runtime: Runtime,
        sale_id: int,
        user_id: int,
        item_id: int | None,
        answer: Answer,
        key: RequestKey | None,
    ) -> None:
        super().__init__(runtime, answer)
        self._sale_id = sale_id
        self._user_id = user_id
        self._item_id = item_id
        self._key = key
        self._began = time.monotonic()
        self._tries = 0

    def join(self) -> "asyncio.Future[Hold]":
        """Submit to the batch of its sale. Raises `BatchError`."""
        return self._runtime.saving.checkouts.submit(self._sale_id, self.decide)

    def decide(self, batch: HoldBatch) -> Hold:
        """Take the hold as part of this batch. Raises `Refusal`, `SaleEnded`, or `batching.Undecided`."""
        waited = time.monotonic() - self._began
        if self._tries >= limits.MAX_STALE or waited > limits.CHECKOUT_PATIENCE:
            raise Refusal(OVERLOADED)
        hold = batch.hold(self._user_id, self._item_id, self._key)
        self._tries += 1
        return hold

    def fail(self, error: BaseException) -> None:
        """Answer a repeated request with its first answer, and ask the next sale where this one has ended."""
        if isinstance(error, Repeated):
            if error.use.item_id == self._item_id:
                self.end("repeated", error.use.code)
            else:
                super().fail(Refusal(IDEMPOTENCY_KEY_REUSED))
        elif not isinstance(error, SaleEnded):
            super().fail(error)
        elif (reason := self._ask_next()) is not None:
            super().fail(Refusal(reason))

    def _ask_next(self) -> Reason | None:
        """Join a batch of the sale that is on now. It was accepted, so a drain is no reason to refuse it."""
        if (inventory := self._runtime.memory.selling()) is None:
            return self._runtime.why_no_sale()
        self._sale_id = inventory.sale.id
        return self.submit()


class SettlementCall(Call):
    """A purchase or a release."""

    __slots__ = ("_processor", "_settlement", "name")

    def __init__(
        self,
        name: str,
        runtime: Runtime,
        processor: KeyedProcessor[int, SettlementBatch],
        code: UUID,
        answer: Answer,
    ) -> None:
        super().__init__(runtime, answer)
        self.name = name
        self._processor = processor
        self._settlement = Settlement(code)

    def join(self) -> "asyncio.Future[Settlement]":
        """Submit to the batch of the code's sale. Raises `Refusal`, or `BatchError`."""
        return self._processor.submit(self._runtime.memory.sale_of(self._settlement.code), self.decide)

    def decide(self, batch: SettlementBatch) -> Settlement:
        """Wish for it as part of this batch: the database decides."""
        batch.append(self._settlement)
        return self._settlement


class Waiter:
    """Waits for the answer of one call, in a task. Cancelling the wait does not end the call."""

    def __init__(self) -> None:
        self._future: asyncio.Future[UUID] = asyncio.get_running_loop().create_future()

    def answer(self, result: UUID | BaseException) -> None:
        """Take the answer."""
        if self._future.done():  # whoever waited has left
            return
        if isinstance(result, BaseException):
            self._future.set_exception(result)
        else:
            self._future.set_result(result)

    async def wait(self, reason: Reason | None) -> UUID:
        """The code. Raises the `Refusal`, at once where ``reason`` says why the call was not started."""
        if reason is not None:
            raise Refusal(reason)
        return await self._future
