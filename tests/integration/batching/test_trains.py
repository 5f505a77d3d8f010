"""The train example of `batching`, with real rows."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from io import StringIO

import psycopg
import pytest
from django.core.management import call_command
from django.db import connection
from django.db.models import F

from batching import SaveFailed
from batching.examples.trains import booking
from batching.examples.trains.booking import MAX_TRIES, BookingOffice, Conflict, Unavailable
from batching.examples.trains.models import SEATS, Refused, Train
from sales.connections import connection_info
from tests.support.database import Sql
from tests.support.waiting import eventually


def test_the_migrations_are_complete(db: None) -> None:
    call_command("makemigrations", "trains", check=True, dry_run=True, stdout=StringIO())


def test_a_train_checks_before_it_changes() -> None:
    train = Train(name="batchy")
    train.book("a", 3)
    train.is_changed = False  # type: ignore[misc]
    train.book("a", 3)
    for person, seat, reason in [
        ("b", 3, "seat_taken"),
        ("a", 4, "second_seat"),
        ("b", 0, "no_such_seat"),
        ("b", SEATS + 1, "no_such_seat"),
    ]:
        with pytest.raises(Refused) as refusal:
            train.book(person, seat)
        assert refusal.value.reason == reason
    assert train.seats == {"3": "a"}
    assert not train.is_changed


@pytest.fixture
async def offices(transactional_db: None) -> AsyncIterator[tuple[BookingOffice, BookingOffice]]:
    """Two processes, as far as the database can tell."""
    async with BookingOffice() as first, BookingOffice() as second:
        yield first, second


async def seats_of(sql: Sql, name: str) -> dict[str, str]:
    """What is in the row."""
    ((seats,),) = await asyncio.to_thread(sql, "SELECT seats FROM trains_train WHERE name = %s", name)
    return dict(json.loads(seats))


async def test_a_train_is_created_at_first_use_by_whoever_is_first(
    offices: tuple[BookingOffice, BookingOffice], sql: Sql
) -> None:
    first, second = offices
    await asyncio.gather(
        first.book(train="new", person="a", seat=1), second.book(train="new", person="b", seat=2)
    )
    assert await seats_of(sql, "new") == {"1": "a", "2": "b"}


async def test_a_conflict_loads_the_train_again_and_repeats_the_bookings(
    offices: tuple[BookingOffice, BookingOffice], sql: Sql
) -> None:
    first, second = offices
    await first.book(train="x", person="z", seat=30)
    metrics = [office._processor.subscribe() for office in offices]
    with psycopg.connect(connection_info()) as blocker:
        blocker.execute("LOCK TABLE trains_train IN SHARE MODE")  # who would save waits, who loads does not
        bookings = asyncio.gather(
            first.book(train="x", person="a", seat=1),
            first.book(train="x", person="b", seat=2),
            second.book(train="x", person="c", seat=1),
            second.book(train="x", person="d", seat=3),
            return_exceptions=True,
        )
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'trains_train'::regclass"
        await eventually(lambda: blocker.execute(waiting).fetchone() == (2,))
    outcomes = await bookings
    refused = [outcome for outcome in outcomes if outcome is not None]
    assert [getattr(outcome, "reason", outcome) for outcome in refused] == ["seat_taken"]
    seats = await seats_of(sql, "x")
    assert seats == {"1": seats["1"], "2": "b", "3": "d", "30": "z"}
    assert seats["1"] == ("a" if outcomes[0] is None else "c")
    for office in offices:
        await office._processor.stop()
    errors = [metric.error for subscription in metrics async for metric in subscription]
    conflicts = [error for error in errors if isinstance(error, SaveFailed)]
    assert [type(error.__cause__) for error in conflicts] == [Conflict]


async def test_a_booking_is_given_up_after_a_few_conflicts(
    transactional_db: None, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = 0

    def load(names: Sequence[str]) -> list[Train]:
        nonlocal loads
        loads += 1
        trains = load_trains(names)
        Train.objects.filter(name__in=names).update(version=F("version") + 1)
        return trains

    load_trains = booking.load
    monkeypatch.setattr(booking, "load", load)
    async with BookingOffice() as office:
        with pytest.raises(Unavailable):
            await office.book(train="busy", person="a", seat=1)
    assert loads == MAX_TRIES
    assert await seats_of(sql, "busy") == {}


async def test_a_booking_that_changes_nothing_saves_nothing(
    offices: tuple[BookingOffice, BookingOffice], sql: Sql
) -> None:
    office, _ = offices
    for _ in range(3):
        await office.book(train="x", person="a", seat=1)
    with pytest.raises(Refused):
        await office.book(train="x", person="b", seat=1)
    assert await asyncio.to_thread(sql, "SELECT version FROM trains_train") == [(1,)]


@pytest.fixture
def unconnected(transactional_db: None) -> None:
    """The connection of the tests themselves is closed: what ends all others would break it for the next."""
    connection.close()


@pytest.mark.usefixtures("unconnected")
async def test_a_connection_that_breaks_costs_one_booking(
    offices: tuple[BookingOffice, BookingOffice], sql: Sql
) -> None:
    office, _ = offices
    await office.book(train="x", person="a", seat=1)
    await asyncio.to_thread(
        sql,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    with pytest.raises(Unavailable):
        await office.book(train="x", person="b", seat=2)
    await office.book(train="x", person="b", seat=2)
    assert await seats_of(sql, "x") == {"1": "a", "2": "b"}


async def test_a_crowd_books_each_seat_once(offices: tuple[BookingOffice, BookingOffice], sql: Sql) -> None:
    async def book(number: int) -> tuple[str, str, int] | None:
        train, person, seat = f"train {number % 10}", f"person {number}", number // 10 % SEATS + 1
        try:
            await offices[number % 2].book(train=train, person=person, seat=seat)
        except Refused:
            return None
        return train, person, seat

    booked = [answer for answer in await asyncio.gather(*[book(n) for n in range(1000)]) if answer]
    assert len(booked) == 10 * SEATS
    assert Counter(train for train, _, _ in booked) == {f"train {n}": SEATS for n in range(10)}
    for n in range(10):
        assert await seats_of(sql, f"train {n}") == {str(s): p for t, p, s in booked if t == f"train {n}"}
