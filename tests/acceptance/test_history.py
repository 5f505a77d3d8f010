"""The whole service under a load of every kind, judged from the outside."""

import pytest

from tests.acceptance.history.driver import Load, Plan
from tests.acceptance.history.evidence import ALONE, LAG
from tests.acceptance.history.journeys import EVERYTHING, hope
from tests.acceptance.history.judge import judge_load
from tests.acceptance.history.operations import Call
from tests.support.service import MakeService

DEADLINE = 120


@pytest.mark.parametrize(("workers", "lag"), [(1, ALONE), (2, LAG)])
async def test_a_sale_that_sells_out_is_exact_in_every_answer(
    make_service: MakeService, workers: int, lag: float
) -> None:
    service = make_service("--checkout-ttl", "1", "--user-limit", "4", items=150, workers=workers).start()
    plan = Plan(journeys=EVERYTHING, clients=40, pause=0.01, seed=7)
    async with Load([("127.0.0.1", service.port)], plan) as load:
        # Those who abandon their holds keep items from being sold: until the last is, much happens.
        await load.until(lambda: any(o.reason == "sold_out" for o in load.operations[-50:]), DEADLINE)
    verdict = await judge_load(load, service.database_url(), lag=lag)
    assert verdict.exact, str(verdict)
    # Nothing was wrong, and nothing was left out.
    for call in Call:
        assert any(operation.call is call for operation in load.operations)
    assert {
        "409 item_held",
        "409 item_sold",
        "409 user_limit",
        "409 sold_out",
    } <= verdict.summary.refused.keys()
    assert {"409 checkout_expired", "409 already_purchased"} <= verdict.summary.refused.keys()
    assert verdict.summary.unknown.keys() == {"no answer: left"}
    assert verdict.summary.unsent == 0
    assert service.stop() == 0
    assert "150 sold, 0 held, 0 free" in service.output
    assert "Traceback" not in service.output


async def test_nobody_is_refused_for_what_was_only_hoped_for(make_service: MakeService) -> None:
    service = make_service("--checkout-ttl", "2", "--user-limit", "2", items=2000).start()
    plan = Plan(journeys={hope: 1}, clients=20, seed=7)
    async with Load([("127.0.0.1", service.port)], plan) as load:
        # Each time somebody is refused: one user may not have both, and nobody what is held.
        await load.until(lambda: sum(o.status == 409 for o in load.operations) > 200, DEADLINE)
    verdict = await judge_load(load, service.database_url())
    assert verdict.exact, str(verdict)
    assert {"409 item_held"} <= verdict.summary.refused.keys() <= {"409 item_held", "409 user_limit"}
    assert service.stop() == 0
