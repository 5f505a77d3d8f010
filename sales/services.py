"""The use cases of a sale. Views, commands and whatever else serves users call these.

Each raises a `Refusal` for what cannot be, and then nothing was changed. Cancelling a call ends only the
wait: what was accepted for a batch is saved all the same.
"""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Generic, TypeVar
from uuid import UUID

from batching import BatchError, KeyedProcessor, LoadFailed, ProcessFailed, ProcessorStopped, QueueFull
from sales.exceptions import (
    DatabaseUnavailable,
    Draining,
    IdempotencyKeyReused,
    InvalidParameter,
    NoCertificate,
    NoSale,
    OutcomeUnknown,
    Overloaded,
    Refusal,
    UnknownCode,
)
from sales.inventory import Hold, HoldBatch, Inventory, Key, SaleEnded, SaleFacts
from sales.metrics import count_answer
from sales.runtime import Repeated, Runtime, Settlement, SettlementBatch
from sales.storage import Receipt

R = TypeVar("R")
T = TypeVar("T")

Answer = Callable[[T | BaseException], None]
"""Called with the outcome of a call, once."""

Refused = Refusal | type[Refusal]
"""A refusal, or the class of one that always says the same."""

MAX_USER_ID = 2**63 - 1

PATIENCE = 3.0
"""Seconds that a checkout may wait for its batch. A purchase waits for as long as its hold lasts."""

