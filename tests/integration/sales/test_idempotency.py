"""A request with an ``Idempotency-Key`` that is repeated gets the answer of the first one."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from sales import services
from sales.refusals import IDEMPOTENCY_KEY_REUSED, ITEM_HELD, Refusal
from sales.runtime import Runtime
from tests.support.database import Sql
from tests.support.lanes import LANES, Lane, connected, post, reasons, statuses
from tests.support.refusals import refuses

Workers = tuple[Runtime, Runtime]


async def rows(sql: Sql) -> tuple[int, int]:
    """How many checkouts and keys there are."""
    counted = await asyncio.to_thread(
        sql, "SELECT (SELECT count(*) FROM sales_checkout), (SELECT count(*) FROM sales_idempotencykey)"
    )
    return counted[0][0], counted[0][1]


@pytest.mark.parametrize("item", [5, None])
async def test_a_repeated_checkout_gets_the_same_code_at_any_worker(
    workers: Workers, sql: Sql, item: int | None
) -> None:
    one, two = workers
    code = await services.checkout(one, user_id=1, item_id=item, key="k")
    for worker in one, two, one:
        assert await services.checkout(worker, user_id=1, item_id=item, key="k") == code
    await services.purchase(two, code=code)
    assert await services.checkout(two, user_id=1, item_id=item, key="k") == code
    assert await rows(sql) == (1, 1)


async def test_it_does_not_matter_what_became_of_the_hold(worker: Runtime, sql: Sql) -> None:
    code = await services.checkout(worker, user_id=1, item_id=5, key="k")
    await services.release(worker, code=code)
    await services.checkout(worker, user_id=2, item_id=5)
    assert await services.checkout(worker, user_id=1, item_id=5, key="k") == code
    assert (await services.receipt(worker, code=code)).state == "released"


async def test_keys_belong_to_their_users_and_to_one_request(worker: Runtime, sql: Sql) -> None:
    code = await services.checkout(worker, user_id=1, item_id=5, key="k")
    assert await services.checkout(worker, user_id=2, item_id=6, key="k") != code
    assert await services.checkout(worker, user_id=1, item_id=7, key="l") != code
    for item in 6, None:
        with refuses(IDEMPOTENCY_KEY_REUSED):
            await services.checkout(worker, user_id=1, item_id=item, key="k")
    assert await rows(sql) == (3, 3)


async def test_a_refusal_is_not_remembered(worker: Runtime, sql: Sql) -> None:
    code = await services.checkout(worker, user_id=1, item_id=5)
    with refuses(ITEM_HELD):
        await services.checkout(worker, user_id=2, item_id=5, key="k")
    await services.release(worker, code=code)
    await services.checkout(worker, user_id=2, item_id=5, key="k")
    assert await rows(sql) == (2, 1)


@pytest.mark.parametrize("item", [5, None])
async def test_the_same_request_at_the_same_time_is_granted_once(
    workers: Workers, sql: Sql, item: int | None
) -> None:
    calls = [
        services.checkout(worker, user_id=user, item_id=None if item is None else item + user, key=f"k{user}")
        for user in range(10)
        for worker in workers * 3
    ]
    codes = await asyncio.gather(*calls)
    for user in range(10):
        assert len(set(codes[6 * user : 6 * user + 6])) == 1
    assert await rows(sql) == (10, 10)
    assert len(set(codes)) == 10


async def test_different_requests_with_one_key_at_the_same_time(workers: Workers, sql: Sql) -> None:
    calls = [services.checkout(w, user_id=1, item_id=item, key="k") for item in range(3) for w in workers]
    ends = await asyncio.gather(*calls, return_exceptions=True)
    granted = {end for end in ends if not isinstance(end, Refusal)}
    assert len(granted) == 1
    assert {end.reason for end in ends if isinstance(end, Refusal)} == {IDEMPOTENCY_KEY_REUSED}
    assert await rows(sql) == (1, 1)


async def test_a_used_key_harms_no_neighbour_of_its_batch(
    workers: Workers, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both workers look before either is granted: the database tells the second one."""
    one, two = workers
    code = await services.checkout(one, user_id=1, key="k")

    async def seen_too_early(sale_id: int, user_id: int, key: str) -> None:
        return None

    monkeypatch.setattr(two, "key_use", seen_too_early)
    repeated, *others = await asyncio.gather(
        services.checkout(two, user_id=1, key="k"),
        services.checkout(two, user_id=1, key="l"),
        services.checkout(two, user_id=2, key="k"),
        services.checkout(two, user_id=2),
    )
    assert repeated == code
    assert len({code, *others}) == 4
    assert await rows(sql) == (4, 3)
    with refuses(IDEMPOTENCY_KEY_REUSED):
        await services.checkout(two, user_id=1, item_id=99, key="k")
    assert await rows(sql) == (4, 3)


@pytest.fixture(params=LANES, ids=lambda kind: kind.__name__.lower())
async def lane(worker: Runtime, request: pytest.FixtureRequest) -> AsyncIterator[Lane]:
    """A connection to each of the lanes."""
    async with connected(request.param, worker) as connection:
        yield connection


async def test_over_http(lane: Lane) -> None:
    for _ in range(2):
        await lane.send(post("/checkout?user_id=1&item_id=5", "Idempotency-Key: abc"))
        await lane.settle()
    first, second = lane.codes()
    assert first == second
    for headers in (), ("Idempotency-Key: x",), ("Idempotency-Key: x",), ():
        await lane.send(post(f"/purchase?code={first.decode()}", *headers))
        await lane.settle()
    await lane.send(post("/checkout?user_id=1&item_id=6", "Idempotency-Key: abc"))
    await lane.settle()
    assert statuses(lane) == [200, 200, 200, 200, 200, 409, 422]
    assert reasons(lane) == ["already_purchased", "idempotency_key_reused"]


@pytest.mark.parametrize("key", ["", "x" * 65, "t\tab", "\xe9"])
async def test_a_bad_key_is_refused(lane: Lane, key: str) -> None:
    for target in "/checkout?user_id=1", "/purchase?code=00000000-0000-8000-8000-000000000000":
        await lane.send(post(target, f"Idempotency-Key: {key}"))
        await lane.settle()
    assert reasons(lane) == ["invalid_parameter"] * 2
