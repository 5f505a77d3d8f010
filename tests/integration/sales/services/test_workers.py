"""Two workers on one sale, of which neither knows what the other does."""

import asyncio

from sales import services
from sales.refusals import ALL_HELD, ALREADY_PURCHASED, ITEM_HELD, ITEM_SOLD, SOLD_OUT, Refusal
from sales.runtime import Runtime
from tests.integration.sales.services.calls import gather, known
from tests.support.database import Sql
from tests.support.refusals import refuses
from tests.support.shopping import age, buy, counts
from tests.support.waiting import eventually


async def test_a_stale_memory_costs_a_refusal_never_a_wrong_sale(workers: tuple[Runtime, Runtime]) -> None:
    a, b = workers
    await services.checkout(a, user_id=1, item_id=1)
    await buy(a, 1, 2)
    assert known(b) == (0, 0, 100)  # knows nothing of it
    with refuses(ITEM_HELD):
        await services.checkout(b, user_id=2, item_id=1)
    with refuses(ITEM_SOLD):
        await services.checkout(b, user_id=2, item_id=2)
    assert known(b) == (1, 1, 98)  # and was set right by the conflict


async def test_who_asks_is_told_what_any_worker_had_committed(workers: tuple[Runtime, Runtime]) -> None:
    a, b = workers
    await eventually(lambda: b.housekeeping.database_answers)
    for sold in range(1, 6):
        await buy(a, 1)
        told = await asyncio.gather(*(counts(b) for _ in range(20)))
        assert set(told) == {(sold, 0, 100 - sold)}


async def test_any_item_is_found_in_spite_of_a_stale_memory(workers: tuple[Runtime, Runtime]) -> None:
    a, b = workers
    await gather(*(buy(a, n) for n in range(99)))
    code = await services.checkout(b, user_id=500)
    await services.purchase(b, code=code)
    with refuses(SOLD_OUT):
        await services.checkout(b, user_id=501)
    await a.housekeeping.do_round()
    with refuses(SOLD_OUT):
        await services.checkout(a, user_id=501)


async def test_a_code_of_one_worker_is_bought_at_another(workers: tuple[Runtime, Runtime]) -> None:
    a, b = workers
    code = await services.checkout(a, user_id=1, item_id=1)
    await services.purchase(b, code=code)
    with refuses(ALREADY_PURCHASED):
        await services.purchase(a, code=code)
    other = await services.checkout(b, user_id=1, item_id=2)
    await services.release(a, code=other)
    await services.checkout(a, user_id=2, item_id=2)


async def test_one_user_at_two_workers_at_once_stays_within_the_limit(
    workers: tuple[Runtime, Runtime],
) -> None:
    ends = await gather(*(services.checkout(worker, user_id=7) for _ in range(30) for worker in workers))
    assert ends == {"ok": 10, "user_limit": 50}


async def test_a_user_at_the_limit_does_not_harm_the_rest_of_the_batch(
    workers: tuple[Runtime, Runtime],
) -> None:
    a, b = workers
    for _ in range(9):
        await services.checkout(a, user_id=7)
    ends = await gather(
        *(services.checkout(b, user_id=7) for _ in range(3)),
        *(services.checkout(b, user_id=n) for n in range(100, 120)),
    )
    assert ends == {"ok": 21, "user_limit": 2}


async def test_one_item_at_two_workers_at_once_is_held_once(workers: tuple[Runtime, Runtime]) -> None:
    for item in range(20):
        ends = await gather(*(services.checkout(worker, user_id=item, item_id=item) for worker in workers))
        assert ends == {"ok": 1, "item_held": 1}


async def test_one_code_at_two_workers_at_once_is_bought_once(workers: tuple[Runtime, Runtime]) -> None:
    for user in range(20):
        code = await services.checkout(workers[0], user_id=user)
        ends = await gather(*(services.purchase(worker, code=code) for worker in workers))
        assert ends == {"ok": 1, "already_purchased": 1}


async def test_two_workers_sell_exactly_all(workers: tuple[Runtime, Runtime]) -> None:
    async def shop(worker: Runtime, user: int) -> None:
        while True:
            try:
                await buy(worker, user)
            except Refusal as refusal:
                if refusal.reason is SOLD_OUT:
                    return
                if refusal.reason.name != ALL_HELD.name:
                    raise
                # As far as this worker knows, until it looks.
                await worker.memory.refresh(worker.current())

    async with asyncio.timeout(60):
        await asyncio.gather(*(shop(worker, user) for user in range(20) for worker in workers))
    await workers[0].housekeeping.do_round()
    assert known(workers[0]) == (100, 0, 0)


async def test_a_hold_that_expired_unnoticed_is_swept_by_whoever_needs_it(
    workers: tuple[Runtime, Runtime], sql: Sql
) -> None:
    code = await services.checkout(workers[0], user_id=1, item_id=1)
    await asyncio.to_thread(age, sql, code)
    await asyncio.gather(*(worker.memory.refresh(worker.current()) for worker in workers))
    ends = await gather(*(services.checkout(w, user_id=n, item_id=1) for n, w in enumerate(workers, 5)))
    assert ends == {"ok": 1, "item_held": 1}
