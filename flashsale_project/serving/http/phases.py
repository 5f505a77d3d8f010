"""Where a connection stands: what is waited for, for how long already, and for how long at most."""

from dataclasses import dataclass
from enum import Enum, auto

from flashsale_project.serving.limits import KEEP_ALIVE, LISTENING, REQUEST_TIMEOUT, WRITE_TIMEOUT


class Phase(Enum):
    """What a connection waits for.

    Usually that is NEW, then RECEIVING, ANSWERING and IDLE in turn, or at once the next of them where all of
    a request is there, or nothing more to come; at last CLOSING and LOST. It is UNREAD from any of them.
    """

    NEW = auto()
    """Its first request."""
    RECEIVING = auto()
    """The rest of a request."""
    ANSWERING = auto()
    """Our answer: nobody is hung up on for that."""
    LISTENED = auto()
    """Our answer to a question, and whoever asked has closed their side, or has left: that looks the same."""
    IDLE = auto()
    """Another request."""
    UNREAD = auto()
    """Its client, who leaves answers unread. Nothing is begun meanwhile."""
    CLOSING = auto()
    """Its client, who takes the last answer; nothing else is begun."""
    LOST = auto()
    """Nothing."""


LIMITS = {
    Phase.NEW: REQUEST_TIMEOUT,
    Phase.RECEIVING: REQUEST_TIMEOUT,
    Phase.LISTENED: LISTENING,
    Phase.IDLE: KEEP_ALIVE,
    Phase.UNREAD: WRITE_TIMEOUT,
    Phase.CLOSING: WRITE_TIMEOUT,
}
"""Seconds that a phase may last."""


@dataclass(slots=True)
class Life:
    """What a connection has been through, as far as nothing else knows it.

    What its reader, its flow, its transport and its answer know is asked of them: a phase is never stored,
    so it cannot be out of step with them, whoever closes the connection.
    """

    age: int = 0
    """Seconds since something happened that the phase counts from."""
    has_answered: bool = False
    has_said_all: bool = False
    """The client has closed their side, and may still listen."""
    is_lost: bool = False

    def phase(
        self, *, is_unread: bool, is_closing: bool, is_answering: bool, is_question: bool, is_receiving: bool
    ) -> Phase:
        """The phase; of several things that are so, the first one counts."""
        if self.is_lost:
            return Phase.LOST
        if is_unread:
            return Phase.UNREAD
        if is_closing:
            return Phase.CLOSING
        if is_answering:
            return Phase.LISTENED if self.has_said_all and is_question else Phase.ANSWERING
        if is_receiving:
            return Phase.RECEIVING
        return Phase.IDLE if self.has_answered else Phase.NEW

    def second(self, phase: Phase) -> bool:
        """Count a second; true where it was one too many for this phase."""
        self.age += 1
        return self.age > LIMITS.get(phase, self.age)
