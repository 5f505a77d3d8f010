"""The use cases, on workers that know nothing of each other but the database."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import connection

from sales import services
from sales.certificate import Certificate, certify
from sales.codes import new_code
from sales.models import Sale
from sales.refusals import (
    ALL_HELD,
    ALREADY_PURCHASED,
    CHECKOUT_EXPIRED,
    DRAINING,
    INVALID_PARAMETER,
    ITEM_HELD,
    ITEM_SOLD,
    NO_SALE,
    OVERLOADED,
    PAUSED,
    SOLD_OUT,
    UNKNOWN_CODE,
    USER_LIMIT,
    Refusal,
)
from sales.runtime import Runtime
from tests.support.lanes import commits_held
from tests.support.refusals import refuses
from tests.support.waiting import eventually

Sql = Callable[..., list[tuple[Any, ...]]]
OpenWorker = Callable[[], Awaitable[Runtime]]
MakeSale = Callable[..., Sale]


@pytest.fixture(autouse=True)
async def certified(sale: Sale, sql: Sql) -> Any:
    """After every test, the invariants of its sale are proven."""
    yield
    await asyncio.to_thread(_assert_certified, sale)


def _assert_certified(sale: Sale) -> None:
    try:
        sale.refresh_from_db()
        certificate: Certificate = certify(sale)
        assert [f for f in certificate.findings if f.broken] == []
    finally:
        connection.close()


async def counts(worker: Runtime) -> tuple[int, int, int]:
    """Sold, held, available, as this worker knows."""
    inventory = worker.current()
    inventory.expire(worker.memory.clock.now())
    return inventory.sold, inventory.held, inventory.available


async def age(sql: Sql, code: UUID, seconds: int = 3600) -> None:
    """Make a hold as old as if it had been granted so many seconds earlier."""
    await asyncio.to_thread(
        sql,
        """WITH item AS (
               UPDATE sales_saleitem SET held_until = held_until - make_interval(secs => %s),
                                         version = version + 1 WHERE code = %s)
           UPDATE sales_checkout SET created_at = created_at - make_interval(secs => %s),
                                     expires_at = expires_at - make_interval(secs => %s) WHERE code = %s""",
        seconds,
        code,
        seconds,
        seconds,
        code,
    )


async def refresh(worker: Runtime) -> None:
    await worker.housekeeping.do_round()


async def buy(worker: Runtime, user_id: int, item_id: int | None = None) -> UUID:
    code = await services.checkout(worker, user_id=user_id, item_id=item_id)
    await services.purchase(worker, code=code)
    return code


async def gather(*calls: Awaitable[Any]) -> Counter[str]:
    """Run calls at the same time and count how they ended."""
    ends = await asyncio.gather(*calls, return_exceptions=True)
    for end in ends:
        if isinstance(end, BaseException) and not isinstance(end, Refusal):
            raise end
    return Counter(end.reason.name if isinstance(end, Refusal) else "ok" for end in ends)


# --- one worker


async def test_a_checkout_holds_and_a_purchase_sells(worker: Runtime, sql: Sql) -> None:
    code = await services.checkout(worker, user_id=123, item_id=42)
    assert await counts(worker) == (0, 1, 99)
    await services.purchase(worker, code=code)
    assert await counts(worker) == (1, 0, 99)
    rows = await asyncio.to_thread(
        sql, "SELECT item_id, user_id, code, state FROM sales_saleitem WHERE state <> 'available'"
    )
    assert rows == [(42, 123, code, "sold")]


async def test_the_hold_is_a_row_when_the_code_is_told(worker: Runtime, sql: Sql) -> None:
    code = await services.checkout(worker, user_id=2**63 - 1)
    rows = await asyncio.to_thread(sql, "SELECT code, user_id, state FROM sales_checkout")
    assert rows == [(code, 2**63 - 1, "held")]


async def test_a_held_item_and_a_sold_item_are_told_apart(worker: Runtime) -> None:
    await services.checkout(worker, user_id=1, item_id=1)
    await buy(worker, 1, 2)
    with refuses(ITEM_HELD):
        await services.checkout(worker, user_id=2, item_id=1)
    with refuses(ITEM_SOLD):
        await services.checkout(worker, user_id=2, item_id=2)
    assert await counts(worker) == (1, 1, 98)


async def test_the_limit_counts_what_is_held_and_what_is_bought(worker: Runtime) -> None:
    for _ in range(5):
        await buy(worker, 7)
        await services.checkout(worker, user_id=7)
    with refuses(USER_LIMIT):
        await services.checkout(worker, user_id=7)
    assert await counts(worker) == (5, 5, 90)


async def test_a_batch_of_one_user_stops_at_the_limit(worker: Runtime) -> None:
    ends = await gather(*(services.checkout(worker, user_id=7) for _ in range(50)))
    assert ends == {"ok": 10, "user_limit": 40}


async def test_many_who_want_the_same_item_get_it_once(worker: Runtime) -> None:
    ends = await gather(*(services.checkout(worker, user_id=n, item_id=5) for n in range(50)))
    assert ends == {"ok": 1, "item_held": 49}


async def test_a_crowd_for_one_item_costs_one_batch_more(
    worker: Runtime, sale: Sale, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever depends on the first of them is refused when that is saved, without another commit."""
    monkeypatch.setattr("sales.limits.CHECKOUT_PATIENCE", 3600)
    async with commits_held(monkeypatch):
        first = asyncio.create_task(services.checkout(worker, user_id=1, item_id=1))
        await eventually(lambda: worker.saving.checkouts.statistics().running)
        crowd = [services.checkout(worker, user_id=n, item_id=5) for n in range(1000)]
        ends = asyncio.create_task(gather(*crowd))
        await eventually(lambda: worker.saving.checkouts.pending(sale.pk) == 1000)
    await first
    assert await ends == {"ok": 1, "item_held": 999}
    after = worker.saving.checkouts.statistics()
    assert (after.batches, after.operations) == (3, 1001)


