"""What surrounds a scheduler, without threads or a clock: stand-ins that take one step when they are told to.

                         ┌──────────────────────── World: what is true of every run ───────────────────────┐
    submit, cancel ──▶ Runner (for a dispatcher) ──event──▶ Scheduler ──effects──▶ Runner.drain ──▶ who is meant:
                                                               ▲
          pulling     Worker (a thread), Loop (of coroutines) ─┤ take, claim, end, wait, go on
          pushing     Message (a batch on its way)  ───────────┘ start, report, hand back, close, get lost

Each stand-in does with the scheduler what the real one does, in the same order (`task_runners/threads.py`,
`task_runners/async_lane.py`, `scheduling/dispatcher.py`), and keeps its own account of what is true: which run is
where, and how it has to end. Nothing in that account is read from the scheduler, so the two can be compared.
"""

from __future__ import annotations

from collections import deque
from contextvars import copy_context
from itertools import count
from typing import TYPE_CHECKING, Any

from manyhands.calls import (
    AWAITING_RETRY,
    CANCELLED,
    COMPLETED,
    CRASHED,
    DONE,
    FAILED,
    NOT_READY,
    READY,
    Call,
    Outcome,
)
from manyhands.engine.inputs import Input
from manyhands.futures import TaskFuture
from manyhands.futures.blocking import Countdown
from manyhands.futures.maps import CANCELLED_UNSEEN, NO_VALUE, MapRecord, Span
from manyhands.scheduling import effects as effects_of
from manyhands.scheduling.backend import Capabilities
from manyhands.scheduling.batching import BatchPolicy
from manyhands.scheduling.dispatcher import Dispatcher
from manyhands.scheduling.pulling import PullingScheduler
from manyhands.scheduling.pushing import PushingScheduler
from manyhands.states import State
from manyhands.tasks import Task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from manyhands.calls import Batch

# ---------------------------------------------------------------------- tasks


def work(x: object = None) -> object:
    return x


async def work_async(x: object = None) -> object:
    return x


PLAIN = Task(work, name="plain")
STUBBORN = Task(work, name="stubborn", retries=2)
STURDY = Task(work, name="sturdy", crash_retries=1)
TIMED = Task(work, name="timed", timeout_seconds=1.0, retries=1)
LONELY = Task(work, name="lonely", batch=False)
PAIRED = Task(work, name="paired", batch=2)
COROUTINE = Task(work_async, name="coroutine", retries=1)
LIMITED = Task(work, name="limited", tags={"db"}, retries=1)
TASKS = [PLAIN, STUBBORN, STURDY, TIMED, LONELY, PAIRED, COROUTINE, LIMITED]

PULLING = Capabilities(pulls=True, policy=BatchPolicy(target=0.002, alone=0.001, cap=4))
PUSHING = Capabilities(isolated=True, policy=BatchPolicy(target=0.005, alone=0.03, cap=4, window=2))
#: A duration at which runs travel together on either.
SHORT = 0.0004


# ---------------------------------------------------------------------- what is true


class Run:
    """What is true of one run, whatever the scheduler believes.

    Attributes:
        needs: what it waits for, `(run or State, whether its failure is allowed)`.
        below: the runs that need this one.
        end: the phase in which it has to have ended, `None` while it is open.
        place: the execution or message it is in.
        told: whether a message said that it has begun.
        delayed: whether it waits for its retry.
        overdue: whether its attempt is past the limit and another is to come.
        tellings: how often the scheduler announced its end.
        final: what could be read of it once it had ended.
    """

    def __init__(
        self,
        runner: Runner,
        task: Task[Any, Any],
        number: int,
        *,
        future: TaskFuture[Any] | None = None,
        record: MapRecord[Any] | None = None,
        needs: Sequence[tuple[Run | State[Any], bool]] = (),
    ) -> None:
        self.runner = runner
        self.task = task
        self.number = number
        self.record = record
        self.needs = needs
        self.below: list[Run] = []
        self.end: int | None = None
        self.attempt = 1
        self.crashes = 0
        self.place: Execution | Message | None = None
        self.told = False
        self.delayed = False
        self.overdue = False
        self.tellings = 0
        self.final: tuple[Any, ...] | None = None
        self._future = future

    def __repr__(self) -> str:
        return f"{self.task.name} {self.number}"

    @property
    def index(self) -> int:
        """Its place in its map."""
        assert self.record is not None
        return self.number - self.record.base

    def future(self) -> TaskFuture[Any]:
        """Its future; for an element of a map this makes one, which is an event of its own."""
        if self.record is not None:
            return self.record.future(self.index)
        assert self._future is not None
        return self._future

    def glance(self) -> TaskFuture[Any] | None:
        """Its future if there is one, changing nothing."""
        return self.record.futures.get(self.index) if self.record is not None else self._future

    @property
    def phase(self) -> int:
        """The phase as the driver knows it, changing nothing."""
        future = self.glance()
        if future is not None:
            return future._phase
        assert self.record is not None
        value = self.record.values[self.index]
        if value is NO_VALUE:
            return READY
        return CANCELLED if value is CANCELLED_UNSEEN else COMPLETED

    def seen(self) -> tuple[Any, ...]:
        """All that can be read of a run that has ended."""
        future = self.glance()
        if future is not None:
            state = future._detail.state if future._detail is not None else None
            return future._phase, future._since, future._outcome, state
        assert self.record is not None
        value = self.record.values[self.index]
        return self.phase, self.record.since[self.index], None if value is CANCELLED_UNSEEN else value, None

    def needs_met(self) -> bool:
        """Whether everything it waits for has ended as it must."""
        return all(met(need, allowed) for need, allowed in self.needs)

    def waits_for_upstream(self) -> bool:
        """Whether something it waits for is still open."""
        return any(isinstance(need, Run) and need.end is None for need, _ in self.needs)