MAX_STALE = 20
"""How often a hold may fail because other workers were faster, before its caller is told `Overloaded`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SaleStatus:
    """A sale and its counts (items); times are seconds since the epoch."""

    sale: SaleFacts
    sold: int
    held: int
    next_starts_at: float | None

    @property
    def available(self) -> int:
        """Items that are neither sold nor held."""
        return self.sale.items - self.sold - self.held


async def checkout(
    runtime: Runtime, *, user_id: int, item_id: int | None = None, key: str | None = None
) -> UUID:
    """Hold this item of the current sale, or any free one, for the user; return the code to buy it with.

    Returns once the hold is committed. It ends by itself after the sale's ``checkout_ttl`` seconds.
    With a ``key``, repeating a call that was granted gives the same code, at any worker, as long as the
    sale lasts, whatever became of the hold.
    """
    if not 0 <= user_id <= MAX_USER_ID:
        raise InvalidParameter(f"user_id must be a whole number from 0 to {MAX_USER_ID}.")
    if item_id is not None and item_id < 0:
        raise InvalidParameter("item_id must not be negative.")
    if key is None:
        return await _answered(partial(start_checkout, runtime, user_id, item_id))
    asked = Key(key, item_id)
    if (granted := await _granted_before(runtime, user_id, asked)) is not None:
        return granted
    try:
        return await _answered(partial(start_checkout, runtime, user_id, item_id, key=asked))
    except Refusal as refusal:
        # The same request may have been granted meanwhile, at another worker, and be what refused this one.
        if refusal.status == 409 and (granted := await _granted_before(runtime, user_id, asked)) is not None:
            return granted
        raise


async def purchase(runtime: Runtime, *, code: UUID) -> None:
    """Buy the item that this code holds. Returns once that is committed.

    The database decides, so the code may come from any worker, and from a sale that has ended.
    """
    await _answered(partial(start_purchase, runtime, code))


async def release(runtime: Runtime, *, code: UUID) -> None:
    """Give back the item that this code holds. Doing it again is no error."""
    await _answered(partial(_Settling("release", runtime, runtime.releases, code).start))


async def receipt(runtime: Runtime, *, code: UUID) -> Receipt:
    """What became of a checkout, from the database."""
    try:
        found = await runtime.receipt(code)
    except BatchError as error:
        raise _meaning(error) from error
    if found is None:
        raise UnknownCode
    return found


async def status(runtime: Runtime, *, sale_id: int | None = None) -> SaleStatus:
    """The current sale, or any other, with what was committed before the question.

    Where the database does not answer, the counts are those that this worker knows.
    """
    inventory: Inventory | None
    if sale_id is None:
        inventory = runtime.current()
    elif (inventory := runtime.inventories.get(sale_id)) is None:
        try:
            found = await runtime.counts(sale_id)
        except BatchError as error:
            raise _meaning(error) from error
        if found is None:
            raise NoSale(f"There is no sale {sale_id}.")
        return SaleStatus(
            sale=found.sale, sold=found.sold, held=found.held, next_starts_at=runtime.next_starts_at()
        )
    inventory = await runtime.look(inventory)
    inventory.expire(runtime.clock.now())
    return SaleStatus(
        sale=inventory.sale,
        sold=inventory.sold,
        held=inventory.held,
        next_starts_at=runtime.next_starts_at(),
    )


async def certificate(runtime: Runtime, *, sale_id: int) -> dict[str, Any]:
    """The certificate of a sale as it was written when the sale was over, for the public.

    The rows that break an invariant, if any do, are not for the public: they name users and codes.
    """
    try:
        found = await runtime.certificate(sale_id)
    except BatchError as error:
        raise _meaning(error) from error
    if found is None:
        raise NoSale(f"There is no sale {sale_id}.")
    over_at, document = found
    if document is None:
        raise NoCertificate(
            f"The certificate of sale {sale_id} is written when nothing of it can change any more: "
            f"within seconds after {datetime.fromtimestamp(over_at, UTC):%Y-%m-%d %H:%M:%S} UTC."
        )
    public: dict[str, Any] = json.loads(document)
    for invariant in public["invariants"]:
        del invariant["examples"]
    return public


def start_checkout(
    runtime: Runtime, user_id: int, item_id: int | None, answer: Answer[UUID], *, key: Key | None = None
) -> Refused | None:
    """`checkout` for who does not wait in a task: refuse at once, or call ``answer`` once it is decided.

    Returns the refusal, or ``None``, and then ``answer`` is called exactly once, later, with the code or
    with the exception that `checkout` would raise.
    """
    refused = _refusal(runtime, user_id, item_id)
    if refused is not None:
        count_answer("checkout", refused.reason)
        return refused
    return _CheckingOut(runtime, user_id, item_id, key).start(answer)


def start_purchase(runtime: Runtime, code: UUID, answer: Answer[UUID]) -> Refused | None:
    """`purchase` likewise; ``answer`` is called with the code, or with the exception."""
    return _Settling("purchase", runtime, runtime.purchases, code).start(answer)


def _refusal(runtime: Runtime, user_id: int, item_id: int | None) -> Refused | None:
    """Why this cannot be held, as far as this worker knows."""
    if runtime.draining:
        return Draining
    inventory = runtime.selling()
    if inventory is None:
        return runtime.no_sale()
    return inventory.refusal(user_id, item_id, runtime.clock.now())


class _Call(Generic[R, T]):
    """One call that joins a batch: an operation, and what to do with its outcome."""

    __slots__ = ("_answer", "_runtime")

    name: str
    outcome = "done"

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def start(self, answer: Answer[UUID]) -> Refused | None:
        """Refuse, or call ``answer`` later; either is counted."""
        self._answer = answer
        if self._runtime.draining:
            refused: Refused | None = Draining
        elif not self._runtime.admission.enter(self.name):
            refused = Overloaded
        elif (refused := self._submit()) is not None:
            self._runtime.admission.leave(self.name)
        if refused is not None:
            count_answer(self.name, refused.reason)
        return refused

    def _submit(self) -> Refused | None:
        try:
            future = self._join()
        except Refusal as refusal:
            return refusal
        except BatchError as error:
            return _meaning(error)
        future.add_done_callback(self._settled)
        return None

    def _settled(self, future: "asyncio.Future[T]") -> None:
        error = future.exception()
        if error is None:
            self._end(self.outcome, self._code(future.result()))
        else:
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        if isinstance(error, BatchError):
            meaning = _meaning(error)
            meaning.__cause__ = error
            error = meaning
        self._end(error.reason if isinstance(error, Refusal) else "internal_error", error)

    def _end(self, outcome: str, answer: UUID | BaseException) -> None:
        self._runtime.admission.leave(self.name)
        count_answer(self.name, outcome)
        self._answer(answer)

    def __call__(self, resource: R) -> T:
        raise NotImplementedError

    def _join(self) -> "asyncio.Future[T]":
        raise NotImplementedError

    def _code(self, result: T) -> UUID:
        raise NotImplementedError


class _CheckingOut(_Call[HoldBatch, Hold]):
    """A checkout. One that met a stale memory, or depends on others of its batch, is decided in the next."""

    __slots__ = ("_began", "_item_id", "_key", "_tries", "_user_id")

    name = "checkout"
    outcome = "granted"

    def __init__(self, runtime: Runtime, user_id: int, item_id: int | None, key: Key | None) -> None:
        super().__init__(runtime)
        self._user_id = user_id
        self._item_id = item_id
        self._key = key
        self._began = time.monotonic()
        self._tries = 0

    def __call__(self, batch: HoldBatch) -> Hold:
        if self._tries >= MAX_STALE or time.monotonic() - self._began > PATIENCE:
            raise Overloaded
        hold = batch.hold(self._user_id, self._item_id, self._key)
        self._tries += 1
        return hold

    def _join(self) -> "asyncio.Future[Hold]":
        return self._runtime.checkouts.submit(self._runtime.current().sale.id, self)

    def _failed(self, error: BaseException) -> None:
        if isinstance(error, Repeated) and error.keyed.item_id == self._item_id:
            self._end("repeated", error.keyed.code)
            return
        if isinstance(error, Repeated):
            error = IdempotencyKeyReused()
        if not isinstance(error, SaleEnded):
            super()._failed(error)
            return
        # It was accepted, so that a drain is no reason to refuse it now.
        if (refused := self._submit()) is not None:
            super()._failed(refused if isinstance(refused, Refusal) else refused())

    def _code(self, result: Hold) -> UUID:
        return result.code


class _Settling(_Call[SettlementBatch, Settlement]):
    """A purchase or a release."""

    __slots__ = ("_processor", "_wish", "name")

    def __init__(
        self, name: str, runtime: Runtime, processor: KeyedProcessor[int, SettlementBatch], code: UUID
    ) -> None:
        super().__init__(runtime)
        self.name = name
        self._processor = processor
        self._wish = Settlement(code)

    def __call__(self, batch: SettlementBatch) -> Settlement:
        batch.append(self._wish)
        return self._wish

    def _join(self) -> "asyncio.Future[Settlement]":
        return self._processor.submit(self._runtime.key_of(self._wish.code), self)

    def _code(self, result: Settlement) -> UUID:
        return result.code


async def _granted_before(runtime: Runtime, user_id: int, key: Key) -> UUID | None:
    """The code that this request was granted when it came before."""
    try:
        keyed = await runtime.keyed(runtime.current().sale.id, user_id, key.text)
    except BatchError as error:
        raise _meaning(error) from error
    if keyed is None:
        return None
    if keyed.item_id != key.item_id:
        raise IdempotencyKeyReused
    count_answer("checkout", "repeated")
    return keyed.code


async def _answered(start: Callable[[Answer[UUID]], Refused | None]) -> UUID:
    """Start a call and wait for its answer."""
    future: asyncio.Future[UUID] = asyncio.get_running_loop().create_future()

    def answer(result: UUID | BaseException) -> None:
        if future.done():  # whoever waited has left
            return
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)

    if (refused := start(answer)) is not None:
        raise refused
    return await future


def _meaning(error: BatchError) -> Refusal:
    if isinstance(error, QueueFull):
        return Overloaded()
    cause = error.__cause__
    if isinstance(error, ProcessorStopped) and cause is None:
        return Draining()
    if isinstance(error, LoadFailed | ProcessFailed) or isinstance(cause, DatabaseUnavailable):
        return DatabaseUnavailable()
    return OutcomeUnknown()  # the save was cut off, or has a fault of ours