async def test_everything_is_sold_and_then_sold_out(worker: Runtime) -> None:
    ends = await gather(*(buy(worker, n) for n in range(150)))
    assert ends["ok"] == 100
    assert ends["ok"] + ends["all_held"] + ends["sold_out"] == 150
    with refuses(SOLD_OUT):
        await services.checkout(worker, user_id=999)
    assert await counts(worker) == (100, 0, 0)


async def test_all_held_is_not_sold_out(worker: Runtime) -> None:
    await gather(*(services.checkout(worker, user_id=n) for n in range(100)))
    with refuses(ALL_HELD) as refused:
        await services.checkout(worker, user_id=999)
    assert refused.value.reason.retry_after is not None
    assert 1 <= refused.value.reason.retry_after <= 61


async def test_a_code_is_bought_once(worker: Runtime) -> None:
    code = await services.checkout(worker, user_id=1)
    ends = await gather(*(services.purchase(worker, code=code) for _ in range(20)))
    assert ends == {"ok": 1, "already_purchased": 19}
    with refuses(ALREADY_PURCHASED) as refused:
        await services.purchase(worker, code=code)
    assert refused.value.reason.members["receipt"].code == code
    assert refused.value.reason.members["receipt"].purchased_at is not None
    assert await counts(worker) == (1, 0, 99)


async def test_bad_codes_harm_no_neighbour_of_their_batch(worker: Runtime, sale: Sale) -> None:
    good = [await services.checkout(worker, user_id=n) for n in range(10)]
    altered = UUID(int=good[0].int ^ 1)
    bad = [uuid4(), UUID(int=0), new_code(sale.pk, 5), new_code(sale.pk, 10**6), new_code(12345, 5), altered]
    ends = await gather(*(services.purchase(worker, code=code) for code in (*good, *bad)))
    assert ends == {"ok": 10, "unknown_code": 6}
    assert await counts(worker) == (10, 0, 90)


async def test_a_released_item_is_free_at_once_and_its_code_is_dead(worker: Runtime) -> None:
    code = await services.checkout(worker, user_id=1, item_id=3)
    await services.release(worker, code=code)
    assert await counts(worker) == (0, 0, 100)
    await services.release(worker, code=code)  # again: no harm, no error
    with refuses(CHECKOUT_EXPIRED):
        await services.purchase(worker, code=code)
    assert (await services.receipt(worker, code=code)).state == "released"
    await buy(worker, 2, 3)
    with refuses(CHECKOUT_EXPIRED):
        await services.purchase(worker, code=code)


