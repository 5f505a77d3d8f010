"""What a batch merely hopes for refuses nobody: a refusal was true, by committed rows, when it was given.

In each story a user's hold is in a batch and comes to nothing, and somebody beside it in the same batch
could have what they ask for only because of that.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from sales import services
from sales.refusals import Refusal
from sales.runtime import Runtime
from tests.support.database import Sql
from tests.support.lanes import (
    LANES,
    Lane,
    commits_held,
    connected,
    post,
    reasons,
    statuses,
)
from tests.support.shopping import MakeSale, OpenWorker
from tests.support.threads import in_thread
from tests.support.waiting import DEADLINE, eventually

FIRST = 9
"""User and item of who comes first, and is saved while the others gather."""

WAITING = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE application_name = 'flashsale worker' AND wait_event_type = 'Lock'"""

pytestmark = pytest.mark.parametrize("kind", LANES)


def ask(user: int, item: int | None = None, key: str | None = None) -> bytes:
    """A checkout."""
    chosen = "" if item is None else f"&item_id={item}"
    headers = [] if key is None else [f"Idempotency-Key: {key}"]
    return post(f"/checkout?user_id={user}{chosen}", *headers)


def told(lanes: list[Lane]) -> list[str]:
    """The reason of each refusal, or the status."""
    return [(reasons(lane) or [str(status) for status in statuses(lane)])[0] for lane in lanes]


@contextlib.asynccontextmanager
async def one_batch(
    kind: type[Any], worker: Runtime, monkeypatch: pytest.MonkeyPatch, *requests: bytes
) -> AsyncIterator[list[Lane]]:
    """Requests that are in one batch, in this order. It is saved at the end, and then all are answered."""
    monkeypatch.setattr("sales.limits.CHECKOUT_PATIENCE", 3600)
    async with contextlib.AsyncExitStack() as stack:
        first, *lanes = [await stack.enter_async_context(connected(kind, worker)) for _ in (0, *requests)]
        async with commits_held(monkeypatch):
            await first.send(ask(FIRST, FIRST))
            await eventually(lambda: worker.saving.checkouts.statistics().running)
            for number, (lane, request) in enumerate(zip(lanes, requests, strict=True), 1):
                await lane.send(request)
                await eventually(lambda number=number: worker.saving.checkouts.statistics().waiting == number)
            yield lanes
        for lane in lanes:
            await lane.settle()


@pytest.fixture
async def open_two(
    make_sale: MakeSale, open_worker: OpenWorker
) -> Callable[[int], Awaitable[tuple[Runtime, Runtime]]]:
    """Open two workers on a sale of ten items with this limit."""

    async def open_both(limit: int) -> tuple[Runtime, Runtime]:
        await in_thread(make_sale, items=10, user_limit=limit)
        return await open_worker(), await open_worker()

    return open_both


OpenTwo = Callable[[int], Awaitable[tuple[Runtime, Runtime]]]


