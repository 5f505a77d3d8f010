"""What an operator may meet that is no fault of the database or the network; those have their own suite."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Sequence
from functools import partial

import pytest

from flashsale_project.serving.limits import SILENCE_TIMEOUT
from tests.acceptance.history.driver import Load, Plan
from tests.acceptance.history.journeys import EVERYTHING, SHOPPING
from tests.acceptance.history.judge import judge_load
from tests.acceptance.history.operations import Call, Operation
from tests.support.client import Client
from tests.support.service import MakeService, Service, launch, services
from tests.support.waiting import DEADLINE, START

SHOPPERS = Plan(journeys=SHOPPING, clients=64, pause=0)
CROWD = Plan(journeys=EVERYTHING, clients=30, pause=0.05)
FEW = Plan(journeys=EVERYTHING, clients=10, pause=0.05)


@pytest.fixture(scope="module")
def lane() -> str:
    """The usual one; a test of the other makes its own service."""
    return "express"


def crowd(service: Service, plan: Plan = CROWD) -> Load:
    return Load([("127.0.0.1", service.port)], plan)


def failures(operations: Sequence[Operation]) -> set[str]:
    """Why the service failed those who made sense."""
    return {o.reason for o in operations if o.status >= 500 and o.call is not Call.NONSENSE}


async def assert_exact(load: Load, service: Service) -> None:
    """Every answer was right, and the certificate of the sale holds."""
    verdict = await judge_load(load, service.database_url())
    assert verdict.exact, str(verdict)
    result = service.manage("verifysale")
    assert result.returncode == 0, result.stdout + result.stderr


async def test_two_workers_sell_exactly_what_there_is(make_service: MakeService) -> None:
    service = make_service(items=1_500).start()
    async with crowd(service, SHOPPERS) as load:
        await load.until(lambda: any(o.reason == "sold_out" for o in load.operations[-64:]), 120)
    await assert_exact(load, service)
    assert {o.reason for o in load.operations if o.status != 200} <= {
        "sold_out",
        "all_held",
        "item_sold",
        "item_held",
    }
    assert service.sql("SELECT count(*) FROM sales_saleitem WHERE state = 'sold'") == [(1_500,)]
    assert service.stop() == 0
    assert "1,500 sold, 0 held, 0 free" in service.output
    assert "every invariant holds" in service.output


async def test_the_django_lane_outlives_its_workers_a_reload_and_a_stop() -> None:
    """In short what the fault suite does to the express lane, and to both in its long form."""
    with services("django") as make_service:
        service = make_service("--checkout-ttl", "2", "--user-limit", "4", items=5_000).start()
        async with crowd(service, FEW) as load:
            await load.more(50)
            before = service.workers()
            service.signal(signal.SIGHUP)
            await load.until(partial(service.has_replaced, before), 2 * START)
            await load.more(50)
            victim = service.workers()[0]
            os.kill(victim, signal.SIGKILL)
            await load.until(partial(service.has_replaced, [victim]), START)
            await load.more(50)
            reloaded = len(load.operations)
            service.signal(signal.SIGTERM)
            assert await asyncio.to_thread(service.wait) == 0
            assert "Traceback" not in service.output
            await asyncio.to_thread(service.start)
            await load.more(50)
        await assert_exact(load, service)
        assert failures(load.operations[:reloaded]) == set()
        assert failures(load.operations[reloaded:]) <= {"draining"}
        assert service.stop() == 0


async def test_a_stuck_worker_is_replaced_and_the_sale_goes_on(make_service: MakeService) -> None:
    service = make_service("--checkout-ttl", "2", "--user-limit", "4", items=5_000).start()
    async with crowd(service) as load:
        await load.more(50)
        stuck = service.workers()[0]
        os.kill(stuck, signal.SIGSTOP)
        await load.more(10)  # from the other worker
        await load.until(partial(service.has_replaced, [stuck]), SILENCE_TIMEOUT + DEADLINE)
        await load.more(50)
    await assert_exact(load, service)
    assert failures(load.operations) == set()
    reason = f"was not heard from for {SILENCE_TIMEOUT} seconds and was killed"
    assert f"ERROR worker.replaced pid={stuck} worker=" in service.output
    assert service.output.count(f'reason="{reason}"') == service.output.count("worker.replaced") == 1
    assert service.stop() == 0


async def test_a_killed_supervisor_is_started_again_beside_its_orphans(make_service: MakeService) -> None:
    service = make_service("--checkout-ttl", "2", "--user-limit", "4", items=5_000).start()
    async with crowd(service) as load:
        await load.more(50)
        service.signal(signal.SIGKILL)
        await asyncio.to_thread(service.wait)
        # On the same port, which the orphaned workers have left or are leaving.
        await asyncio.to_thread(service.start)
        assert len(service.metrics_directories()) == 1  # that of the killed one is gone
        await load.more(50)
    await assert_exact(load, service)
    assert service.stop() == 0
    assert service.metrics_directories() == []


async def test_an_output_that_takes_no_more_does_not_end_the_sale(make_service: MakeService) -> None:
    service = make_service(workers=1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        service.port = probe.getsockname()[1]
    with open("/dev/full", "wb") as full:  # noqa: ASYNC230
        process = launch(
            *("runsale", "--port", str(service.port), *service.arguments),
            env=service.environment,
            stdout=full,
            stderr=full,
        )
    async with asyncio.timeout(START):
        status = 0
        while status != 200:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                async with Client(service.port) as client:
                    status = (await client.get("/readyz")).status
            await asyncio.sleep(0.05)
    async with Client(service.port) as client:
        assert (await client.post("/checkout?user_id=1")).status == 200
    process.send_signal(signal.SIGTERM)
    # Python itself complains that it cannot flush its output, with exit code 120.
    assert await asyncio.to_thread(process.wait, START) in (0, 120)


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
    service = make_service(workers=1).start()
    result = service.manage("runsale", "--port", str(service.port))
    assert_clear_refusal(result.returncode, result.stdout + result.stderr, str(service.port))
    assert service.stop() == 0
