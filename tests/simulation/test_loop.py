"""The loop that simulations run on."""

import asyncio
import contextvars
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest

from tests.simulation.loop import PROCESS, SimulatedLoop, Trouble

MakeLoop = Callable[..., SimulatedLoop]


@pytest.fixture
def make_loop() -> Iterator[MakeLoop]:
    """Make loops that are closed in the end."""
    loops: list[SimulatedLoop] = []

    def make(seed: int = 0, **options: Any) -> SimulatedLoop:
        loops.append(SimulatedLoop(Random(seed), **options))
        return loops[-1]

    yield make
    for loop in loops:
        loop.close()


def _process(name: str) -> contextvars.Context:
    context = contextvars.Context()
    context.run(PROCESS.set, name)
    return context


def _order(loop: SimulatedLoop) -> list[str]:
    """In which order the steps of two processes are run."""
    ran: list[str] = []
    for number in range(4):
        for name in "ab":
            loop.call_soon(ran.append, f"{name}{number}", context=_process(name))
    loop.run(asyncio.sleep(1))
    return ran


def test_processes_are_interleaved_by_the_seed_and_each_keeps_its_order(make_loop: MakeLoop) -> None:
    orders = {tuple(_order(make_loop(seed))) for seed in range(50)}
    assert len(orders) > 20
    for order in orders:
        for name in "ab":
            assert [step for step in order if step[0] == name] == [f"{name}{number}" for number in range(4)]
    assert _order(make_loop(1)) == _order(make_loop(1))


def test_a_process_that_is_not_orderly_is_shuffled_as_well(make_loop: MakeLoop) -> None:
    orders = [_order(make_loop(seed, orderly=False)) for seed in range(50)]
    assert any(order.index("a1") < order.index("a0") for order in orders)


def test_time_passes_only_when_nobody_has_anything_to_do(make_loop: MakeLoop) -> None:
    loop = make_loop()

    async def hours() -> list[float]:
        await asyncio.gather(*(asyncio.sleep(hour * 3600) for hour in range(5)))
        async with asyncio.timeout(60):
            await asyncio.sleep(0)
        return [loop.now, loop.time()]

    assert loop.run(hours()) == [4 * 3600] * 2


def test_a_killed_process_runs_nothing_any_more(make_loop: MakeLoop) -> None:
    loop = make_loop()
    ran: list[Any] = []

    async def live() -> None:
        try:
            await asyncio.sleep(2)
        finally:
            ran.append("finally")

    loop.create_task(live(), context=_process("a"))
    loop.call_later(1, loop.kill, "a")
    loop.run(asyncio.sleep(10))
    assert ran == []


def test_a_stalled_process_runs_late(make_loop: MakeLoop) -> None:
    loop = make_loop()
    ran: list[Any] = []
    for name in "ab":
        loop.call_later(1, lambda: ran.append((PROCESS.get(), loop.now)), context=_process(name))
    loop.stall("a", 5)
    loop.run(asyncio.sleep(10))
    assert ran == [("b", 1), ("a", 5)]


def test_waiting_for_nothing_and_running_for_ever_are_trouble(make_loop: MakeLoop) -> None:
    async def nothing() -> None:
        await asyncio.get_running_loop().create_future()

    busy = make_loop(max_steps=100)

    def again() -> None:
        busy.call_soon(again)

    with pytest.raises(Trouble, match="everybody waits"):
        make_loop().run(nothing())

    busy.call_soon(again)
    with pytest.raises(Trouble, match="not quiet"):
        busy.run(asyncio.sleep(1))


def test_what_nobody_handles_is_trouble(make_loop: MakeLoop) -> None:
    loop = make_loop()
    loop.call_soon(lambda: 1 / 0)
    with pytest.raises(Trouble, match="ZeroDivisionError"):
        loop.run(asyncio.sleep(1))


def test_threads_and_sockets_are_refused(make_loop: MakeLoop) -> None:
    async def thread() -> None:
        await asyncio.to_thread(print)

    with pytest.raises(NotImplementedError):
        make_loop().run(thread())
