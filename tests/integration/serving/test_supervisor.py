"""The supervisor, with real workers that have no database: they serve, and refuse everything."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from flashsale_project.serving.limits import HEARTBEAT
from flashsale_project.serving.listening import listen
from flashsale_project.serving.supervisor import Supervisor
from tests.support import processes
from tests.support.waiting import DEADLINE, eventually

PROJECT = Path(__file__).parents[3]
START = 60
"""Seconds for workers to serve; only a deadline."""

MakeSupervisor = Callable[[int], Supervisor]


@pytest.fixture
async def make_supervisor(tmp_path: Path) -> AsyncIterator[MakeSupervisor]:
    """Make a supervisor of so many workers (not started); it is stopped after the test."""
    with contextlib.ExitStack() as stack:
        nobody = stack.enter_context(socket.socket())
        nobody.bind(("127.0.0.1", 0))  # bound, and not listening: refused
        environment = os.environ | {
            "DATABASE_URL": f"postgresql://me:secret@127.0.0.1:{nobody.getsockname()[1]}/sales",
            "DJANGO_SETTINGS_MODULE": "flashsale_project.settings",
            "FLASHSALE_DATA_DIR": str(tmp_path),
        }
        made: list[Supervisor] = []

        def make(count: int) -> Supervisor:
            sockets = [stack.enter_context(sock) for sock in listen("127.0.0.1", 0, count)]
            made.append(Supervisor(sockets, environment=environment, directory=PROJECT, ended=lambda _: None))
            return made[-1]

        yield make
        for supervisor in made:
            await supervisor.stop()
    assert workers() == []


def workers() -> list[int]:
    return processes.workers(os.getpid())


async def start(supervisor: Supervisor) -> list[int]:
    """Start it and wait until it is ready; the pids of its workers."""
    async with asyncio.timeout(START):
        await supervisor.start()
    return workers()


async def until_replaced(supervisor: Supervisor, *old: int) -> None:
    """Wait until as many others serve, and only they run."""
    async with asyncio.timeout(START):
        while True:
            now = workers()  # looked at once: one of the old may be dying just now
            if len(now) == len(old) and not set(old) & set(now) and supervisor.ready == len(now):
                return
            await asyncio.sleep(0.05)


def logged(caplog: pytest.LogCaptureFixture, event: str) -> list[tuple[int, str | None]]:
    """The workers of these events, and the reasons given."""
    found: list[dict[str, Any]] = [
        record.fields
        for record in caplog.records
        if record.getMessage() == event  # type: ignore[attr-defined]
    ]
    return [(fields["pid"], fields.get("reason")) for fields in found]


async def test_a_supervisor_that_slept_gives_its_workers_time_to_wake_up(
    make_supervisor: MakeSupervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flashsale_project.serving.heartbeat.SILENCE_TIMEOUT", silence := 8)
    pids = await start(make_supervisor(2))
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(silence + 1)  # noqa: ASYNC251  (the supervisor is stopped like its workers)
    await asyncio.sleep(3 * HEARTBEAT)  # it wakes up before them
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    await asyncio.sleep(3 * HEARTBEAT)
    assert workers() == pids


async def test_a_worker_that_does_not_get_ready_fails_the_start(
    make_supervisor: MakeSupervisor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("flashsale_project.serving.heartbeat.READY_TIMEOUT", 2)
    starting = asyncio.create_task(make_supervisor(1).start())
    (pid,) = await eventually(workers)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(RuntimeError):
        await starting
    assert logged(caplog, "worker.failed") == [(pid, "was not ready within 2 seconds and was killed")]


async def test_a_restart_that_meets_a_worker_on_its_way_replaces_it_too(
    make_supervisor: MakeSupervisor, caplog: pytest.LogCaptureFixture
) -> None:
    """Whichever of the two serves first: the one that was killed's successor, or that one's own."""
    caplog.set_level(logging.INFO)
    supervisor = make_supervisor(1)
    (first,) = await start(supervisor)
    os.kill(first, signal.SIGKILL)
    (second,) = await eventually(lambda: set(workers()) - {first})
    async with asyncio.timeout(START):
        assert await supervisor.restart()
    await until_replaced(supervisor, second)
    retired = await eventually(lambda: logged(caplog, "worker.retired"))
    assert [pid for pid, _ in retired] == [second]
    assert [pid for pid, _ in logged(caplog, "worker.replaced")] == [first]


async def test_a_worker_that_is_stuck_while_it_retires_does_not_hold_up_the_restart(
    make_supervisor: MakeSupervisor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("flashsale_project.serving.supervisor.RETIRE_TIMEOUT", 6)
    supervisor = make_supervisor(2)
    pids = await start(supervisor)
    os.kill(pids[0], signal.SIGSTOP)
    assert await supervisor.restart()
    await until_replaced(supervisor, *pids)
    assert logged(caplog, "worker.killed") == [(pids[0], "did not stop in time and was killed")]
    await eventually(lambda: logged(caplog, "worker.retired") == [(pids[1], None)])


async def test_a_worker_that_is_stuck_does_not_hold_up_the_stop(
    make_supervisor: MakeSupervisor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("flashsale_project.serving.supervisor.STOP_TIMEOUT", 2)
    supervisor = make_supervisor(1)
    (pid,) = await start(supervisor)
    os.kill(pid, signal.SIGSTOP)
    await supervisor.stop()
    assert workers() == []
    assert logged(caplog, "worker.killed") == [(pid, "did not stop in time and was killed")]


async def test_a_successor_that_dies_leaves_the_old_worker_until_another_serves(
    make_supervisor: MakeSupervisor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    supervisor = make_supervisor(1)
    (old,) = await start(supervisor)
    restarting = asyncio.create_task(supervisor.restart())
    successor = (await eventually(lambda: set(workers()) - {old})).pop()
    os.kill(successor, signal.SIGKILL)
    assert not await restarting
    assert old in workers()
    await until_replaced(supervisor, old)
    assert logged(caplog, "worker.replaced") == [(successor, "ended with -9")]
    await eventually(lambda: logged(caplog, "worker.retired") == [(old, None)])


async def test_workers_that_have_served_are_replaced_at_once_however_many_are_killed(
    make_supervisor: MakeSupervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FIRST_PAUSE", "LONGEST_PAUSE"):
        monkeypatch.setattr(f"flashsale_project.serving.supervisor.{name}", 10_000.0)
    monkeypatch.setattr("flashsale_project.serving.supervisor.LASTING", 0.0)
    supervisor = make_supervisor(1)
    (pid,) = await start(supervisor)
    for _ in range(3):
        os.kill(pid, signal.SIGKILL)
        await until_replaced(supervisor, pid)
        (pid,) = workers()


async def test_a_restart_and_a_stop_do_not_wait_for_the_pause_after_failures(
    make_supervisor: MakeSupervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FIRST_PAUSE", "LONGEST_PAUSE", "LASTING"):
        monkeypatch.setattr(f"flashsale_project.serving.supervisor.{name}", 10_000.0)
    supervisor = make_supervisor(1)
    (first,) = await start(supervisor)
    os.kill(first, signal.SIGKILL)
    await until_replaced(supervisor, first)  # once at once
    (second,) = workers()
    os.kill(second, signal.SIGKILL)
    await eventually(lambda: supervisor.ready == 0)
    async with asyncio.timeout(START):
        await supervisor.restart()
    (third,) = workers()
    os.kill(third, signal.SIGKILL)
    await eventually(lambda: supervisor.ready == 0)
    async with asyncio.timeout(DEADLINE):
        await supervisor.stop()
    assert workers() == []
