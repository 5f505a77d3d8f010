"""Anything in any order: the processor against a simple model, on a virtual clock.

Whatever is submitted, cancelled, slow, broken or stopped, every accepted operation ends in exactly one
outcome, and that outcome is the truth about what was saved.
"""

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from batching import (
    BatchTimeout,
    KeyedProcessor,
    LoadFailed,
    ProcessorStopped,
    QueueFull,
    SaveFailed,
    Undecided,
)
from tests.unit.batching.virtual_clock import VirtualClockLoop, settle

KEYS = ["a", "b", "c"]
FATES = ["saved", "saved", "refused", "not saved", "undecided", "not yet saved"]
"""The last two: who waits for the others of the batch, and whom save leaves undecided; both once."""
MAX_DURATION = 50.0
HANGS = 1000.0


class Refused(Exception):
    """What an operation raises."""


class NotSaved(Exception):
    """What save says of a member."""


@dataclass
class Resource:
    """One batch, as load made it and save found it."""

    key: str
    ran: list[int] = field(default_factory=list)
    done: dict[int, str] = field(default_factory=dict)
    saved: set[int] | None = None


@dataclass
class Behaviour:
    """What load or save does from now on."""

    seconds: float = 0
    error: type[BaseException] | None = None


@dataclass
class Submission:
    """One accepted operation."""

    number: int
    key: str
    fate: str
    future: "asyncio.Future[int]" = field(init=False)
    resource: Resource | None = None
    runs: int = 0
    undecided: int = 0
    cancelled: bool = False