def met(need: Run | State[Any], allowed: bool) -> bool:
    if isinstance(need, State):
        return need.is_completed() or allowed
    return need.end == COMPLETED or (need.end is not None and allowed)


class Timer:
    """A call that the clock owes: a retry that becomes due, or a time limit."""

    def __init__(self, world: World, run: Run, retry: bool) -> None:
        self.world = world
        self.run = run
        self.retry = retry
        self.attempt = run.attempt
        world.timers.append(self)

    def cancel(self) -> None:
        if self in self.world.timers:
            self.world.timers.remove(self)
            if not self.retry:
                self.world.taken_back.append(self)


class Gate:
    """Gives the one slot that there is of the limit of LIMITED's tag.

    Attributes:
        asking: runs that asked for it.
        decided: runs for which it was decided, and that were not told.
        holder: the run that has it.
    """

    def __init__(self) -> None:
        self.asking: deque[Run] = deque()
        self.decided: list[tuple[Run, Exception | None]] = []
        self.holder: Run | None = None

    def decide(self, refuse: bool) -> None:
        run = self.asking.popleft()
        if not refuse:
            assert self.holder is None
            self.holder = run
        self.decided.append((run, ValueError("the limit is 0") if refuse else None))

    def release(self, run: Run) -> None:
        if run in self.asking:
            self.asking.remove(run)
        if self.holder is run:
            self.holder = None

    def knows(self, run: Run) -> bool:
        return run in self.asking or any(run is other for other, _ in self.decided)


class World:
    """All runs of all runners, how they have to end, and the clock."""

    def __init__(self) -> None:
        self.now = 1.0
        self.runners: list[Runner] = []
        self.runs: list[Run] = []
        self.maps: list[list[Run]] = []
        self.by_number: dict[int, Run] = {}
        self.timers: list[Timer] = []
        self.taken_back: list[Timer] = []
        self.numbers = count(1)
        self.gate = Gate()
        self.callers: list[tuple[Wait, list[Run]]] = []

    def add(self, run: Run) -> Run:
        """Takes note of a run that was submitted; it may be impossible from the first."""
        self.runs.append(run)
        self.by_number[run.number] = run
        for need, _ in run.needs:
            if isinstance(need, Run):
                need.below.append(run)
        if any(not met(n, a) for n, a in run.needs if isinstance(n, State) or n.end is not None):
            self.ends(run, NOT_READY)
        return run

    def of(self, future: TaskFuture[Any]) -> Run:
        return self.by_number[future._number]

    def ends(self, run: Run, phase: int) -> None:
        """A run has to end now, and with it all that needs it and does not allow for that."""
        assert run.end is None
        run.end = phase
        run.delayed = False
        for below in run.below:
            if below.end is None and not met(run, all(a for n, a in below.needs if n is run)):
                self.ends(below, NOT_READY)

    def cancels(self, runs: Iterable[Run]) -> None:
        """All of these have to be CANCELLED, also where one needs another."""
        for run in sorted(runs, key=self.runs.index, reverse=True):
            if run.end is None:
                self.ends(run, CANCELLED)

    def begins(self, run: Run, place: Execution | Message) -> None:
        """An attempt starts, or is sent: what must never be wrong then."""
        assert run.end is None, f"{run} starts after its end"
        assert run.place is None, f"{run} is in two places"
        assert not run.delayed, f"{run} starts before its retry is due"
        assert run.needs_met(), f"{run} starts before its upstreams ended"
        assert not run.task.tags or self.gate.holder is run, f"{run} starts without its slot"
        run.place = place

    def open_runs(self) -> list[Run]:
        return [run for run in self.runs if run.end is None]


