"""How long something is waited for: seconds in which the event loop was alive, not those of the clock."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

STEPS = 4
"""In so many steps the time of a wait passes; only a step that ended in time counts."""


class Patience:
    """Calls ``give_up`` once it was waited for so many seconds. Use it with ``with``, in an event loop.

    A loop that was held up, by work of its own or because the whole process got no processor, runs its
    timers before it reads what has come meanwhile. So a step that ends late, by its own length or more, is
    begun again: what came during a stall has the time of a step to be read, and a stall of any length is
    nobody's silence but our own.
    """

    __slots__ = ("_due", "_give_up", "_left", "_loop", "_step", "_timer", "is_over")

    def __init__(self, seconds: float, give_up: Callable[[], object]) -> None:
        self._step = seconds / STEPS
        self._left = STEPS
        self._give_up = give_up
        self.is_over = False
        """Whether ``give_up`` was called."""

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._wait()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timer.cancel()

    def _wait(self) -> None:
        self._due = self._loop.time() + self._step
        self._timer = self._loop.call_later(self._step, self._pass)

    def _pass(self) -> None:
        if self._loop.time() - self._due < self._step:
            self._left -= 1
        if self._left:
            self._wait()
        else:
            self.is_over = True
            self._give_up()


@asynccontextmanager
async def patient(seconds: float) -> AsyncIterator[None]:
    """Cancel what is awaited inside once it took so many seconds. Raises `TimeoutError` then."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as waiting:
        with Patience(seconds, lambda: waiting.reschedule(loop.time())):
            yield
