"""How a worker tells its supervisor that it lives, and when the supervisor gives it up.

Both ends of one channel, a pair of connected sockets: the worker beats as soon as it serves and then
once a second until its event loop ends, while it drains too.
"""

import contextlib
import socket

from flashsale_project.serving.limits import READY_TIMEOUT, SILENCE_TIMEOUT


def beat(channel: socket.socket) -> None:
    """Send one heartbeat. Never blocks and never fails: the channel must be non-blocking.

    It is left out where the channel is full, because the supervisor sleeps, and where the supervisor is gone.
    """
    with contextlib.suppress(OSError):
        channel.send(b".")


class Vigil:
    """What the supervisor knows of the life of one worker.

    `second` must be called once a second. It counts its calls and not the clock: where the supervisor
    itself was asleep, with the whole machine or stopped, that was one second at most, and the workers
    have all of their time to be heard again.
    """

    def __init__(self) -> None:
        self._heard = False
        self._silence = 0
        self._leave: int | None = None

    def beat(self) -> None:
        """The worker was heard."""
        self._heard = True
        self._silence = 0

    def must_end_within(self, seconds: int) -> None:
        """The worker was told to go; of two such limits the earlier one counts."""
        self._leave = seconds if self._leave is None else min(self._leave, seconds)

    def second(self) -> str | None:
        """Count a second. Where the worker is to be killed, return what it did not do."""
        self._silence += 1
        if self._leave is not None:
            self._leave -= 1
            if self._leave <= 0:
                return "did not stop in time"
        if not self._heard and self._silence >= READY_TIMEOUT:
            return f"was not ready within {READY_TIMEOUT} seconds"
        if self._heard and self._silence >= SILENCE_TIMEOUT:
            return f"was not heard from for {SILENCE_TIMEOUT} seconds"
        return None