# ---------------------------------------------------------------------- a runner: dispatcher and backend


class Runner:
    """Stands for a dispatcher and its backend.

    Args:
        world: what is true.
        pulls: whether its workers take runs themselves.
        limit: the most runs at once, if it pulls.
        known: tasks of which it is known that they are short.
        tells: whether ends of which nobody has a future, and the last end, are announced.
    """

    def __init__(
        self, world: World, pulls: bool, limit: int | None, known: Sequence[Task[Any, Any]], tells: bool
    ) -> None:
        self.world = world
        self.pulls = pulls
        self.limit = limit if pulls else None
        self.scheduler: Any = PullingScheduler(PULLING, limit) if pulls else PushingScheduler(PUSHING)
        self.scheduler.tells_ends = self.scheduler.tells_drained = self.tells = tells
        for task in known:
            self.scheduler.durations.observe(task, SHORT)
        self.workers: list[Worker] = self.scheduler.workers if pulls else []
        self.most = limit if limit is not None else 3
        self.lent = 0
        self.looks = False
        self.loop = Loop(self)
        self.messages: list[Message] = []
        self.drained = 0

    def __repr__(self) -> str:
        return f"runner {self.world.runners.index(self)}"

    state_of = Dispatcher.state_of  # it asks the future only

    def value_of(self, future: TaskFuture[Any]) -> Any:
        return future._outcome

    # ------------------------------------------------------------------ runs come in

    def submit(self, task: Task[Any, Any], needs: Sequence[tuple[Run | State[Any], bool]] = ()) -> Run:
        number = next(self.world.numbers)
        call = Call(task, (), None, number, copy_context(), None)
        future: TaskFuture[Any] = TaskFuture(self, task, number, call, self.world.now)  # type: ignore[arg-type]
        run = Run(self, task, number, future=future, needs=needs)
        if task.tags:
            future._details().limited = task.tags
        if needs or task.tags:
            inputs = [Input(n.future() if isinstance(n, Run) else n, allowed) for n, allowed in needs]
            self.world.add(run)
            self.scheduler.submit_after(future, inputs)
        else:
            self.world.add(run)
            self.scheduler.submit(future)
        self.drain()
        return run

    def map(self, task: Task[Any, Any], size: int) -> list[Run]:
        if task.tags:  # each asks for a slot of its own
            return [self.submit(task) for _ in range(size)]
        base = next(self.world.numbers)
        for _ in range(size - 1):
            next(self.world.numbers)
        columns: Any = [(list(range(size)), None)]
        record: MapRecord[Any] = MapRecord(self, task, base, size, columns, None, copy_context(), None)  # type: ignore[arg-type]
        runs = [self.world.add(Run(self, task, base + i, record=record)) for i in range(size)]
        self.world.maps.append(runs)
        self.scheduler.submit_map(record)
        self.drain()
        return runs

    def cancel_all(self, most: int) -> None:
        """As `Dispatcher.cancel_all`: some at a time, and what executes in this process at the end."""
        self.world.cancels(run for run in self.world.runs if run.runner is self)
        while self.scheduler.cancel_some(most, self.world.now):
            self.drain()
        for execution in self.executions():
            self.scheduler.cancel(execution.future(), self.world.now)
        self.drain()

    # ------------------------------------------------------------------ effects, as the dispatcher carries them out

    def drain(self) -> None:
        """Carries out the effects. Only those of this scheduler: others have to be told by OTHER."""
        while self.scheduler.effects:
            kind, *about = self.scheduler.effects.popleft()
            self._PERFORM[kind](self, *about)

    def _settled(self, future: TaskFuture[Any]) -> None:
        run = self.world.of(future)
        run.tellings += 1
        assert future._phase >= DONE
        detail = future._detail
        if detail is not None:
            waiters, detail.waiters = detail.waiters, None
            for waiter in waiters or ():
                waiter(future)

    def _element(self, record: MapRecord[Any], index: int) -> None:
        self.world.by_number[record.base + index].tellings += 1

    def _record(self, record: MapRecord[Any]) -> None:
        waiters = list(record.waiters)
        if record.ended:
            record.waiters.clear()
        for waiter in waiters:
            waiter(record)

    def _wake(self, worker: Worker) -> None:
        worker.wake()

    def _crowded(self) -> None:
        self.looks = True

    def _loop(self) -> None:
        self.loop.signalled = True

    def _launch(self, batch: Batch) -> None:
        self.messages.append(Message(self, batch))

    def _timer(self, future: TaskFuture[Any], seconds: float) -> None:
        run = self.world.of(future)
        if future._phase == AWAITING_RETRY:
            if seconds:
                future._details().timer = Timer(self.world, run, retry=True)
            else:
                run.delayed = False
                self.scheduler.due(future)

    def _interrupt(self, future: TaskFuture[Any]) -> None:
        run = self.world.of(future)
        if isinstance(run.place, Execution):
            run.place.interrupt()
        elif run.place is not None:
            run.place.interrupt(run)

    def _other(self, runner: Runner) -> None:
        runner.drain()

    def _limit(self, future: TaskFuture[Any]) -> None:
        self.world.gate.asking.append(self.world.of(future))

    def _release(self, future: TaskFuture[Any]) -> None:
        self.world.gate.release(self.world.of(future))

    def _drained(self) -> None:
        self.drained += 1

    _PERFORM: dict[int, Callable[..., None]] = {  # noqa: RUF012 - a table, made once
        effects_of.SETTLED: _settled,
        effects_of.ELEMENT: _element,
        effects_of.RECORD: _record,
        effects_of.WAKE: _wake,
        effects_of.CROWDED: _crowded,
        effects_of.LOOP: _loop,
        effects_of.LAUNCH: _launch,
        effects_of.TIMER: _timer,
        effects_of.INTERRUPT: _interrupt,
        effects_of.OTHER: _other,
        effects_of.DRAINED: _drained,
        effects_of.LIMIT: _limit,
        effects_of.RELEASE: _release,
    }

    # ------------------------------------------------------------------ the pool

    def look_again(self) -> bool:
        """The pool looks what has waited too long: adds a worker, takes back what stands behind slow elements.

        Returns:
            Whether it could do anything.
        """
        self.looks = False
        for worker in self.workers:
            for item in worker.stack:
                if isinstance(item, Walk):
                    self.scheduler.take_back(item.span)
        grows = bool(self.scheduler.ready) and len(self.workers) < self.most + self.lent
        if grows:
            self.workers.append(Worker(self))
        self.watch()
        return grows or bool(self.scheduler.effects)

    def watch(self) -> None:
        """The pool looks again later, or has the scheduler tell when it is crowded."""
        self.scheduler.growable = True
        walks = [item for worker in self.workers for item in worker.stack if isinstance(item, Walk)]
        self.looks = bool(self.scheduler.ready) or any(walk.rest() for walk in walks)

    def executions(self) -> list[Execution]:
        """Attempts under way here, waiting ones too."""
        stacks = [item for worker in self.workers for item in worker.stack]
        return [item for item in stacks if isinstance(item, Execution)] + self.loop.coroutines

    def places_taken(self) -> int:
        """How many runs (or spans) are really going on."""
        return sum(worker.is_working() for worker in self.workers) + sum(
            coroutine.goes_on() for coroutine in self.loop.coroutines
        )


