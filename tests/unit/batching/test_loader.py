"""The data loader: what is loaded together, what is remembered, and who is told what."""

import asyncio
from typing import Any

import pytest

from batching import DataLoader, ProcessFailed, ProcessorStopped
from tests.unit.batching.virtual_clock import settle


class Source:
    """Values that are their keys times ten; records what was asked for."""

    def __init__(self) -> None:
        self.asked: list[list[Any]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.bad: list[Any] = []
        self.error: Exception | None = None

    async def load(self, keys: list[Any]) -> list[Any]:
        """Load them."""
        self.asked.append(keys)
        await self.gate.wait()
        if self.error:
            raise self.error
        return [KeyError(key) if key in self.bad else key * 10 for key in keys]


@pytest.fixture
async def source() -> Source:
    """A source whose gate is open."""
    return Source()


async def test_keys_of_one_turn_are_loaded_together_and_each_once(source: Source) -> None:
    async with DataLoader(source.load) as loader:
        assert await asyncio.gather(*[loader.load(key) for key in (1, 2, 1, 3)]) == [10, 20, 10, 30]
        assert await loader.load(4) == 40
    assert source.asked == [[1, 2, 3], [4]]


async def test_a_value_is_remembered_and_costs_no_batch(source: Source) -> None:
    async with DataLoader(source.load) as loader:
        assert await loader.load(1) == 10
        assert await loader.load_many([1, 2]) == [10, 20]
    assert source.asked == [[1], [2]]


async def test_a_cleared_key_is_loaded_again(source: Source) -> None:
    async with DataLoader(source.load) as loader:
        await loader.load_many([1, 2, 3])
        loader.clear(1)
        loader.clear(99)
        await loader.load_many([1, 2, 3])
        loader.clear_all()
        await loader.load_many([1, 2])
    assert source.asked == [[1, 2, 3], [1], [1, 2]]


async def test_a_key_cleared_while_it_is_loaded_is_loaded_again(source: Source) -> None:
    async with DataLoader(source.load) as loader:
        source.gate.clear()
        first = loader.load(1)
        await settle()
        loader.clear(1)
        second = loader.load(1)
        source.bad = [1]
        await settle()
        source.gate.set()
        await asyncio.gather(first, second, return_exceptions=True)
    assert source.asked == [[1], [1]]


async def test_a_primed_value_is_used_and_does_not_replace_another(source: Source) -> None:
    async with DataLoader(source.load) as loader:
        loader.prime(1, "primed")
        loader.prime(1, "again")
        await loader.load(2)
        loader.prime(2, "late")
        assert await loader.load_many([1, 2]) == ["primed", 20]
        loader.clear(1)
        loader.prime(1, "anew")
        assert await loader.load(1) == "anew"
    assert source.asked == [[2]]


async def test_a_primed_error_is_raised(source: Source) -> None:
    async with DataLoader(source.load) as loader:
        loader.prime(1, KeyError("primed"))
        loader.prime(2, KeyError("nobody asks"))
        for _ in range(2):
            with pytest.raises(KeyError, match="primed"):
                await loader.load(1)
    assert source.asked == []


async def test_an_error_reaches_those_who_asked_for_its_key_and_is_not_remembered(source: Source) -> None:
    source.bad = [2]
    async with DataLoader(source.load) as loader:
        outcomes = await loader.load_many([1, 2, 2], return_exceptions=True)
        assert outcomes[0] == 10
        assert [type(outcome) for outcome in outcomes[1:]] == [KeyError, KeyError]
        with pytest.raises(KeyError):
            await loader.load_many([1, 2])
        source.bad = []
        assert await loader.load(2) == 20
    assert source.asked == [[1, 2], [2], [2]]


async def test_errors_are_remembered_when_asked_to(source: Source) -> None:
    source.bad = [2]
    async with DataLoader(source.load, cache_errors=True) as loader:
        for _ in range(2):
            with pytest.raises(KeyError):
                await loader.load(2)
    assert source.asked == [[2]]


async def test_a_batch_that_raises_fails_all_its_keys_and_none_is_remembered(source: Source) -> None:
    source.error = OSError("network")
    async with DataLoader(source.load) as loader:
        outcomes = await loader.load_many([1, 2], return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ProcessFailed, ProcessFailed]
        source.error = None
        assert await loader.load_many([1, 2]) == [10, 20]


async def test_a_caller_who_leaves_does_not_take_the_value_from_others(source: Source) -> None:
    async with DataLoader(source.load) as loader:
        source.gate.clear()
        leaver, stayer = asyncio.ensure_future(loader.load(1)), loader.load(1)
        leaver.cancel()
        await settle()
        source.gate.set()
        assert await stayer == 10
        assert leaver.cancelled()
        assert await loader.load(1) == 10
    assert source.asked == [[1]]


async def test_without_a_cache_every_question_is_asked(source: Source) -> None:
    async with DataLoader(source.load, cache=False) as loader:
        loader.prime(1, "ignored")
        loader.clear(1)
        loader.clear_all()
        assert await loader.load_many([1, 1]) == [10, 10]
        assert await loader.load(1) == 10
    assert source.asked == [[1, 1], [1]]


async def test_batches_have_a_size_and_a_window(source: Source) -> None:
    async with DataLoader(source.load, max_size=2, max_wait=5) as loader:
        early = [loader.load(key) for key in (1, 2, 3)]
        await asyncio.sleep(4)
        late = loader.load(4)
        assert await asyncio.gather(*early, late) == [10, 20, 30, 40]
    assert source.asked == [[1, 2], [3, 4]]


async def test_keys_that_cannot_be_hashed_are_remembered_by_another_name(source: Source) -> None:
    async with DataLoader[Any, Any](source.load, cache_key=str) as loader:
        assert await loader.load([1]) == [1] * 10
        assert await loader.load([1]) == [1] * 10
    assert source.asked == [[[1]]]


async def test_stop_finishes_what_was_asked_for_and_refuses_more(source: Source) -> None:
    loader = DataLoader(source.load)
    future = loader.load(1)
    await loader.stop()
    assert await future == 10
    assert await loader.load(1) == 10  # it is remembered
    with pytest.raises(ProcessorStopped):
        loader.load(2)