class ProcessorMachine(RuleBasedStateMachine):
    """Rules are what callers and the world can do."""

    submissions = Bundle("submissions")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=VirtualClockLoop)
        self.accepted: list[Submission] = []
        self.numbers = itertools.count()
        self.ran: dict[str, list[int]] = defaultdict(list)
        self.by_number: dict[int, Submission] = {}
        self.behaviour = {"load": Behaviour(), "save": Behaviour()}
        self.busy: dict[str, int] = defaultdict(int)
        self.trouble: list[str] = []
        self.stops: list[asyncio.Task[None]] = []
        self.aborted = False

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run it, and then all that can go on without time passing."""

        async def and_settle() -> Any:
            result = await coroutine
            await settle()
            return result

        return self.runner.run(and_settle())

    @initialize(
        min_duration=st.sampled_from([0, 10]),
        max_size=st.sampled_from([None, 1, 2, 3]),
        max_pending=st.sampled_from([None, 1, 3]),
        lanes=st.sampled_from([1, 2, 64]),
    )
    def open(self, min_duration: float, max_size: int | None, max_pending: int | None, lanes: int) -> None:
        """Open a processor with some options."""
        self.processor = KeyedProcessor(
            self.load,
            self.save,
            min_duration=min_duration,
            max_duration=MAX_DURATION,
            max_size=max_size,
            max_pending=max_pending,
            lanes=lanes,
        )
        self.runner.get_loop().set_exception_handler(lambda loop, context: self.trouble.append(str(context)))
        self.run(self.processor.__aenter__())

    async def load(self, key: str) -> Resource:
        """Load as told."""
        await self.act("load", key)
        return Resource(key)

    async def save(self, key: str, resource: Resource) -> dict[int, BaseException]:
        """Save as told."""
        assert resource.saved is None
        await self.act("save", key)
        resource.saved = {n for n, fate in resource.done.items() if fate in ("saved", "undecided")}
        return {n: self.failure(n, fate) for n, fate in resource.done.items() if n not in resource.saved}

    def failure(self, number: int, fate: str) -> Exception:
        """Why a member was not saved."""
        if fate == "not saved":
            return NotSaved()
        self.leave_undecided(self.by_number[number], "saved")
        return Undecided()

    def leave_undecided(self, submission: Submission, fate: str) -> None:
        """It waits for the next batch, and this is its fate there."""
        submission.undecided += 1
        submission.fate = fate
        submission.resource = None

    async def act(self, what: str, key: str) -> None:
        """Take the time and raise the error of the moment, and notice who else is at work."""
        self.busy[key] += 1
        if self.busy[key] > 1:
            self.trouble.append(f"two batches of {key} at once")
        if sum(self.busy.values()) > self.processor.options.lanes:
            self.trouble.append("more keys at work than lanes")
        try:
            behaviour = self.behaviour[what]
            if behaviour.seconds:
                await asyncio.sleep(behaviour.seconds)
            if behaviour.error:
                raise behaviour.error
        finally:
            self.busy[key] -= 1

    @rule(
        target=submissions,
        wishes=st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(FATES)), min_size=1, max_size=5),
    )
    def submit(self, wishes: list[tuple[str, str]]) -> MultipleResults[Submission]:
        """Submit some operations at the same moment."""

        async def submit() -> list[Submission | None]:
            return [self.submit_one(key, fate) for key, fate in wishes]

        accepted = [submission for submission in self.run(submit()) if submission]
        self.accepted += accepted
        return multiple(*accepted)

    def submit_one(self, key: str, fate: str) -> Submission | None:
        """Submit an operation, unless it is refused for a good reason."""
        submission = Submission(number := next(self.numbers), key, fate)
        self.by_number[number] = submission

        def operation(resource: Resource) -> int:
            submission.runs += 1
            submission.resource = resource
            if submission.runs == 1:
                self.ran[key].append(number)
            if resource.ran and resource.ran[-1] > number:
                self.trouble.append(f"{number} was run after {resource.ran[-1]}")
            resource.ran.append(number)
            if submission.cancelled:
                self.trouble.append(f"{number} was run after its caller had left")
            if submission.fate == "refused":
                raise Refused
            if submission.fate == "undecided" and resource.done:
                self.leave_undecided(submission, "saved")
                raise Undecided
            resource.done[number] = submission.fate
            return number

        try:
            submission.future = self.processor.submit(key, operation)
        except ProcessorStopped:
            assert self.stops
            return None
        except QueueFull:
            limit = self.processor.options.max_pending
            assert limit is not None
            assert self.processor.pending(key) >= limit
            return None
        assert not self.stops
        return submission

    @rule(submission=submissions)
    def cancel(self, submission: Submission) -> None:
        """A caller leaves."""
        if not submission.future.done():

            async def leave() -> None:
                submission.cancelled = submission.future.cancel()

            self.run(leave())

    @rule(seconds=st.sampled_from([0, 1, 10, 60]))
    def time_passes(self, seconds: float) -> None:
        """Time passes."""
        self.run(asyncio.sleep(seconds))

    @rule(
        what=st.sampled_from(["load", "save"]),
        behaviour=st.builds(
            Behaviour,
            seconds=st.sampled_from([0, 5, HANGS]),
            error=st.sampled_from([None, None, OSError, TimeoutError, asyncio.CancelledError]),
        ),
    )
    def change(self, what: str, behaviour: Behaviour) -> None:
        """The world changes."""
        self.behaviour[what] = behaviour

    @precondition(lambda self: len(self.accepted) >= 12)
    @rule()
    def stop(self) -> None:
        """Somebody stops the processor."""

        async def begin() -> None:
            self.stops.append(asyncio.create_task(self.processor.stop()))

        self.run(begin())

    @precondition(lambda self: self.stops)
    @rule()
    def abort(self) -> None:
        """Whoever stopped it last has no patience."""

        async def cancel() -> None:
            if self.stops[-1].cancel():
                self.aborted = True

        self.run(cancel())

    @invariant()
    def nothing_is_wrong(self) -> None:
        """What must hold at every moment."""
        assert not self.trouble
        for submission in self.accepted:
            assert submission.runs <= 1 + submission.undecided
            assert submission.undecided <= 1
        for ran in self.ran.values():
            assert ran == sorted(ran)

    def teardown(self) -> None:
        """Let it all end, and ask everybody what they were told."""
        try:
            if hasattr(self, "processor"):
                self.run(self.processor.stop())
                for submission in self.accepted:
                    self.check(submission)
                self.check_statistics()
                assert not self.trouble
        finally:
            self.runner.close()

    def check(self, submission: Submission) -> None:
        """One caller was told the truth."""
        future, resource, number = submission.future, submission.resource, submission.number
        assert future.done()
        if future.cancelled():
            assert submission.cancelled
            return
        assert not submission.cancelled
        error = future.exception()
        if error is None:
            assert future.result() == number
            assert resource is not None
            assert resource.saved is not None
            assert number in resource.saved
        elif isinstance(error, Refused):
            assert submission.fate == "refused"
            assert submission.runs == 1
        elif isinstance(error, NotSaved):
            assert resource is not None
            assert resource.saved is not None
            assert number not in resource.saved
        elif isinstance(error, LoadFailed):
            assert submission.runs == submission.undecided
        elif isinstance(error, BatchTimeout | SaveFailed):
            assert resource is None or resource.saved is None
            assert resource is not None or isinstance(error, BatchTimeout)
        else:
            assert isinstance(error, ProcessorStopped)
            assert self.aborted

    def check_statistics(self) -> None:
        """Nothing is left behind."""
        after = self.processor.statistics()
        assert (after.keys, after.waiting, after.running) == (0, 0, 0)
        runs = sum(submission.runs - submission.undecided for submission in self.accepted)
        assert after.operations >= runs


ProcessorMachine.TestCase.settings = settings(
    max_examples=100,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestProcessorMachine = ProcessorMachine.TestCase
