"""The batcher: what it may be told, when it sends, and how much it takes."""

import asyncio
import math
from typing import Any

import pytest

from batching import (
    Batcher,
    BatcherOptions,
    QueueFull,
)
from tests.unit.batching.virtual_clock import settle
from tests.unit.batching.works import Works

# --- options


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_size", 0),
        ("max_size", 1.5),
        ("max_wait", -1),
        ("max_wait", math.inf),
        ("max_wait", "1"),
        ("max_concurrent", 0),
        ("max_pending", True),
        ("when_full", "block"),
        ("job_key", 3),
        ("result_key", "id"),
    ],
)
def test_a_wrong_option_is_named(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{option} must be .*, not "):
        BatcherOptions(**{"max_size": 1, option: value})


def test_a_batcher_that_would_never_send_is_refused() -> None:
    with pytest.raises(ValueError, match="max_size or max_wait"):
        Batcher(Works.double)  # type: ignore[arg-type]


@pytest.mark.parametrize("given_key", ["job_key", "result_key"])
def test_one_key_function_alone_is_refused(given_key: str) -> None:
    with pytest.raises(ValueError, match="together"):
        BatcherOptions(max_size=1, **{given_key: str})


# --- when it sends


async def test_a_full_batch_is_sent_at_once(works: Works) -> None:
    loop = asyncio.get_running_loop()
    async with Batcher(works.double, max_size=3, max_wait=3600) as batcher:
        began = loop.time()
        assert await asyncio.gather(*[batcher.run(n) for n in range(6)]) == [0, 2, 4, 6, 8, 10]
        assert loop.time() == began
    assert works.batches == [[0, 1, 2], [3, 4, 5]]


async def test_a_batch_that_is_not_full_is_sent_when_its_first_job_has_waited(works: Works) -> None:
    loop = asyncio.get_running_loop()
    async with Batcher(works.double, max_size=3, max_wait=10) as batcher:
        began = loop.time()
        first = batcher.submit(1)
        await asyncio.sleep(9)
        second = batcher.submit(2)
        assert await asyncio.gather(first, second) == [2, 4]
        assert loop.time() - began == pytest.approx(10)
    assert works.batches == [[1, 2]]


async def test_a_batch_sent_for_its_size_leaves_no_timer_for_the_next(works: Works) -> None:
    loop = asyncio.get_running_loop()
    async with Batcher(works.double, max_size=2, max_wait=10) as batcher:
        await asyncio.sleep(0)
        first = batcher.submit(1)
        await asyncio.sleep(9)
        await asyncio.gather(first, batcher.submit(2))
        began = loop.time()
        assert await batcher.submit(3) == 6
        assert loop.time() - began == pytest.approx(10)
    assert works.batches == [[1, 2], [3]]


async def test_what_a_full_batch_leaves_over_waits_from_its_own_beginning(works: Works) -> None:
    loop = asyncio.get_running_loop()
    async with Batcher(works.double, max_size=2, max_wait=10, max_concurrent=1) as batcher:
        works.gate.clear()
        await_first = [batcher.submit(n) for n in (1, 2)]
        await settle()
        began = loop.time()
        rest = [batcher.submit(n) for n in (3, 4, 5)]
        await asyncio.sleep(4)
        works.gate.set()
        await asyncio.gather(*await_first, *rest)
        assert loop.time() - began == pytest.approx(10)
    assert works.batches == [[1, 2], [3, 4], [5]]


async def test_without_a_time_a_batch_waits_until_it_is_full_or_flushed(works: Works) -> None:
    async with Batcher(works.double, max_size=3) as batcher:
        futures = [batcher.submit(1)]
        await asyncio.sleep(1_000_000)
        assert works.batches == []
        batcher.flush()
        assert await futures[0] == 2
        batcher.flush()  # nothing waits: nothing happens
        await settle()
    assert works.batches == [[1]]


async def test_what_was_flushed_while_all_are_busy_is_sent_when_one_ends(works: Works) -> None:
    async with Batcher(works.double, max_size=2, max_concurrent=1) as batcher:
        works.gate.clear()
        futures = [batcher.submit(n) for n in range(5)]
        await settle()
        batcher.flush()
        late = batcher.submit(9)
        works.gate.set()
        await asyncio.gather(*futures)
        await settle()
        assert works.batches == [[0, 1], [2, 3], [4, 9]]
        assert await late == 18


async def test_without_a_size_everything_goes_when_the_time_is_up(works: Works) -> None:
    async with Batcher(works.double, max_wait=1) as batcher:
        assert await asyncio.gather(*[batcher.run(n) for n in range(1000)]) == [2 * n for n in range(1000)]
    assert len(works.batches) == 1


async def test_no_wait_at_all_gathers_what_is_submitted_in_one_turn_of_the_loop(works: Works) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with Batcher(works.double, max_wait=0) as batcher:
        await asyncio.gather(*[batcher.run(n) for n in range(3)])
        await batcher.run(3)
    assert works.batches == [[0, 1, 2], [3]]
    assert loop.time() == began


# --- limits


async def test_no_more_batches_than_allowed_are_processed_at_once(works: Works) -> None:
    async with Batcher(works.double, max_size=1, max_concurrent=2) as batcher:
        works.gate.clear()
        futures = [batcher.submit(n) for n in range(6)]
        await settle()
        assert works.busy == 2
        assert batcher.pending == 4
        works.gate.set()
        assert await asyncio.gather(*futures) == [0, 2, 4, 6, 8, 10]
    assert works.most_busy == 2


async def test_batches_are_not_limited_unless_told(works: Works) -> None:
    async with Batcher(works.double, max_size=1) as batcher:
        works.gate.clear()
        futures = [batcher.submit(n) for n in range(50)]
        await settle()
        assert works.busy == 50
        works.gate.set()
        await asyncio.gather(*futures)


async def test_a_full_line_refuses_when_told_to_and_has_room_again_later(works: Works) -> None:
    async with Batcher(
        works.double, max_size=1, max_concurrent=1, max_pending=2, when_full="raise"
    ) as batcher:
        works.gate.clear()
        futures = [batcher.submit(n) for n in range(3)]
        futures[1].cancel()
        futures.append(batcher.submit(4))  # the place of the one who left
        with pytest.raises(QueueFull):
            batcher.submit(3)
        assert batcher.pending == 2
        with pytest.raises(QueueFull):
            await batcher.run(5)
        works.gate.set()
        outcomes = await asyncio.gather(*futures, return_exceptions=True)
        assert [outcomes[0], outcomes[2], outcomes[3]] == [0, 4, 8]
        assert await batcher.run(6) == 12
    assert works.batches == [[0], [2], [4], [6]]


async def test_a_full_line_makes_wait_otherwise_and_sends_no_more_than_may_wait(works: Works) -> None:
    async with Batcher(works.double, max_wait=0, max_concurrent=1, max_pending=2) as batcher:
        works.gate.clear()
        first = asyncio.create_task(batcher.run(0))
        await settle()
        rest = [asyncio.create_task(batcher.run(n)) for n in range(1, 6)]
        await settle()
        rest[3].cancel()
        works.gate.set()
        await asyncio.gather(first, *rest, return_exceptions=True)
    assert works.batches == [[0], [1, 2], [3, 5]]