# ---------------------------------------------------------------------- pulling: attempts, workers, the loop


class Execution:
    """One attempt, on a worker or on the loop.

    Attributes:
        interrupted: whether it was told to stop.
        resting: what it waits for without doing anything meanwhile.
        queued: whether it has what it waited for, and queues for a place.
    """

    def __init__(self, run: Run, host: Worker | Loop, in_span: bool = False) -> None:
        self.run = run
        self.host = host
        self.in_span = in_span
        self.interrupted = False
        self.resting: Wait | None = None
        self.queued = False
        self.call: Call | None = None
        run.runner.world.begins(run, self)

    def begin(self) -> None:
        """As `Dispatcher.begin`: makes the call of an element, starts the time limit."""
        future = self.run.future()
        if future._call is None:
            assert self.run.record is not None
            future._call = self.run.record.call(self.run.index)
        self.call = future._call
        future._since = self.run.runner.world.now
        if self.run.task.timeout_seconds is not None:
            future._details().timer = Timer(self.run.runner.world, self.run, retry=False)

    def begin_element(self) -> None:
        """As a worker begins an element that has no future."""
        assert self.run.record is not None
        self.call = self.run.record.call(self.run.index)

    def goes_on(self) -> bool:
        """Whether it is executing its function, not waiting."""
        return self.resting is None and not self.queued

    def interrupt(self) -> None:
        self.interrupted = True
        self.host.interrupted(self)

    def future(self) -> TaskFuture[Any]:
        """Its run's future, made if need be by the worker that runs it."""
        future = self.run.future()
        if future._call is None and future._phase < DONE:
            future._call = self.call
        return future

    def end(self, how: str, delay: float) -> None:
        """The function returns or raises; the engine makes an outcome of it, and the scheduler is told."""
        run, world = self.run, self.run.runner.world
        scheduler = run.runner.scheduler
        outcome = engine_outcome(run, how, delay, self.interrupted)
        run.place = None
        if run.end is None:
            ended_as(world, run, outcome)
        if outcome.phase == COMPLETED and run.record is not None and run.glance() is None:
            scheduler.element_completed(run.record, run.index, outcome.value, world.now)
        elif outcome.phase == COMPLETED and run.record is None:
            scheduler.complete(run.future(), outcome.value, world.now)
        else:
            scheduler.ended(self.future(), outcome, world.now)
        self.host.left(self)

    # ------------------------------------------------------------------ a wait that does nothing meanwhile

    def rest(self, wanted: Sequence[TaskFuture[Any]]) -> None:
        """Waits with a time limit, or as a coroutine.

        Raises:
            WaitCycle: for what waits for it.
        """
        scheduler = self.run.runner.scheduler
        scheduler.check_cycle(wanted, self.future())
        scheduler.waits(self.future(), wanted)
        self.resting = Wait(self, wanted)
        self.resting.watch(wanted)
        self.host.rests()

    def wake(self) -> None:
        """The wait is over, because of an end or the time limit: it needs its place again."""
        assert self.resting is not None
        self.resting.close()
        self.resting = None
        self.run.runner.scheduler.waits(self.future(), None)
        self.queued = not self.host.goes_on(self)

    def look_again(self) -> None:
        """What it waits for has ended; the next step is `wake`."""

    def resume(self) -> None:
        """The scheduler has a place for it."""
        assert self.queued
        self.queued = False


