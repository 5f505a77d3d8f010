"""An event loop whose clock jumps to the next timer as soon as nothing else is left to do."""

import asyncio
import selectors


class NothingWillHappen(RuntimeError):
    """Everybody waits, and no timer is set: a waiter was forgotten."""


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits: it moves the loop's clock by as long as the loop wanted to sleep."""

    loop: "VirtualClockLoop"

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """What is ready now."""
        if timeout is None:
            raise NothingWillHappen
        self.loop.now += max(timeout, 0)
        return super().select(0)


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """A loop on virtual time: an hour passes in no time, and only when nothing else can happen.

    Tests on it never sleep, and a lost wake-up raises `NothingWillHappen` instead of hanging. It
    knows no other threads.
    """

    def __init__(self) -> None:
        self.now = 1_000_000.0
        selector = _JumpingSelector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        """Virtual seconds."""
        return self.now


async def settle() -> None:
    """Let every task that can go on do so, without time passing."""
    for _ in range(20):
        await asyncio.sleep(0)
