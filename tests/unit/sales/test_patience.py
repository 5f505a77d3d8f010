"""A wait ends after its time, and no time passes while the event loop is held up."""

import asyncio
import socket
import time

import pytest
import uvloop

from sales.patience import Patience, patient
from tests.support.waiting import DEADLINE


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def runner(request: pytest.FixtureRequest) -> asyncio.Runner:
    """Each of the loops that a worker may run on."""
    return asyncio.Runner(loop_factory=request.param)


def hold_up(seconds: float) -> None:
    """Let the event loop do nothing else."""
    time.sleep(seconds)


def test_who_waits_in_vain_gives_up_after_about_that_time(runner: asyncio.Runner) -> None:
    async def wait() -> float:
        over = asyncio.Event()
        began = time.monotonic()
        async with asyncio.timeout(DEADLINE):
            with Patience(0.2, over.set) as patience:
                await over.wait()
        assert patience.is_over
        return time.monotonic() - began

    with runner:
        assert runner.run(wait()) >= 0.19


def test_who_has_what_they_waited_for_gives_nothing_up(runner: asyncio.Runner) -> None:
    async def wait() -> None:
        given_up: list[bool] = []
        with Patience(0.01, lambda: given_up.append(True)) as patience:
            pass
        await asyncio.sleep(0.05)
        assert not given_up
        assert not patience.is_over

    with runner:
        runner.run(wait())


def test_a_stall_is_not_waiting(runner: asyncio.Runner) -> None:
    """The answer comes while the loop is held up for longer than anybody would wait."""

    async def wait() -> None:
        near, far = socket.socketpair()
        near.setblocking(False)
        with near, far:
            for _ in range(20):
                answer = asyncio.create_task(asyncio.get_running_loop().sock_recv(near, 10))
                with Patience(0.04, answer.cancel) as patience:
                    await asyncio.sleep(0)  # it waits for its socket now
                    far.send(b"here")
                    hold_up(0.1)
                    assert await answer == b"here"
                assert not patience.is_over

    with runner:
        runner.run(wait())


def test_who_is_silent_is_given_up_in_spite_of_a_stall(runner: asyncio.Runner) -> None:
    async def silence() -> None:
        async with patient(0.2):
            hold_up(0.5)
            await asyncio.get_running_loop().create_future()

    async def wait() -> None:
        async with asyncio.timeout(DEADLINE):
            with pytest.raises(TimeoutError):
                await silence()

    with runner:
        runner.run(wait())


def test_what_is_awaited_patiently_returns(runner: asyncio.Runner) -> None:
    async def wait() -> str:
        async with patient(DEADLINE):
            return await asyncio.sleep(0.01, "here")
        raise AssertionError

    with runner:
        assert runner.run(wait()) == "here"