def engine_outcome(run: Run, how: str, delay: float, interrupted: bool) -> Outcome:
    """What the engine makes of an attempt: whether there is another is its decision."""
    again = run.attempt <= run.task.retries
    if interrupted:
        return Outcome(AWAITING_RETRY, TimeoutError(), delay=delay) if run.overdue else Outcome(CANCELLED, None)
    if how == "completes":
        return Outcome(COMPLETED, object())
    if how == "crashes":
        return Outcome(CRASHED, SystemExit())
    return Outcome(AWAITING_RETRY, ValueError(), delay=delay) if again else Outcome(FAILED, ValueError())


def ended_as(world: World, run: Run, outcome: Outcome) -> None:
    """What an outcome means for an open run."""
    run.overdue = False
    if outcome.phase == AWAITING_RETRY:
        run.attempt += 1
        run.delayed = True
    else:
        world.ends(run, outcome.phase)


class Wait(Countdown):
    """What a thread or a coroutine blocks on.

    Attributes:
        woken: whether there is an end to wake it for.
    """

    def __init__(self, host: Any, wanted: Sequence[TaskFuture[Any]], fail_fast: bool = False) -> None:
        super().__init__(fail_fast)
        self.host = host
        self.wanted = wanted
        self.woken = False
        self._wake = self._wake_up

    def _wake_up(self) -> None:
        self.woken = True
        self.host.look_again()

    def close(self) -> None:
        if self.pending:
            self.forget(self.wanted)


class Caller:
    """A thread of the user's that waits, and does nothing meanwhile."""

    def look_again(self) -> None:
        pass


class Walk:
    """A worker's way through a span.

    Attributes:
        popped: the element that it has taken from the span and not begun.
    """

    def __init__(self, span: Span) -> None:
        self.span = span
        self.popped: int | None = None
        self.count = 0

    def __repr__(self) -> str:
        return f"a span of the map {self.span.record.base}"

    def rest(self) -> list[int]:
        """The elements that nobody has taken; they are put back."""
        left = list(self.span.indices)
        self.span.indices = iter(left)  # type: ignore[assignment]
        return left


