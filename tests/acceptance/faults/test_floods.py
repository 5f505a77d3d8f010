"""Clients that ask for what nobody knows and hang up at once, and crowds in front of the admin."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from statistics import quantiles
from uuid import UUID

import pytest

from tests.acceptance.faults import cheap_passwords
from tests.acceptance.faults.conftest import BACK, Judged, Run
from tests.acceptance.history.connection import Connection
from tests.acceptance.history.operations import Call
from tests.support.processes import resident
from tests.support.service import MakeService, Service

MEMORY = 60
"""MB that a worker may grow by, whatever is asked for and however often."""

FLOODERS = 40
"""Connections opened at the same time, again and again, by those who mean harm."""

PASSWORD = "sesame-0123456789"

FLOODS: dict[str, Callable[[], str]] = {
    "sales": lambda: f"GET /sales/{random.getrandbits(62)}",
    "certificates": lambda: f"GET /sales/{random.getrandbits(62)}/certificate",
    "receipts": lambda: f"GET /checkouts/{_code()}",
    "releases": lambda: f"DELETE /checkouts/{_code()}",
    "purchases": lambda: f"POST /purchase?code={_code()}",
    "keys": lambda: "POST /checkout?user_id=1&item_id=16000000",
    "nowhere": lambda: f"GET /{random.getrandbits(62)}",
}


def _code() -> UUID:
    """One that reads like one of ours, and was never given out."""
    number = random.getrandbits(128)
    return UUID(int=number & ~(0xF << 76 | 3 << 62) | 8 << 76 | 2 << 62)


@pytest.fixture(scope="module")
def service(make_service: MakeService, full: bool) -> Service:
    service = make_service("--checkout-ttl", "2", "--user-limit", "4", items=100_000 if full else 20_000)
    if not full:
        service.environment["DJANGO_SETTINGS_MODULE"] = cheap_passwords.__name__
    return service.start()


async def test_unknown_ids_and_hung_up_connections(service: Service, judged: Judged, full: bool) -> None:
    """Memory stays, nobody else is refused, and the database is not taken for lost."""
    workers = service.workers()
    before = [resident(pid) for pid in workers]
    async with judged("floods of unknown ids, hung up at once", service) as run:
        run.runs = len(FLOODS)
        await run.load.more(100)
        alone = len(run.load.operations)
        for make in FLOODS.values():
            await flood(service, make, 8_000 if full else 400)
        beside = len(run.load.operations)
        await run.load.more(100)
    print(f"a hold: {_held(run, 0, alone)} before the floods, {_held(run, alone, beside)} beside them")
    assert run.failures == set()
    assert service.workers() == workers
    assert "the database is unavailable" not in service.output
    assert "database.lost" not in service.output
    assert "Traceback" not in service.output
    assert len(service.output) < 100_000
    for pid, old in zip(workers, before, strict=True):
        assert resident(pid) - old < MEMORY, f"worker {pid} grew from {old:.0f} to {resident(pid):.0f} MB"


async def test_staff_pause_the_sale_whoever_crowds_the_admin(service: Service, judged: Judged) -> None:
    """Slow bodies, passwords, and whatever else: a page and an action are answered, and the sale goes on."""
    environment = {"DJANGO_SUPERUSER_PASSWORD": PASSWORD}
    service.environment |= environment
    created = await asyncio.to_thread(
        service.manage, "createsuperuser", "--noinput", "--username", "boss", "--email", ""
    )
    assert created.returncode == 0, created.stderr
    staff = await logged_in(service)
    async with judged("slow bodies and passwords at the admin", service) as run, crowded(service):
        await run.load.more(50)
        for _ in range(2):
            assert (await staff.get("/admin/")).startswith("HTTP/1.1 200")
        await staff.act("pause")
        await run.load.until(lambda: _last_is_paused(run), BACK)
        await staff.act("resume")
        await run.load.until(lambda: not _last_is_paused(run), BACK)
        await run.load.more(50)
    assert run.failures == set()


async def flood(service: Service, make: Callable[[], str], count: int) -> None:
    """So many requests, each on a connection of its own that is cut when it was sent."""
    left = iter(range(count))

    async def one_after_the_other() -> None:
        for _ in left:
            with contextlib.suppress(OSError):
                connection = await Connection.open(("127.0.0.1", service.port))
                key = f"Idempotency-Key: {random.getrandbits(62)}"
                connection.send(f"{make()} HTTP/1.1\r\nHost: localhost\r\n{key}\r\n\r\n".encode())
                await asyncio.sleep(random.choice([0, 0.001]))
                connection.abort()

    await asyncio.gather(*(one_after_the_other() for _ in range(FLOODERS)))


@asynccontextmanager
async def crowded(service: Service) -> AsyncIterator[None]:
    """Meanwhile the admin has many bodies that do not end, and many passwords to check."""
    over = False

    async def never_end() -> None:
        while not over:
            with contextlib.suppress(OSError):
                connection = await Connection.open(("127.0.0.1", service.port))
                connection.send(
                    b"POST /admin/login/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nx"
                )
                while not over and not connection.closed:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                connection.abort()

    async def guess() -> None:
        while not over:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
                guesser = Browser(service)
                await guesser.get("/admin/login/")
                await guesser.post("/admin/login/", username="boss", password="wrong")

    tasks = [asyncio.create_task(never_end()) for _ in range(40)]
    tasks += [asyncio.create_task(guess()) for _ in range(20)]
    try:
        yield
    finally:
        over = True
        await asyncio.gather(*tasks)


class Browser:
    """Keeps its cookies, and fills in forms."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._cookies: dict[str, str] = {}

    async def get(self, path: str) -> str:
        """Open a page."""
        return await self._send(f"GET {path}", "")

    async def post(self, path: str, **fields: str) -> str:
        """Send a form."""
        fields["csrfmiddlewaretoken"] = self._cookies.get("csrftoken", "")
        body = "&".join(f"{name}={value}" for name, value in fields.items())
        return await self._send(f"POST {path}", body)

    async def act(self, action: str) -> None:
        """Do something with all sales that are on."""
        answer = await self.post(
            "/admin/sales/sale/?time=current",
            action=action,
            select_across="1",
            _selected_action="1",
        )
        assert answer.startswith("HTTP/1.1 302"), answer[:300]

    async def _send(self, line: str, body: str) -> str:
        cookies = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
        head = (
            f"{line} HTTP/1.1\r\nHost: localhost\r\nCookie: {cookies}\r\nConnection: close\r\n"
            f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        async with asyncio.timeout(BACK):
            reader, writer = await asyncio.open_connection("127.0.0.1", self._service.port)
            try:
                writer.write((head + body).encode())
                answer = (await reader.read()).decode()
            finally:
                writer.close()
        for header in answer.partition("\r\n\r\n")[0].split("\r\n")[1:]:
            name, _, value = header.partition(": ")
            if name.lower() == "set-cookie":
                cookie, _, value = value.partition(";")[0].partition("=")
                self._cookies[cookie] = value.strip('"')
        return answer


async def logged_in(service: Service) -> Browser:
    """Staff."""
    browser = Browser(service)
    await browser.get("/admin/login/")
    answer = await browser.post("/admin/login/", username="boss", password=PASSWORD, next="/admin/")
    assert answer.startswith("HTTP/1.1 302"), answer[:300]
    return browser


def _last_is_paused(run: Run) -> bool:
    looked = [o for o in run.load.operations[-300:] if o.call is Call.SALE and o.answer]
    return bool(looked and looked[-1].answer and looked[-1].answer["paused"])


def _held(run: Run, start: int, end: int) -> str:
    """How long holds took."""
    took = [
        1000 * (o.ended_at - o.started_at)
        for o in run.load.operations[start:end]
        if o.call is Call.CHECKOUT and o.status == 200
    ]
    cuts = quantiles(took, n=100)
    return f"p50 {cuts[49]:.1f} ms, p99 {cuts[98]:.1f} ms"
