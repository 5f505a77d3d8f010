"""What happens to workers and to the database, and how often."""

from collections.abc import Callable
from functools import partial
from operator import methodcaller

from tests.simulation.worker import Worker
from tests.simulation.world import World


class Troubles:
    """All that nobody wants."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._random = world.random
        self.peace_at = 0.0
        """When the last of them is over."""
        self.actions: dict[Callable[[], None], int] = {
            self.crash: 4,
            self.stop: 3,
            self.stall: 3,
            self.stall_database: 1,
            self.outage: 1,
            self.terminate: 3,
            self.cancel: 2,
            self.lose_standby: 2,
            self.failover: 4,
        }
        """What happens, and how often."""

    def crash(self) -> None:
        """A worker ends without a word, and is replaced."""
        if alive := [worker for worker in self._world.workers if worker.alive]:
            worker = self._random.choice(alive)
            self._world.say("%s crashes", worker.name)
            worker.crash()
            self._replace(worker)

    def stop(self) -> None:
        """A worker is told to stop, and replaced."""
        if serving := [worker for worker in self._world.workers if worker.state == "serving"]:
            worker = self._random.choice(serving)
            self._world.say("%s is told to stop", worker.name)
            worker.drain(self._random.uniform(0, 0.5))
            self._replace(worker)

    def stall(self) -> None:
        """A worker gets no processor for a while."""
        if worker := self._world.some_worker():
            self._stall(worker.name)

    def stall_database(self) -> None:
        """The server gets no processor for a while."""
        self._stall("database")

    def outage(self) -> None:
        """The server is restarted."""
        seconds = self._random.choice([0.0, 0.5, 3.0])
        self._world.say("the database is away for %s s", seconds)
        self._world.server.shut_down()
        self._later(seconds, self._world.server.start)

    def terminate(self) -> None:
        """An operator ends a session."""
        if self._world.server.sessions:
            self._world.say("a session is terminated")
            self._random.choice(self._world.server.sessions).terminate()

    def cancel(self) -> None:
        """An operator, or a time limit, cancels what a session does."""
        if self._world.server.sessions:
            self._world.say("a statement is cancelled")
            self._random.choice(self._world.server.sessions).cancel()

    def lose_standby(self) -> None:
        """The standby cannot be reached for a while."""
        if (standby := self._world.database.standby) is not None and not standby.is_away:
            seconds = self._random.choice([0.1, 1.0, 8.0])
            self._world.say("the standby is away for %s s", seconds)
            standby.is_away = True
            self._later(seconds, standby.come_back)

    def failover(self) -> None:
        """The server is lost, and its standby promoted: at once, or in the worst of all ways."""
        if self._random.random() < 0.3:
            self._fail_over()
        elif (standby := self._world.database.standby) is not None:
            self._world.say("the standby is cut off for ever")
            standby.is_away = True
            self._later(self._random.uniform(0, 1), self._keep_all_from_waiting)
            self._later(self._random.uniform(1, 3), self._fail_over)

    def _keep_all_from_waiting(self) -> None:
        """Operators do that where nothing goes on."""
        self._world.say("nobody waits for the standby any more")
        end = self._random.choice([methodcaller("cancel"), methodcaller("terminate")])
        for session in list(self._world.server.sessions):
            if session.awaits_standby:
                end(session)

    def _fail_over(self) -> None:
        if self._world.database.standby is not None:
            self._world.say("the standby takes over")
            self._world.server.fail_over()

    def _replace(self, worker: Worker) -> None:
        self._later(self._random.uniform(0, 2), partial(self._world.start_worker, worker.number))

    def _stall(self, process: str) -> None:
        seconds = self._random.choice([0.05, 0.5, 4.0])
        self._world.say("%s gets no processor for %s s", process, seconds)
        self._world.loop.stall(process, seconds)
        self._later(seconds, lambda: None)

    def _later(self, seconds: float, what: Callable[[], None]) -> None:
        """It is part of the trouble: no peace before."""
        self.peace_at = max(self.peace_at, self._world.loop.now + seconds)
        self._world.loop.call_later(seconds, what)