class Worker:
    """A thread of a pool, or what it does between two steps: `doing`, and on its stack what it does it for.

        AWAKE ─look_for_work─▶ IDLE ─wake─▶ AWAKE
          │                                                   ┌─ PARKED ─look_again─▶ WOKEN ─┐
          └──▶ WORKING ─help─▶ (what it waits for itself: WORKING, or else) ◀── go_on ──────────┘
                                                              └─ QUEUED ─resume─▶ GRANTED
    """

    AWAKE, IDLE, WORKING, PARKED, WOKEN, QUEUED, GRANTED = (
        "awake", "idle", "working", "parked", "woken", "queued", "granted",
    )  # fmt: skip

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.doing = self.AWAKE
        self.stack: list[Execution | Walk | Wait] = []
        self.slept = False
        self.counted = False

    def __repr__(self) -> str:
        stack = [item if isinstance(item, Walk) else item.run for item in self.stack if not isinstance(item, Wait)]
        return f"worker {self.runner.workers.index(self)} of {self.runner}, {self.doing}: {stack}"

    @property
    def top(self) -> Execution | Walk | Wait | None:
        return self.stack[-1] if self.stack else None

    def is_working(self) -> bool:
        """Whether it takes one of the runner's places."""
        top = self.top
        return isinstance(top, Walk) or (isinstance(top, Execution) and top.goes_on())

    # ------------------------------------------------------------------ what others tell it

    def is_asleep(self) -> bool:
        return self.doing in (self.IDLE, self.PARKED, self.QUEUED) or (
            isinstance(self.top, Execution) and self.top.resting is not None
        )

    def serves(self, runner: Runner) -> bool:
        return runner is self.runner

    def wake(self) -> None:
        assert self.doing == self.IDLE
        self.doing = self.AWAKE

    def look_again(self) -> None:
        if self.doing == self.PARKED:
            self.doing = self.WOKEN

    def resume(self) -> None:
        assert self.doing == self.QUEUED
        self.doing = self.GRANTED

    def interrupted(self, execution: Execution) -> None:
        self.look_again()

    # ------------------------------------------------------------------ its steps

    def look_for_work(self) -> None:
        scheduler = self.runner.scheduler
        found: TaskFuture[Any] | Span | None = None
        if not (self.slept or scheduler.counting):
            found = scheduler.pop()
        if found is None:
            found = scheduler.take(self)  # type: ignore[assignment]
            self.slept = found is None
        if found is None:
            self.doing = self.IDLE
        else:
            self._begin(found)

    def _begin(self, found: TaskFuture[Any] | Span) -> None:
        self.doing = self.WORKING
        if isinstance(found, Span):
            self.stack.append(Walk(found))
        else:
            execution = Execution(self.runner.world.of(found), self)
            self.stack.append(execution)
            execution.begin()

    def next_element(self) -> None:
        """Takes the next element from its span; the end of the span if there is none."""
        walk = self.top
        assert isinstance(walk, Walk)
        walk.popped = next(walk.span.indices, None)
        if walk.popped is None:
            walk.span.record.spans.remove(walk.span)
            self.runner.scheduler.durations.observe(walk.span.record.task, walk.count * SHORT, walk.count)
            self.runner.scheduler.vacated(self)
            self._pop()

    def begin_element(self) -> None:
        walk = self.top
        assert isinstance(walk, Walk)
        assert walk.popped is not None
        index, walk.popped = walk.popped, None
        record = walk.span.record
        walk.count += 1
        record.since[index] = self.runner.world.now
        run = self.runner.world.by_number[record.base + index]
        if record.task.is_plain and index not in record.futures:
            execution = Execution(run, self, in_span=True)
            self.stack.append(execution)
            execution.begin_element()
        else:
            future = record.materialize(index)
            future._claim()
            if future._phase < DONE:
                execution = Execution(run, self, in_span=True)
                self.stack.append(execution)
                execution.begin()

    def left(self, execution: Execution) -> None:
        """An attempt has ended."""
        if not execution.in_span:
            self.runner.scheduler.vacated(self)
        self._pop()

    def _pop(self) -> None:
        self.stack.pop()
        if not self.stack:
            self.doing = self.AWAKE
        elif isinstance(self.top, Wait):
            self.doing = self.WOKEN

    # ------------------------------------------------------------------ a wait in which it does what it waits for

    def help(self, wanted: Sequence[TaskFuture[Any]]) -> None:
        """Its run waits.

        Raises:
            WaitCycle: the run, or one beneath it, would wait for itself.
        """
        me = self.top
        assert isinstance(me, Execution)
        wait = Wait(self, wanted)
        wait.watch(wanted)
        if not wait.woken:
            self.runner.scheduler.waits(me.future(), wanted)
            self.stack.append(wait)
            self._look()

    def go_on(self) -> None:
        """Something has changed: it takes a place and looks what."""
        if self.doing == self.WOKEN and self._place_needed():
            if not self.runner.scheduler.occupy(self):
                self.counted = True
                self.doing = self.QUEUED
                return
            self.counted = True
        self._look()

    def _place_needed(self) -> bool:
        return self.runner.scheduler.counting and not self.counted

    def _look(self) -> None:
        wait, me = self.top, self.stack[-2]
        assert isinstance(wait, Wait)
        assert isinstance(me, Execution)
        self.doing = self.WORKING
        scheduler = self.runner.scheduler
        if wait.woken or me.interrupted:
            self._stop_waiting()
            return
        running = [item.future() for item in self.stack if isinstance(item, Execution)]
        try:
            found = scheduler.wait_for(wait.wanted, self, running)
        except Exception:
            self._stop_waiting()
            raise
        if found is None:
            self.doing = self.PARKED
            scheduler.vacated(self)
        else:
            self._begin(found)  # in the place of the run that waits

    def _stop_waiting(self) -> None:
        wait, me = self.stack.pop(), self.top
        assert isinstance(wait, Wait)
        assert isinstance(me, Execution)
        self.runner.scheduler.waits(me.future(), None)
        wait.close()

    # ------------------------------------------------------------------ a wait in which it lends its place

    def rests(self) -> None:
        self.runner.scheduler.count_places()
        self.runner.scheduler.vacated(self)
        self.runner.lent += 1
        self.runner.watch()

    def goes_on(self, execution: Execution) -> bool:
        self.runner.lent -= 1
        if not self._place_needed():
            return True
        self.counted = True
        return self.runner.scheduler.occupy(execution)

    def is_surplus(self) -> bool:
        """Whether it was a spare for one that rested."""
        return self.doing == self.IDLE and len(self.runner.workers) > self.runner.most + self.runner.lent

    def retires(self) -> None:
        self.runner.scheduler.idle.remove(self)
        self.runner.workers.remove(self)

    # ------------------------------------------------------------------ the end of a worker that will not stop

    def is_stuck(self) -> bool:
        """Whether its run was interrupted and goes on all the same, with nothing beneath it."""
        top = self.top
        return (
            isinstance(top, Execution)
            and top.interrupted
            and top.goes_on()
            and all(isinstance(item, Walk) for item in self.stack[:-1])
        )

    def given_up(self) -> None:
        """As `ThreadBackend.give_up`."""
        execution, scheduler = self.stack[-1], self.runner.scheduler
        assert isinstance(execution, Execution)
        run, world = execution.run, self.runner.world
        self.runner.workers.remove(self)
        run.place = None
        for item in self.stack:
            if isinstance(item, Walk):
                scheduler.take_back(item.span)
        if run.end is None:
            world.ends(run, FAILED)
            scheduler.settle(run.future(), FAILED, TimeoutError(), world.now)
        scheduler.vacated(self)
        self.runner.watch()


