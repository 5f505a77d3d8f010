"""A seeded event loop on virtual time, for processes that share nothing but what they send each other.

The processes of a simulation run on one loop. Which of them goes on is drawn each time, so that a seed
gives an interleaving, and the same seed the same one. Nothing here waits for the real clock, for a thread
or for a socket: asking for one raises `NotImplementedError`.
"""

import asyncio
import contextvars
import heapq
import itertools
import sys
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any, TypeVar
from unittest.mock import patch

T = TypeVar("T")

PROCESS: contextvars.ContextVar[str] = contextvars.ContextVar("process", default="world")
"""The process that the running code belongs to; whatever is scheduled there belongs to it too."""


class Trouble(Exception):
    """Something went wrong where nobody handles it, or nothing goes on, or there is no end to it."""


class Handle:
    """What the loop shall call, and for whom."""

    __slots__ = ("args", "callback", "context", "process")

    def __init__(
        self, callback: Callable[..., object], args: tuple[Any, ...], context: contextvars.Context
    ) -> None:
        self.callback: Callable[..., object] | None = callback
        self.args = args
        self.context = context
        self.process = context.get(PROCESS, "world")

    def cancel(self) -> None:
        """Do not call it."""
        self.callback = None

    def cancelled(self) -> bool:
        """Whether it will not be called."""
        return self.callback is None


class SimulatedLoop(asyncio.AbstractEventLoop):
    """Runs one step of some process at a time; time passes only when nobody has anything to do.

    ``orderly``: each process sees its own callbacks in the order in which they were scheduled, as asyncio
    promises. Otherwise they are drawn like those of all others, which asks more of the code.
    """

    def __init__(self, random: Random, *, orderly: bool = True, max_steps: int = 200_000) -> None:
        self.now = 0.0
        self.steps = 0
        self.trouble: list[str] = []
        self._random = random
        self._orderly = orderly
        self._max_steps = max_steps
        self._ready: list[Handle] = []
        self._timers: list[tuple[float, int, Handle]] = []
        self._numbers = itertools.count()
        self._dead: set[str] = set()
        self._stalled: dict[str, float] = {}
        self._remains: list[asyncio.Task[Any]] = []
        self._closed = False

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run until this coroutine is done. Raises what it raises, or `Trouble`."""
        task = self.create_task(coroutine)
        asyncio._set_running_loop(self)
        try:
            while not task.done():
                self._step()
                if self.trouble:
                    raise Trouble("; ".join(self.trouble))
        finally:
            asyncio._set_running_loop(None)
        return task.result()

    def kill(self, process: str) -> None:
        """Nothing of this process is run any more, not even its ``finally`` clauses."""
        self._dead.add(process)
        # Nobody refers to a task that cannot be woken, and collecting it as garbage would run them.
        self._remains += asyncio.all_tasks(self)

    def stall(self, process: str, seconds: float) -> None:
        """Nothing of this process is run for some time, as if it had no processor."""
        self._stalled[process] = max(self._stalled.get(process, 0.0), self.now + seconds)

    def close(self) -> None:
        """End all tasks that are left. Nobody hears of what they still do."""
        self._closed = True
        asyncio._set_running_loop(self)
        try:
            # Some wait again in a ``finally`` clause, which Python reports where nobody can catch it.
            with patch.object(sys, "unraisablehook", lambda _: None):
                left: set[asyncio.Task[Any]] = set()
                while begun := asyncio.all_tasks(self) - left:  # the last words of some begin others
                    left |= begun
                    for task in begun:
                        task._log_destroy_pending = False  # type: ignore[attr-defined]
                        _leave(task.get_coro())
        finally:
            asyncio._set_running_loop(None)
        self._remains.clear()
        self._ready.clear()
        self._timers.clear()

    def _step(self) -> None:
        ready, timers = self._ready, self._timers
        if not ready:
            if not timers:
                raise Trouble("everybody waits, and no timer is set")
            self.now = max(self.now, timers[0][0])
        while timers and timers[0][0] <= self.now:
            ready.append(heapq.heappop(timers)[2])
        place = int(self._random.random() * len(ready))
        if self._orderly:
            process, place = ready[place].process, 0
            while ready[place].process != process:
                place += 1
        handle = ready.pop(place)
        if handle.callback is None or handle.process in self._dead:
            return
        if (until := self._stalled.get(handle.process, 0.0)) > self.now:
            heapq.heappush(timers, (until, next(self._numbers), handle))
            return
        self.steps += 1
        if self.steps > self._max_steps:
            raise Trouble(f"still not quiet after {self.steps} steps")
        try:
            handle.context.run(handle.callback, *handle.args)
        except Exception as error:
            name = getattr(handle.callback, "__qualname__", "a callback")
            self.trouble.append(f"{name} of {handle.process} raised {error!r}")

    # --- what asyncio asks of a loop

    def time(self) -> float:
        """Virtual seconds, the same for all processes."""
        return self.now

    def call_soon(  # type: ignore[override]
        self,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> Handle:
        """Call it in one of the next steps."""
        handle = Handle(callback, args, context if context is not None else contextvars.copy_context())
        if not self._closed:
            self._ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> Handle:
        """Call it so many virtual seconds from now."""
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> Handle:
        """Call it at this virtual time."""
        handle = Handle(callback, args, context if context is not None else contextvars.copy_context())
        if not self._closed:
            heapq.heappush(self._timers, (when, next(self._numbers), handle))
        return handle

    def create_future(self) -> "asyncio.Future[Any]":
        """A future of this loop."""
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, **options: Any) -> "asyncio.Task[Any]":
        """A task of this loop."""
        return asyncio.Task(coro, loop=self, **options)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Called by asyncio for what nobody handles. After the end nobody is interested."""
        if not self._closed:
            self.trouble.append(f"{context.get('message')}: {context.get('exception')!r}")

    def get_debug(self) -> bool:
        """No."""
        return False

    def is_running(self) -> bool:
        """Until it is closed."""
        return not self._closed

    def is_closed(self) -> bool:
        """Whether it was closed."""
        return self._closed


def _leave(coroutine: Any) -> None:
    """Close a coroutine, again for each wait in a ``finally`` clause."""
    for _ in range(100):
        try:
            coroutine.close()
        except RuntimeError:
            continue
        except Exception:  # what its own clauses raised
            return
        return
