"""The train example over real sockets, with two worker processes."""

import asyncio
from collections import defaultdict

import pytest

from batching.examples.trains.models import SEATS
from tests.support.client import Client
from tests.support.service import MakeService, Service

TRAINS, BOOKINGS, CONNECTIONS = 40, 1_600, 64


@pytest.fixture(scope="module")
def lane() -> str:
    """The usual one: either passes the example on to Django."""
    return "express"


@pytest.fixture(scope="module")
def trains(make_service: MakeService) -> Service:
    """A service with the example."""
    return make_service(FLASHSALE_TRAIN_EXAMPLE="true").start()


async def test_many_book_seats_on_many_trains(trains: Service) -> None:
    wishes = iter(range(BOOKINGS))
    booked: dict[str, dict[str, str]] = defaultdict(dict)

    async def passenger() -> None:
        async with Client(trains.port) as client:
            for number in wishes:
                train, person, seat = f"train{number % TRAINS}", f"p{number}", str(number // 7 % SEATS + 1)
                answer = await client.get(wish := f"/book?train={train}&person={person}&seat={seat}")
                while answer.status == 503:  # the other worker was faster five times: nothing was booked
                    answer = await client.get(wish)
                if answer.status == 200:
                    assert booked[train].setdefault(seat, person) == person
                else:
                    assert (answer.status, answer.reason) == (400, "seat_taken")

    await asyncio.gather(*[passenger() for _ in range(CONNECTIONS)])
    rows = await asyncio.to_thread(
        trains.sql, "SELECT name, seats FROM trains_train WHERE name LIKE 'train%'"
    )
    assert dict(rows) == booked
    assert len(rows) == TRAINS
    for _, seats in rows:
        assert len(set(seats.values())) == len(seats)


BAD = [
    ("person=a&seat=1", "invalid_parameter"),
    ("train=x&seat=1", "invalid_parameter"),
    ("train=x&person=&seat=1", "invalid_parameter"),
    ("train=x&person=%20&seat=1", "invalid_parameter"),
    ("train=x&person=a", "invalid_parameter"),
    ("train=x&person=a&seat=one", "invalid_parameter"),
    ("train=x&person=a&seat=-1", "invalid_parameter"),
    ("train=x&person=a&seat=%D9%A1", "invalid_parameter"),
    ("train=x&person=a&seat=99999999999999999999", "invalid_parameter"),
    ("train=x&train=y&person=a&seat=1", "invalid_parameter"),
    ("train=%00&person=a&seat=1", "invalid_parameter"),
    ("train=x&person=%ED%A0%80%00&seat=1", "invalid_parameter"),
    (f"train={'x' * 51}&person=a&seat=1", "invalid_parameter"),
    ("train=x&person=a&seat=0", "no_such_seat"),
    ("train=x&person=a&seat=31", "no_such_seat"),
    ("train=x&person=b&seat=7", "seat_taken"),
    ("train=x&person=elgopher&seat=8", "second_seat"),
]


async def test_what_cannot_be_booked_is_refused_with_the_reason(trains: Service) -> None:
    async with Client(trains.port) as client:
        for method in ("POST", "GET"):
            answer = await client.request(method, "/book?train=x&person=elgopher&seat=7&unknown=1")
            assert (answer.status, answer.text) == (200, "booked")
        for query, reason in BAD:
            answer = await client.get(f"/book?{query}")
            assert (answer.status, answer.reason) == (400, reason), query
        answer = await client.request("DELETE", "/book?train=x&person=a&seat=1")
        assert (answer.status, answer.headers["allow"]) == (405, "GET, POST")
    rows = await asyncio.to_thread(
        trains.sql, "SELECT name, seats FROM trains_train WHERE name NOT LIKE 'train%'"
    )
    assert rows == [("x", {"7": "elgopher"})]