async def test_what_was_bought_cannot_be_released(worker: Runtime) -> None:
    code = await buy(worker, 1, 3)
    with refuses(ALREADY_PURCHASED):
        await services.release(worker, code=code)
    with refuses(UNKNOWN_CODE):
        await services.release(worker, code=new_code(1, 3))
    assert await counts(worker) == (1, 0, 99)


async def test_release_and_purchase_of_one_code_at_once_have_one_winner(worker: Runtime) -> None:
    for user in range(10):
        code = await services.checkout(worker, user_id=user)
        ends = await gather(services.release(worker, code=code), services.purchase(worker, code=code))
        assert ends in ({"ok": 1, "already_purchased": 1}, {"ok": 1, "checkout_expired": 1})


@pytest.mark.parametrize(("user_id", "item_id"), [(-1, None), (2**63, None), (1, -1), (1, 100), (1, 10**20)])
async def test_out_of_range_is_refused(worker: Runtime, user_id: int, item_id: int | None) -> None:
    with refuses(INVALID_PARAMETER):
        await services.checkout(worker, user_id=user_id, item_id=item_id)
    assert await counts(worker) == (0, 0, 100)


async def test_a_paused_sale_grants_nothing_but_lets_holders_buy(worker: Runtime, sql: Sql) -> None:
    code = await services.checkout(worker, user_id=1)
    await asyncio.to_thread(sql, "UPDATE sales_sale SET paused = true")
    await refresh(worker)
    with refuses(PAUSED):
        await services.checkout(worker, user_id=2)
    assert (await services.status(worker)).sale.paused
    await services.purchase(worker, code=code)
    await asyncio.to_thread(sql, "UPDATE sales_sale SET paused = false")
    await refresh(worker)
    await services.checkout(worker, user_id=2)


