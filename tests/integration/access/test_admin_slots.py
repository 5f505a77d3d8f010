"""The admin when it is crowded: staff who are logged in get through, whoever else comes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from flashsale_project.access import admin_slots, staff_pass
from flashsale_project.access.admin_slots import FOR_ALL, FOR_STAFF, MAX_WAITING, AdminSlots
from flashsale_project.access.staff_pass import COOKIE, has_pass
from flashsale_project.serving.http.django_headers import for_the_admin, own_cookies
from flashsale_project.serving.http.heads import Fields
from sales.refusals import OVERLOADED
from tests.support.refusals import refuses
from tests.support.waiting import eventually

LOGIN = "/admin/login/?next=/admin/"


class Crowd:
    """Requests of one kind that stay where they are until they are told to go."""

    def __init__(self, slots: AdminSlots, **kind: bool) -> None:
        self._slots = slots
        self._kind = {"is_staff": False, "is_login": False} | kind
        self._gone = asyncio.Event()
        self.tasks: list[asyncio.Task[None]] = []
        self.served = 0

    def come(self, count: int) -> None:
        self.tasks += [asyncio.create_task(self._stay()) for _ in range(count)]

    async def go(self) -> None:
        self._gone.set()
        await asyncio.gather(*self.tasks)

    async def _stay(self) -> None:
        async with self._slots.taken(**self._kind):
            self.served += 1
            await self._gone.wait()


@pytest.fixture
async def crowd() -> AsyncIterator[Callable[..., Crowd]]:
    """Make crowds in front of the same slots; all go at the end."""
    slots = AdminSlots()
    crowds: list[Crowd] = []

    def make(**kind: bool) -> Crowd:
        crowds.append(Crowd(slots, **kind))
        return crowds[-1]

    yield make
    await asyncio.gather(*(crowd.go() for crowd in crowds))


async def test_staff_are_served_beside_any_crowd(crowd: Callable[..., Crowd]) -> None:
    others, logins, staff = crowd(), crowd(is_login=True), crowd(is_staff=True)
    others.come(MAX_WAITING)
    logins.come(MAX_WAITING)
    await eventually(lambda: others.served + logins.served == FOR_ALL)
    staff.come(FOR_STAFF)
    await eventually(lambda: staff.served == FOR_STAFF)


async def test_one_password_is_checked_at_a_time(crowd: Callable[..., Crowd]) -> None:
    logins, others = crowd(is_login=True), crowd()
    logins.come(MAX_WAITING)
    await eventually(lambda: logins.served == admin_slots.LOGINS)
    others.come(FOR_ALL - admin_slots.LOGINS)
    await eventually(lambda: others.served == FOR_ALL - admin_slots.LOGINS)
    assert logins.served == admin_slots.LOGINS


async def test_more_than_may_wait_are_refused_at_once(crowd: Callable[..., Crowd]) -> None:
    logins = crowd(is_login=True)
    logins.come(MAX_WAITING)
    await eventually(lambda: logins.served)
    too_many = crowd(is_login=True)
    too_many.come(3)
    for task in too_many.tasks:
        with refuses(OVERLOADED):
            await task
    too_many.tasks.clear()
    others = crowd()
    others.come(1)
    await eventually(lambda: others.served)


async def test_who_leaves_while_waiting_makes_room(crowd: Callable[..., Crowd]) -> None:
    logins = crowd(is_login=True)
    logins.come(MAX_WAITING)
    await eventually(lambda: logins.served)
    for task in logins.tasks[1:]:
        task.cancel()
    await asyncio.gather(*logins.tasks[1:], return_exceptions=True)
    del logins.tasks[1:]
    logins.come(MAX_WAITING - 1)
    await logins.go()


def cookies(client: Client) -> Fields:
    """What a browser would send."""
    return [(b"cookie", f"{name}={morsel.value}".encode()) for name, morsel in client.cookies.items()]


@pytest.fixture
def boss(db: None) -> User:
    """Staff."""
    return User.objects.create_superuser("boss", password="sesame")


def log_in(client: Client) -> Client:
    client.get(LOGIN)
    assert client.post(LOGIN, {"username": "boss", "password": "sesame"}).status_code == 302
    return client


def test_staff_who_log_in_get_a_pass(boss: User) -> None:
    client = log_in(Client())
    assert has_pass(own_cookies(cookies(client)))
    morsel = client.cookies[COOKIE]
    assert morsel["httponly"]
    assert morsel["secure"]
    assert morsel["samesite"] == "Lax"


def test_nobody_else_has_one(boss: User) -> None:
    stranger = Client()
    stranger.get(LOGIN)
    stranger.post(LOGIN, {"username": "boss", "password": "wrong"})
    assert COOKIE not in stranger.cookies
    User.objects.create_user("customer", password="sesame")
    customer = Client()
    customer.login(username="customer", password="sesame")
    customer.get("/admin/")
    assert not has_pass(own_cookies(cookies(customer)))


def test_a_pass_is_for_its_session_alone_and_cannot_be_made_up(boss: User) -> None:
    client = log_in(Client())
    session, staff = client.cookies["sessionid"].value, client.cookies[COOKIE].value
    right = f"other=1; sessionid={session}; {COOKIE}={staff}; sessionid=second"
    assert has_pass(own_cookies([(b"accept", b"*/*"), (b"cookie", right.encode())]))
    for made_up in (
        f"sessionid={session}",
        f"{COOKIE}={staff}",
        f"sessionid=another; {COOKIE}={staff}",
        f"sessionid={session}; {COOKIE}=staff",
        f"sessionid={session}; {COOKIE}=staff:1:x",
        f"sessionid={session}; {COOKIE}={staff[:-1]}",
        f"sessionid=; {COOKIE}=",
        "",
        "\x00\xff;;;=",
        "a" * 60_000,
    ):
        assert not has_pass(own_cookies([(b"cookie", made_up.encode("latin-1"))]))


def test_a_pass_ends(boss: User, monkeypatch: pytest.MonkeyPatch) -> None:
    client = log_in(Client())
    monkeypatch.setattr(staff_pass, "LIFETIME", -1)
    assert not has_pass(own_cookies(cookies(client)))


def test_who_logs_out_gives_it_back(boss: User) -> None:
    client = log_in(Client())
    client.post("/admin/logout/")
    assert not client.cookies[COOKIE].value


async def test_who_is_one_too_many_is_told_when_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from flashsale_project import asgi

    slots = AdminSlots()
    monkeypatch.setattr(asgi, "_slots", slots)
    monkeypatch.setattr(slots._admission, "_limit", 0)
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "path": "/admin/", "method": "GET", "headers": []}
    await asgi.application(scope, None, send)
    assert sent[0]["status"] == 503
    assert (b"Retry-After", b"1") in sent[0]["headers"]
    assert b'"overloaded"' in sent[1]["body"]


@pytest.mark.parametrize(
    "cookie",
    [
        b'sessionid="' + b'\\"' * 30_000 + b'"',
        b'a="' + b'\\"' * 30_000 + b'"',
        b"a=b;" * 15_000,
        b"sessionid=" + b"x" * 60_000,
    ],
)
def test_cookies_that_are_slow_to_read_are_not_read(cookie: bytes) -> None:
    assert own_cookies([(b"cookie", cookie)]) == {}
    assert for_the_admin([(b"cookie", cookie), (b"accept", b"*/*")], {}) == [(b"accept", b"*/*")]


@pytest.mark.parametrize(
    ("content_type", "is_kept"),
    [
        (b"application/x-www-form-urlencoded", True),
        (b"application/x-www-form-urlencoded; charset=UTF-8", True),
        (b"multipart/form-data; boundary=----WebKitFormBoundary7MA4YWxkTrZu0gW", True),
        (b"multipart/form-data; boundary=b; charset=hex", False),
        (b"multipart/form-data; boundary=" + b"b" * 71, False),
        (b"application/x-www-form-urlencoded; charset=rot13", False),
        (b"text/plain; x*=nosuch''b%41", False),
        (b'a;x="' + b";" * 60_000, False),
    ],
)
def test_django_is_given_the_types_of_its_forms_alone(content_type: bytes, is_kept: bool) -> None:
    headers = [(b"content-type", content_type)]
    assert for_the_admin(headers, {}) == (headers if is_kept else [])
