"""A train is one row: who sits where, and a version that makes its saves safe."""

from typing import ClassVar

from django.db import models

from batching.contrib.django import VersionedModel, VersionedQuerySet

SEATS = 30
MAX_NAME = 50


class Refused(Exception):
    """A booking that cannot be, and why: nothing was changed."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Train(VersionedModel):
    """A train and who has booked which seat."""

    name = models.CharField(max_length=MAX_NAME, unique=True)
    seats = models.JSONField(default=dict, help_text="person by number of the seat")

    is_changed: ClassVar[bool] = False
    """Whether there is something to save."""

    # That of VersionedModel, once more: type checkers do not find it where the app is not installed.
    objects = VersionedQuerySet["Train"].as_manager()

    class Meta:
        app_label = "trains"

    def __str__(self) -> str:
        return self.name

    def book(self, person: str, seat: int) -> None:
        """Book a seat. First it checks, then it changes, with no I/O between: an operation of a batch.

        Booking one's own seat again changes nothing. Raises `Refused`.
        """
        if not 1 <= seat <= SEATS:
            raise Refused("no_such_seat", f"A train has the seats 1 to {SEATS}.")
        holder = self.seats.get(str(seat))
        if holder == person:
            return
        if holder is not None:
            raise Refused("seat_taken", f"Seat {seat} is taken.")
        if person in self.seats.values():
            raise Refused("second_seat", f"{person} has another seat on this train.")
        self.seats[str(seat)] = person
        self.is_changed = True  # type: ignore[misc]  # of this object alone