async def test_purchases_go_before_checkouts_when_it_is_tight(
    worker: Runtime, sale: Sale, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sales.limits.MAX_PURCHASES", 5)
    held = [await services.checkout(worker, user_id=1, item_id=item) for item in range(8)]
    async with commits_held(monkeypatch):
        first = asyncio.create_task(services.purchase(worker, code=held[0]))
        await eventually(lambda: worker.saving.purchases.statistics().running)
        others = [asyncio.create_task(services.purchase(worker, code=code)) for code in held[1:]]
        await eventually(lambda: worker.saving.purchases.pending(sale.pk) == 7)
        with refuses(OVERLOADED):
            await services.checkout(worker, user_id=2, item_id=50)
    await asyncio.gather(first, *others)
    await services.checkout(worker, user_id=2, item_id=50)


async def test_a_checkout_that_has_waited_too_long_holds_nothing(
    worker: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with commits_held(monkeypatch):
        first = asyncio.create_task(services.checkout(worker, user_id=1, item_id=1))
        await eventually(lambda: worker.saving.checkouts.statistics().running)
        late = asyncio.create_task(services.checkout(worker, user_id=1, item_id=2))
        await eventually(lambda: worker.saving.checkouts.statistics().waiting)
        monkeypatch.setattr("sales.limits.CHECKOUT_PATIENCE", -1)
    await first
    with refuses(OVERLOADED):
        await late
    assert worker.current().held == 1


async def test_a_draining_worker_refuses_and_finishes_what_it_accepted(worker: Runtime) -> None:
    calls = [asyncio.create_task(services.checkout(worker, user_id=n)) for n in range(5)]
    await asyncio.sleep(0)
    worker.draining = True
    assert await gather(*calls) == {"ok": 5}
    with refuses(DRAINING):
        await services.checkout(worker, user_id=9)
    assert not worker.ready


async def test_a_caller_who_leaves_does_not_take_the_batch_along(worker: Runtime) -> None:
    calls = [asyncio.create_task(services.checkout(worker, user_id=n, item_id=n)) for n in range(10)]
    await asyncio.sleep(0)
    calls[3].cancel()
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert [n for n, end in enumerate(ends) if isinstance(end, asyncio.CancelledError)] == [3]
    sold, held, _ = await counts(worker)
    assert (sold, held) in ((0, 9), (0, 10))


# --- expiry


async def test_a_clock_that_was_set_back_harms_no_purchase(worker: Runtime, sql: Sql) -> None:
    """The hold was granted after what the database now calls now."""
    codes = [await services.checkout(worker, user_id=1, item_id=item) for item in range(2)]
    await asyncio.to_thread(
        sql,
        "UPDATE sales_checkout SET created_at = created_at + interval '2 seconds' WHERE code = %s",
        codes[0],
    )
    await asyncio.gather(*(services.purchase(worker, code=code) for code in codes))


async def test_an_expired_hold_cannot_be_bought_and_is_free_again(worker: Runtime, sql: Sql) -> None:
    code = await services.checkout(worker, user_id=1, item_id=3)
    await age(sql, code)
    assert (await services.receipt(worker, code=code)).state == "expired"  # nobody has swept it yet
    with refuses(CHECKOUT_EXPIRED):
        await services.purchase(worker, code=code)
    await refresh(worker)
    assert await counts(worker) == (0, 0, 100)
    await buy(worker, 2, 3)
    with refuses(CHECKOUT_EXPIRED):
        await services.purchase(worker, code=code)


async def test_memory_takes_an_expired_item_before_any_sweep(worker: Runtime, sql: Sql) -> None:
    code = await services.checkout(worker, user_id=1, item_id=3)
    await age(sql, code)
    await worker.memory.refresh(worker.current())  # knows the row, has not swept it
    second = await services.checkout(worker, user_id=2, item_id=3)
    assert (await services.receipt(worker, code=code)).state == "expired"
    assert (await services.receipt(worker, code=second)).state == "held"


async def test_expired_holds_give_the_user_their_allowance_back(worker: Runtime, sql: Sql) -> None:
    codes = [await services.checkout(worker, user_id=7) for _ in range(10)]
    for code in codes:
        await age(sql, code)
    await worker.memory.refresh(worker.current())
    ends = await gather(*(services.checkout(worker, user_id=7) for _ in range(12)))
    assert ends == {"ok": 10, "user_limit": 2}


async def test_the_database_decides_what_is_over_not_the_worker(worker: Runtime) -> None:
    code = await services.checkout(worker, user_id=1, item_id=3)
    worker.memory.clock.offset += 120  # this worker believes that the hold is over
    with refuses(OVERLOADED):  # it does not know who has the item
        await services.checkout(worker, user_id=2, item_id=3)
    await services.purchase(worker, code=code)


# --- two workers


async def test_a_stale_memory_costs_a_refusal_never_a_wrong_sale(workers: tuple[Runtime, Runtime]) -> None:
    a, b = workers
    await services.checkout(a, user_id=1, item_id=1)
    await buy(a, 1, 2)
    assert await counts(b) == (0, 0, 100)  # knows nothing of it
    with refuses(ITEM_HELD):
        await services.checkout(b, user_id=2, item_id=1)
    with refuses(ITEM_SOLD):
        await services.checkout(b, user_id=2, item_id=2)
    assert await counts(b) == (1, 1, 98)  # and was set right by the conflict


async def test_who_asks_is_told_what_any_worker_had_committed(workers: tuple[Runtime, Runtime]) -> None:
    a, b = workers
    for sold in range(1, 6):
        await buy(a, 1)
        told = await asyncio.gather(*(services.status(b) for _ in range(20)))
        assert {(status.sold, status.held, status.available) for status in told} == {(sold, 0, 100 - sold)}


async def test_any_item_is_found_in_spite_of_a_stale_memory(workers: tuple[Runtime, Runtime]) -> None:
    a, b = workers
    await gather(*(buy(a, n) for n in range(99)))
    code = await services.checkout(b, user_id=500)
    await services.purchase(b, code=code)
    with refuses(SOLD_OUT):
        await services.checkout(b, user_id=501)
    await refresh(a)
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
    await refresh(workers[0])
    assert await counts(workers[0]) == (100, 0, 0)


async def test_a_hold_that_expired_unnoticed_is_swept_by_whoever_needs_it(
    workers: tuple[Runtime, Runtime], sql: Sql
) -> None:
    code = await services.checkout(workers[0], user_id=1, item_id=1)
    await age(sql, code)
    await asyncio.gather(*(worker.memory.refresh(worker.current()) for worker in workers))
    ends = await gather(*(services.checkout(w, user_id=n, item_id=1) for n, w in enumerate(workers, 5)))
    assert ends == {"ok": 1, "item_held": 1}


# --- recovery and boundaries


async def test_a_new_worker_recovers_what_was_sold_and_held(worker: Runtime, open_worker: OpenWorker) -> None:
    await buy(worker, 1, 1)
    await services.checkout(worker, user_id=1, item_id=2)
    successor = await open_worker()
    assert await counts(successor) == (1, 1, 98)
    for item, reason in ((1, ITEM_SOLD), (2, ITEM_HELD)):
        with refuses(reason):
            await services.checkout(successor, user_id=2, item_id=item)
    ends = await gather(*(services.checkout(successor, user_id=1) for _ in range(10)))
    assert ends == {"ok": 8, "user_limit": 2}


async def test_a_start_sweeps_what_a_service_that_is_gone_left(
    worker: Runtime, open_worker: OpenWorker, sql: Sql
) -> None:
    code = await services.checkout(worker, user_id=1, item_id=2)
    await age(sql, code)
    await open_worker()
    rows = await asyncio.to_thread(sql, "SELECT state FROM sales_checkout")
    assert rows == [("expired",)]


async def test_a_hold_of_the_ended_sale_is_bought_in_the_next(
    make_sale: MakeSale, sale: Sale, open_worker: OpenWorker, sql: Sql
) -> None:
    worker = await open_worker()
    kept = await services.checkout(worker, user_id=1, item_id=1)
    lost = await services.checkout(worker, user_id=1, item_id=2)
    await asyncio.to_thread(sql, "UPDATE sales_sale SET ends_at = now() WHERE id = %s", sale.pk)
    following = await asyncio.to_thread(_closing, make_sale, started=0, lasts=3600)
    await refresh(worker)
    assert worker.current().sale.id == following.pk
    await services.purchase(worker, code=kept)
    await age(sql, lost)
    with refuses(CHECKOUT_EXPIRED):
        await services.purchase(worker, code=lost)
    fresh = await services.checkout(worker, user_id=1, item_id=1)  # the same number, another sale
    assert (await services.receipt(worker, code=fresh)).sale_id == following.pk
    assert (await services.status(worker, sale_id=sale.pk)).sold == 1


def _closing(make: MakeSale, **options: Any) -> Sale:
    try:
        return make(**options)
    finally:
        connection.close()


async def test_a_checkout_that_meets_the_boundary_goes_to_the_next_sale(
    make_sale: MakeSale, sale: Sale, open_worker: OpenWorker, sql: Sql
) -> None:
    """Decided in the old sale, it waits for its batch; when that is taken the sale has ended."""
    worker = await open_worker()
    following = await asyncio.to_thread(_closing, make_sale, starts_at=sale.ends_at)
    await refresh(worker)
    assert worker.current().sale.id == sale.pk
    call = asyncio.create_task(services.checkout(worker, user_id=1, item_id=1))
    await asyncio.sleep(0)
    worker.memory.clock.offset += 7200
    code = await call
    assert (await services.receipt(worker, code=code)).sale_id == following.pk


async def test_a_sale_that_is_not_in_memory_is_told_from_the_database(
    worker: Runtime, sale: Sale, make_sale: MakeSale
) -> None:
    old = await asyncio.to_thread(_closing, make_sale, started=90000, lasts=3600)
    status = await services.status(worker, sale_id=old.pk)
    assert (status.sale.id, status.sold, status.held, status.available) == (old.pk, 0, 0, 100)
    with refuses(NO_SALE):
        await services.status(worker, sale_id=999_999)


async def test_without_a_sale_now_there_is_no_sale(worker: Runtime) -> None:
    worker.memory.clock.offset -= 7200
    with refuses(NO_SALE):
        await services.checkout(worker, user_id=1)
    with refuses(NO_SALE):
        await services.status(worker)
    assert not worker.ready


async def test_unknown_codes_of_unloaded_sales_leave_no_trace(worker: Runtime) -> None:
    ends = await gather(*(services.purchase(worker, code=new_code(n + 50, 1)) for n in range(500)))
    assert ends == {"unknown_code": 500}
    with refuses(UNKNOWN_CODE):
        await services.receipt(worker, code=new_code(77, 1))