class Loop:
    """The loop that runs the coroutines of a pulling runner."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.signalled = False
        self.coroutines: list[Execution] = []

    def __repr__(self) -> str:
        return f"the loop of {self.runner}"

    def take(self, most: int) -> None:
        """Takes coroutines, in bulk; comes again if there may be more."""
        taken = self.runner.scheduler.take_async(most)
        self.signalled = len(taken) == most
        for future in taken:
            coroutine = Execution(self.runner.world.of(future), self)
            self.coroutines.append(coroutine)
            coroutine.begin()

    def interrupted(self, execution: Execution) -> None:
        pass

    def left(self, execution: Execution) -> None:
        self.coroutines.remove(execution)
        self.runner.scheduler.vacate()

    def rests(self) -> None:
        self.runner.scheduler.vacate()

    def goes_on(self, execution: Execution) -> bool:
        return self.runner.scheduler.occupy(execution)


# ---------------------------------------------------------------------- pushing: messages


class Message:
    """A batch on a worker, seen from there.

    Attributes:
        left: positions that were not begun.
        current: the position that is executing.
        ended: positions that have ended and were not reported, with what is to be said of each.
        silent: whether it will not say anything any more.
    """

    def __init__(self, runner: Runner, batch: Batch) -> None:
        self.runner = runner
        self.batch = batch
        self.number = batch.number
        world = runner.world
        if isinstance(batch.runs, Span):
            span = batch.runs
            self.runs = [world.by_number[span.record.base + i] for i in range(span.start, span.stop)]
        else:
            self.runs = [world.of(future) for future in batch.runs]
        self.left: deque[int] = deque()
        self.current: int | None = None
        self.interrupted = False
        self.ended: list[tuple[int, Any]] = []
        self.untold: list[int] = []
        self.silent = False
        self._check()
        for position, run in enumerate(self.runs):
            if run.end is None:  # a map's range may hold elements that were cancelled
                world.begins(run, self)
                run.told = False
                self.left.append(position)

    def _check(self) -> None:
        """What must be true of every batch."""
        tasks = {run.task for run in self.runs}
        assert 1 <= len(self.runs) <= PUSHING.policy.cap
        assert len({task.is_async for task in tasks}) == 1
        for task in tasks:
            if task.batch_limit is not None:
                assert len(self.runs) <= task.batch_limit, f"{len(self.runs)} runs, {task.name} among them"
            if len(self.runs) > 1:
                assert self.runner.scheduler.durations.of(task)[0] is not None, "an unknown task travels alone"

    def open_positions(self) -> list[int]:
        """Those of which nothing was said."""
        current = [] if self.current is None else [self.current]
        return sorted([*self.left, *current, *(position for position, _ in self.ended)])

    def begin(self, tell: bool) -> None:
        self.current = self.left.popleft()
        run = self.runs[self.current]
        assert run.end is None, f"{run} starts after its end"
        assert run.place is self
        if tell:
            self.tell_started(self.current)
        else:
            self.untold.append(self.current)

    def tell_started(self, position: int) -> None:
        run = self.runs[position]
        if not self.silent and run.place is self and position in self.open_positions():
            run.told = True
        self.runner.scheduler.batch_started(self.number, position)

    def interrupt(self, run: Run) -> None:
        """As a backend does that can: what has not begun never does."""
        position = self.runs.index(run)
        if position == self.current:
            self.interrupted = True
        elif position in self.left:
            self.left.remove(position)
            run.place = None

    def end(self, how: str, delay: float) -> None:
        """The worker is through with a run."""
        assert self.current is not None
        run = self.runs[self.current]
        outcome = engine_outcome(run, how, delay, self.interrupted)
        value = outcome.value if outcome.phase == COMPLETED else outcome
        self.ended.append((self.current, value))
        self.current, self.interrupted = None, False

    def report(self) -> Callable[[], None]:
        """What has ended is told. Returns the report, to be told again."""
        positions = [position for position, _ in self.ended]
        values = [value for _, value in self.ended]
        ends = [self.runner.world.now] * len(values)
        self.ended.clear()
        if not self.silent:
            for position, value in zip(positions, values, strict=True):
                run = self.runs[position]
                run.place = None
                if run.end is None:
                    outcome = value if isinstance(value, Outcome) else Outcome(COMPLETED, value)
                    ended_as(self.runner.world, run, outcome)
        scheduler = self.runner.scheduler

        def tell() -> None:
            scheduler.batch_observed(self.number, SHORT * len(values), len(values))
            scheduler.batch_reported(self.number, positions, values, ends)

        tell()
        return tell

    def close(self) -> None:
        """It has said all; what it never spoke of was not started."""
        assert self.current is None
        assert not self.ended
        self._drop(self.left)
        self._fall_silent()
        self.runner.scheduler.batch_closed(self.number)

    def hand_back(self, how_many: int) -> list[int]:
        positions = list(self.left)[-how_many:]
        self._drop(positions)
        self.runner.scheduler.batch_handed_back(self.number, positions)
        return positions

    def split(self) -> None:
        """It could not be unpacked."""
        assert self.current is None
        assert not self.ended
        self._drop(self.left)
        self._fall_silent()
        self.runner.scheduler.batch_split(self.number)

    def lose(self, known: bool) -> None:
        """The worker dies; who says so may know what had begun, or not."""
        maybe_started = [p for p in self.open_positions() if p not in self.left] if known else None
        for position, run in enumerate(self.runs):
            if run.place is not self:
                continue
            run.place = None
            run.overdue = False
            if run.end is None and (maybe_started is None or position in maybe_started):
                if run.crashes < run.task.crash_retries:
                    run.crashes += 1
                else:
                    self.runner.world.ends(run, CRASHED)
        self._fall_silent()
        self.runner.scheduler.batch_lost(self.number, RuntimeError, maybe_started, self.runner.world.now)

    def _drop(self, positions: Iterable[int]) -> None:
        for position in list(positions):
            self.left.remove(position)
            self.runs[position].place = None

    def _fall_silent(self) -> None:
        self.silent = True
        self.runner.messages.remove(self)