async def test_a_hold_that_fails_does_not_count_towards_the_limit(
    kind: type[Any], open_two: OpenTwo, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, worker = await open_two(1)
    await services.checkout(other, user_id=1, item_id=5)
    async with one_batch(kind, worker, monkeypatch, ask(2, 5), ask(2, 6)) as lanes:
        pass
    assert told(lanes) == ["item_held", "200"]


@pytest.mark.parametrize(
    ("taken", "asked", "expected"),
    [
        ([1], [1, 2, 3], ["item_held", "200", "200"]),
        ([1, 2], [1, 2, 3], ["item_held", "item_held", "200"]),
        ([1], [1, None, None], ["item_held", "200", "200"]),
        ([1], [1, 2, 3, 4], ["item_held", "200", "200", "user_limit"]),
        ([1], [1, 1, 2, 2], ["item_held", "item_held", "200", "item_held"]),
        ([], [1, 2, 3, 4], ["200", "200", "user_limit", "user_limit"]),
    ],
)
async def test_as_many_are_granted_as_there_is_room_for(
    kind: type[Any],
    open_two: OpenTwo,
    monkeypatch: pytest.MonkeyPatch,
    taken: list[int],
    asked: list[int | None],
    expected: list[str],
) -> None:
    other, worker = await open_two(2)
    for item in taken:
        await services.checkout(other, user_id=1, item_id=item)
    async with one_batch(kind, worker, monkeypatch, *(ask(2, item) for item in asked)) as lanes:
        pass
    assert told(lanes) == expected


async def test_who_has_reached_the_limit_elsewhere_keeps_no_item_from_others(
    kind: type[Any], open_two: OpenTwo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two holds of one user, of which only one fits, and others who want the same items."""
    other, worker = await open_two(2)
    await services.checkout(other, user_id=2, item_id=1)
    requests = ask(2, 5), ask(2, 6), ask(3, 5), ask(4, 6)
    async with one_batch(kind, worker, monkeypatch, *requests) as lanes:
        pass
    assert told(lanes) == ["200", "item_held", "item_held", "200"]


async def test_the_last_free_item_is_not_all_held_by_who_may_not_have_it(
    kind: type[Any], open_two: OpenTwo, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, worker = await open_two(1)
    codes = [await services.checkout(other, user_id=100 + item, item_id=item) for item in range(8)]
    await worker.memory.refresh(worker.current())
    # What this worker knows to be held by somebody else is what takes user 1 to the limit.
    await services.release(other, code=codes[0])
    await services.checkout(other, user_id=1, item_id=0)
    async with one_batch(kind, worker, monkeypatch, ask(1), ask(2), ask(3)) as lanes:
        pass
    assert told(lanes) == ["user_limit", "200", "all_held"]


async def test_a_key_is_not_used_by_a_hold_that_fails(
    kind: type[Any], open_two: OpenTwo, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, worker = await open_two(5)
    await services.checkout(other, user_id=1, item_id=5)
    requests = ask(2, 5, "k"), ask(2, 6, "k"), ask(2, 7, "k"), ask(3, 8, "k"), ask(3, None, "k")
    async with one_batch(kind, worker, monkeypatch, *requests) as lanes:
        pass
    assert told(lanes) == ["item_held", "200", "idempotency_key_reused", "200", "idempotency_key_reused"]


async def test_a_hold_whose_key_was_used_elsewhere_keeps_nothing_from_others(
    kind: type[Any], open_two: OpenTwo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request and its repetition are on their way to two workers."""
    other, worker = await open_two(2)
    async with one_batch(kind, worker, monkeypatch, ask(2, 5, "k"), ask(3, 5), ask(2, 6), ask(2, 7)) as lanes:
        repeated = asyncio.create_task(services.checkout(other, user_id=2, item_id=5, key="k"))
        await eventually(lambda: other.saving.checkouts.statistics().running)
    await repeated
    assert told(lanes)[1:3] == ["item_held", "200"]
    assert told(lanes)[0] == "200"
    assert told(lanes)[3] == "user_limit"
    assert lanes[0].codes() == [str(await repeated).encode()]


async def test_a_neighbour_that_gives_back_in_the_same_moment(
    kind: type[Any], open_two: OpenTwo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The item was taken and is free again when the hold meets its row: that hold comes first again."""
    other, worker = await open_two(1)
    code = await services.checkout(other, user_id=1, item_id=5)
    await services.release(other, code=code)
    async with one_batch(kind, worker, monkeypatch, ask(2, 5), ask(2, 6), ask(3, 5)) as lanes:
        pass
    assert told(lanes) == ["200", "user_limit", "item_held"]


async def test_a_hold_that_counts_on_a_sweep_in_vain(
    kind: type[Any], open_two: OpenTwo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This worker's clock is fast: what it takes for over is not, whoever sweeps."""
    other, worker = await open_two(1)
    await services.checkout(other, user_id=1, item_id=5)
    await worker.memory.refresh(worker.current())
    worker.memory.clock.offset += 120
    async with one_batch(kind, worker, monkeypatch, ask(2, 5), ask(2, 6), ask(3, 5)) as lanes:
        pass
    answers = told(lanes)
    # Nobody was told that the item is held or the limit reached: this worker did not know.
    assert answers == ["overloaded", "200", "overloaded"]


async def test_a_hold_of_which_nobody_knows_what_became(
    kind: type[Any], open_two: OpenTwo, monkeypatch: pytest.MonkeyPatch, sql: Sql
) -> None:
    _, worker = await open_two(1)
    requests = ask(2, 5), ask(2, 6), ask(3, 5)
    async with one_batch(kind, worker, monkeypatch, *requests) as lanes:

        async def lose() -> None:
            """The connection of the batch under way, while it waits."""
            async with asyncio.timeout(DEADLINE):
                while not await asyncio.to_thread(sql, WAITING):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

        for _ in range(2):
            await lose()
        await eventually(lambda: not worker.saving.checkouts.statistics().waiting)
        for _ in range(2):
            await lose()
    assert told(lanes) == ["outcome_unknown", "200", "200"]


async def test_a_stop_decides_what_was_accepted(
    kind: type[Any], open_two: OpenTwo, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, worker = await open_two(1)
    await services.checkout(other, user_id=1, item_id=5)
    async with one_batch(kind, worker, monkeypatch, ask(2, 5), ask(2, 6), ask(2, 7)) as lanes:
        worker.draining = True
        stopping = asyncio.create_task(worker.saving.checkouts.stop())
        await asyncio.sleep(0)
    await stopping
    assert told(lanes) == ["item_held", "200", "user_limit"]


async def test_nobody_is_refused_by_two_workers_at_once(
    kind: type[Any], open_two: OpenTwo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same requests at both: each user gets one item, and whoever is refused was refused by that."""
    one, two = await open_two(1)
    requests = ask(2, 5), ask(2, 6), ask(3, 5), ask(3, 6)
    async with (
        one_batch(kind, one, monkeypatch, *requests) as lanes,
    ):
        calls = [
            asyncio.create_task(services.checkout(two, user_id=user, item_id=item))
            for user, item in ((3, 6), (3, 5), (2, 6), (2, 5))
        ]
        await eventually(lambda: two.saving.checkouts.statistics().running == 4)
    ends = await asyncio.gather(*calls, return_exceptions=True)
    answers = told(lanes) + [end.reason.name if isinstance(end, Refusal) else "200" for end in ends]
    assert Counter(answers)["200"] == 2
    assert set(answers) <= {"200", "item_held", "user_limit"}
