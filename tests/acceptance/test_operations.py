"""Starting, stopping, crashing and rotating the service, under load."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from flashsale_project.serving.limits import SILENCE_TIMEOUT
from tests.support.client import Client
from tests.support.service import PROJECT, MakeService, Service
from tests.support.waiting import DEADLINE


@dataclass
class Crowd:
    """Shoppers that hold any item, buy it, and come again; every answer is counted."""

    service: Service
    answers: Counter[str] = field(default_factory=Counter)
    held: set[str] = field(default_factory=set)
    bought: set[str] = field(default_factory=set)
    broken: list[BaseException] = field(default_factory=list)
    gone: bool = False

    async def shop(self, user: int) -> None:
        """One shopper on one connection, until the crowd goes."""
        async with Client(self.service.port) as client:
            while not self.gone:
                try:
                    held = await client.post(f"/checkout?user_id={user}")
                    self.count(held.status, None if held.status == 200 else held.reason)
                    if held.status == 200:
                        self.held.add(held.text)
                        bought = await client.post(f"/purchase?code={held.text}")
                        self.count(bought.status, None if bought.status == 200 else bought.reason)
                        if bought.status == 200:
                            self.bought.add(held.text)
                    else:
                        await asyncio.sleep(0.001)  # a refused shopper must not starve the machine
                except (OSError, asyncio.IncompleteReadError) as error:
                    self.broken.append(error)
                    client.close()
                    await asyncio.sleep(0.01)

    def count(self, status: int, reason: str | None) -> None:
        self.answers[f"{status} {reason}" if reason else str(status)] += 1

    async def until(self, check: Callable[["Crowd"], bool], timeout: float = DEADLINE) -> None:
        async with asyncio.timeout(timeout):
            while not check(self):  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def more(self, answers: int) -> None:
        """Wait for so many more answers."""
        goal = self.answers.total() + answers
        await self.until(lambda crowd: crowd.answers.total() >= goal)


@asynccontextmanager
async def crowd_of(service: Service, size: int) -> AsyncIterator[Crowd]:
    """A crowd that shops meanwhile, each with a user id of their own."""
    crowd = Crowd(service)
    shoppers = [asyncio.create_task(crowd.shop(user)) for user in range(size)]
    try:
        yield crowd
    finally:
        crowd.gone = True
        await asyncio.gather(*shoppers)


def assert_all_are_rows(service: Service, crowd: Crowd) -> None:
    """Every acknowledged hold and purchase is in the database, and every invariant holds."""
    states = {str(code): state for code, state in service.sql("SELECT code, state FROM sales_checkout")}
    assert crowd.held <= states.keys()
    assert {code for code in crowd.bought if states[code] != "purchased"} == set()
    for (sale,) in service.sql("SELECT id FROM sales_sale WHERE starts_at <= now()"):
        result = service.manage("verifysale", str(sale))
        assert result.returncode == 0, result.stdout + result.stderr


async def test_two_workers_sell_exactly_ten_thousand(make_service: MakeService) -> None:
    service = make_service("--user-limit", "1000", items=10_000).start()
    async with crowd_of(service, 64) as crowd:
        await crowd.until(lambda crowd: crowd.answers["409 sold_out"] >= 64, 120)
    assert len(crowd.bought) == 10_000
    assert crowd.broken == []
    assert set(crowd.answers) <= {"200", "409 sold_out", "409 all_held"}
    assert_all_are_rows(service, crowd)
    assert service.sql("SELECT count(*) FROM sales_saleitem WHERE state = 'sold'") == [(10_000,)]
    assert service.stop() == 0
    assert "10,000 sold, 0 held, 0 free" in service.output
    assert "every invariant holds" in service.output


async def test_a_stop_under_load_answers_everybody_and_a_start_goes_on(make_service: MakeService) -> None:
    service = make_service("--user-limit", "1000", items=5_000).start()
    async with crowd_of(service, 32) as crowd:
        await crowd.until(lambda crowd: len(crowd.bought) > 100)
        service.signal(signal.SIGTERM)
        # Refused while it stops, with a reason; then there is nobody to connect to.
        await crowd.until(lambda crowd: bool(crowd.answers["503 draining"] and crowd.broken))
        crowd.gone = True
    assert service.wait() == 0
    assert "Traceback" not in service.output
    assert {answer for answer in crowd.answers if answer.startswith("5")} == {"503 draining"}
    assert {type(error) for error in crowd.broken} <= {ConnectionRefusedError, ConnectionResetError}
    service.start()
    assert_all_are_rows(service, crowd)
    async with Client(service.port) as client:
        sale = (await client.get("/sale")).json
    assert sale["sold"] >= len(crowd.bought)
    assert sale["sold"] + sale["held"] + sale["available"] == 5_000
    assert service.sql("SELECT count(*) FROM sales_sale WHERE starts_at <= now()") == [(1,)]
    assert service.stop() == 0


async def test_a_killed_worker_loses_nothing_and_comes_back(make_service: MakeService) -> None:
    service = make_service("--user-limit", "1000", items=5_000).start()
    async with crowd_of(service, 16) as crowd:
        for _ in range(3):
            await crowd.more(100)
            victim = service.workers()[0]
            os.kill(victim, signal.SIGKILL)
            await crowd.until(lambda _, victim=victim: service.has_replaced([victim]))
            await crowd.more(100)
    assert {answer for answer in crowd.answers if answer.startswith("5")} == set()
    assert_all_are_rows(service, crowd)
    assert service.stop() == 0


async def test_a_stuck_worker_is_replaced_and_the_sale_goes_on(make_service: MakeService) -> None:
    service = make_service("--user-limit", "100000", items=50_000).start()
    async with crowd_of(service, 16) as crowd:
        await crowd.more(100)
        stuck = service.workers()[0]
        os.kill(stuck, signal.SIGSTOP)
        await crowd.more(100)  # from the other worker
        await crowd.until(lambda _: service.has_replaced([stuck]), SILENCE_TIMEOUT + DEADLINE)
        await crowd.more(100)
    assert {answer for answer in crowd.answers if answer.startswith("5")} == set()
    reason = f"was not heard from for {SILENCE_TIMEOUT} seconds and was killed"
    assert f"ERROR worker.replaced pid={stuck} worker=" in service.output
    assert service.output.count(f'reason="{reason}"') == service.output.count("worker.replaced") == 1
    assert_all_are_rows(service, crowd)
    assert service.stop() == 0


async def test_a_killed_service_is_started_again_and_knows_everything(make_service: MakeService) -> None:
    service = make_service("--user-limit", "1000", items=5_000).start()
    async with crowd_of(service, 16) as crowd:
        await crowd.until(lambda crowd: len(crowd.bought) > 100)
        service.signal(signal.SIGKILL)
        service.wait()
        await crowd.until(lambda crowd: bool(crowd.broken))
    service.start()  # on the same port, which the orphaned workers have left or are leaving
    assert len(service.metrics_directories()) == 1  # that of the killed one is gone
    assert_all_are_rows(service, crowd)
    async with crowd_of(service, 4) as again:
        await again.more(100)
    assert set(again.answers) == {"200"}
    assert service.stop() == 0
    assert service.metrics_directories() == []


async def test_a_rolling_restart_refuses_nobody(make_service: MakeService) -> None:
    service = make_service("--user-limit", "100000", items=100_000).start()
    before = service.workers()
    async with crowd_of(service, 16) as crowd:
        await crowd.more(100)
        service.signal(signal.SIGHUP)
        await crowd.until(lambda _: service.has_replaced(before))
        await crowd.more(100)
    assert crowd.broken == []
    assert set(crowd.answers) == {"200"}
    assert_all_are_rows(service, crowd)
    assert service.stop() == 0


async def test_rotation_refuses_nobody(make_service: MakeService) -> None:
    """Hours of three seconds, with more items than the crowd can buy: everybody always gets one."""
    service = make_service("--period", "3", "--user-limit", "100000", items=20_000).start()
    async with crowd_of(service, 16) as crowd:
        sales = set()
        async with Client(service.port) as client, asyncio.timeout(60):
            while len(sales) < 4:
                sale = (await client.get("/sale")).json
                assert sale["items"] == 20_000
                sales.add(sale["id"])
                await asyncio.sleep(0.05)
    assert crowd.broken == []
    assert set(crowd.answers) == {"200"}
    sold = service.sql("SELECT count(DISTINCT sale_id) FROM sales_saleitem WHERE state = 'sold'")
    assert sold[0][0] >= 4
    gaps = service.sql(
        """SELECT count(*) FROM (SELECT starts_at, lag(ends_at) OVER (ORDER BY starts_at) AS before
           FROM sales_sale) AS sale WHERE starts_at <> before"""
    )
    assert gaps == [(0,)]
    assert_all_are_rows(service, crowd)
    assert service.stop() == 0


async def test_holds_that_nobody_buys_come_back(make_service: MakeService) -> None:
    service = make_service("--checkout-ttl", "1", items=20).start()
    async with Client(service.port) as client, asyncio.timeout(DEADLINE):
        codes = [(await client.post(f"/checkout?user_id={n}")).text for n in range(20)]
        refused = await client.post("/checkout?user_id=99")
        # While this loop ran the first holds may have come back already.
        assert refused.status == 200 or (refused.reason, refused.headers["retry-after"]) in (
            ("all_held", "1"),
            ("all_held", "2"),
        )
        while (await client.get("/sale")).json["available"] < 19:
            pass
        answer = await client.post(f"/purchase?code={codes[0]}")
        assert (answer.status, answer.reason) == (409, "checkout_expired")
    assert service.stop() == 0


def test_ctrl_c_twice_is_not_worse_than_once(make_service: MakeService) -> None:
    service = make_service().start()
    service.signal(signal.SIGINT)
    service.signal(signal.SIGINT)
    assert service.wait() == 0
    assert "Stopped after" in service.output
    assert "Traceback" not in service.output


async def test_an_output_that_takes_no_more_does_not_end_the_sale(make_service: MakeService) -> None:
    service = make_service().start()
    service.stop()
    with open("/dev/full", "wb") as full:  # noqa: ASYNC230
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "manage.py", "runsale", "--port", str(service.port), *service.arguments),
            cwd=PROJECT,
            env=service.environment,
            stdout=full,
            stderr=full,
            start_new_session=True,
        )
    async with asyncio.timeout(60):
        status = 0
        while status != 200:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                async with Client(service.port) as client:
                    status = (await client.get("/readyz")).status
    async with Client(service.port) as client:
        assert (await client.post("/checkout?user_id=1")).status == 200
    process.send_signal(signal.SIGTERM)
    # Python itself complains that it cannot flush its output, with exit code 120.
    assert await process.wait() in (0, 120)


def assert_clear_refusal(code: int, output: str, *words: str) -> None:
    """One sentence after what was being done, and exit code 1, no traceback."""
    assert code == 1, output
    assert "Traceback" not in output
    lines = [line for line in output.strip().splitlines() if line and not line.endswith(" …")]
    assert len(lines) == 1, output
    for word in words:
        assert word in lines[0]


def test_a_taken_port_is_told_in_one_sentence(make_service: MakeService) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = make_service().manage("runsale", "--port", str(port))
    assert_clear_refusal(result.returncode, result.stdout + result.stderr, str(port), "--port")


def test_the_port_of_another_service_is_taken_too(make_service: MakeService) -> None:
    service = make_service().start()
    result = service.manage("runsale", "--port", str(service.port))
    assert_clear_refusal(result.returncode, result.stdout + result.stderr, str(service.port))
    assert service.stop() == 0


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("FLASHSALE_ITEMS", "many"),
        ("FLASHSALE_ITEMS", "0"),
        ("FLASHSALE_CHECKOUT_TTL", "-5"),
        ("FLASHSALE_WORKERS", "1.5"),
        ("DATABASE_URL", "mysql://localhost/x"),
        ("FLASHSALE_PG_BIN", "/nowhere"),
    ],
)
def test_a_wrong_setting_is_named(make_service: MakeService, variable: str, value: str) -> None:
    service = make_service()
    if variable == "FLASHSALE_PG_BIN":
        service.environment.pop("DATABASE_URL", None)
    service.environment[variable] = value
    result = service.manage("runsale", "--port", "0")
    assert_clear_refusal(result.returncode, result.stdout + result.stderr, variable)


@pytest.mark.parametrize(
    "option", ["--items=0", "--items=99999999", "--workers=0", "--period=0", "--port=70000"]
)
def test_a_wrong_option_is_named(make_service: MakeService, option: str) -> None:
    result = make_service().manage("runsale", option)
    name = option.partition("=")[0].strip("-").replace("-", "_")
    assert result.returncode == 1
    assert "Traceback" not in result.stdout + result.stderr
    assert re.search(name, result.stderr, re.IGNORECASE)


def test_a_database_that_is_down_is_told_in_one_sentence(make_service: MakeService) -> None:
    service = make_service()
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, and not listening: refused
        port = nobody.getsockname()[1]
        service.environment["DATABASE_URL"] = f"postgresql://me:secret@127.0.0.1:{port}/sales"
        result = service.manage("runsale", "--port", "0")
    output = result.stdout + result.stderr
    assert_clear_refusal(result.returncode, output, f"127.0.0.1:{port}", "refused")
    assert "secret" not in output
