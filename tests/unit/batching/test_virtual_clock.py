"""The virtual clock and the guard against blocking are what the other tests of `batching` stand on."""

import asyncio
import time

import pytest
from blockbuster import BlockingError

from batching import KeyedProcessor
from tests.unit.batching.virtual_clock import NothingWillHappen, VirtualClockLoop


async def test_an_hour_passes_at_once_and_in_order() -> None:
    loop = asyncio.get_running_loop()
    began, order = loop.time(), []
    loop.call_later(1800, order.append, "half")
    loop.call_later(60, order.append, "minute")
    await asyncio.sleep(3600)
    assert loop.time() - began == pytest.approx(3600, abs=0.1)
    assert order == ["minute", "half"]


async def _wait_for_nothing() -> None:
    await asyncio.get_running_loop().create_future()


def test_a_forgotten_waiter_is_an_error_instead_of_a_hang() -> None:
    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner, pytest.raises(NothingWillHappen):
        runner.run(_wait_for_nothing())


async def test_blocking_the_loop_is_an_error() -> None:
    async with KeyedProcessor[str, None](min_duration=0) as processor:
        with pytest.raises(BlockingError):
            await processor.run("a", lambda resource: time.sleep(0.001))
