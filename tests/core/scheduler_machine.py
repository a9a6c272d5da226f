"""The scheduler's rules, tried in any order: Hypothesis makes runs, moves whatever can move, and looks for a lie.

`scheduler_world` holds the stand-ins and what is true, `scheduler_rules` what must hold between that and what the
scheduler says. Each rule here lets one thing happen: it says first, in the world's account, what has to follow, and then
tells the scheduler. At the end everything is driven as far as it goes, and then every run must have ended.

    PullingMachine   two runners whose workers take runs themselves
    PushingMachine   two runners that send batches
    MixedMachine     one of each, with runs that need runs of the other
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, ClassVar

from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from manyhands.calls import FAILED
from manyhands.exceptions import WaitCycle
from manyhands.futures.maps import MapRecord
from manyhands.states import Completed, Failed

from tests.core.scheduler_rules import audit
from tests.core.scheduler_world import (
    TASKS,
    Caller,
    Execution,
    Loop,
    Message,
    Run,
    Runner,
    Timer,
    Wait,
    Walk,
    Worker,
    World,
)

if TYPE_CHECKING:
    from collections.abc import Callable

#: `SCHEDULER_MACHINE=deep` looks for minutes instead of seconds; a number is a number of examples for each machine.
DEPTH = os.environ.get("SCHEDULER_MACHINE", "quick")
EXAMPLES = {"quick": 60, "deep": 5000}.get(DEPTH) or int(DEPTH)

MACHINE_SETTINGS = settings(
    max_examples=EXAMPLES,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

#: At most so many runs at a time, so that things happen to the same ones.
CROWD = 20

which = st.integers(0, 1)
picks = st.integers(0, 63)
tasks = st.sampled_from(TASKS)
ways_to_end = st.sampled_from(["completes", "completes", "fails", "crashes"])
delays = st.sampled_from([0.0, 1.0])


def pick(items: list[Any], number: int) -> Any:
    return items[number % len(items)]


class SchedulerMachine(RuleBasedStateMachine):
    """What can happen whichever way runs reach the workers."""

    #: Whether each of the two runners pulls.
    kinds: ClassVar[tuple[bool, bool]]

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.sound = True

    @initialize(
        limits=st.tuples(*[st.sampled_from([None, 1, 2])] * 2),
        known=st.booleans(),
        tells=st.booleans(),
    )
    def begin(self, limits: tuple[int | None, ...], known: bool, tells: bool) -> None:
        for pulls, limit in zip(self.kinds, limits, strict=True):
            self.world.runners.append(Runner(self.world, pulls, limit, TASKS if known else [], tells))

    def say(self, text: object) -> None:
        """Notes what happens, for the report of a failure; makes time pass."""
        note(f"    # {text}")
        self.sound = False  # until the invariants have been looked at
        self.world.now += 1.0

    def drain(self, *runners: Runner) -> None:
        for runner in runners:
            runner.drain()

    # ------------------------------------------------------------------ runs come in

    def room(self) -> bool:
        return len(self.world.open_runs()) < CROWD

    @precondition(room)
    @rule(
        which=which,
        tasks=st.lists(tasks, min_size=1, max_size=3),
        needs=st.lists(st.tuples(picks, st.booleans()), max_size=3),
    )
    def submit(self, which: int, tasks: list[Any], needs: list[tuple[int, bool]]) -> None:
        choice = [*self.visible()[-8:], Completed(), Failed("no")]
        chosen = [(pick(choice, number), allowed) for number, allowed in needs]
        for task in tasks:
            self.say(f"submit {task.name} {next_number(self.world)} needing {chosen}")
            self.world.runners[which].submit(task, chosen)

    @precondition(room)
    @rule(which=which, task=tasks, size=st.integers(1, 5))
    def map(self, which: int, task: Any, size: int) -> None:
        self.say(f"map {task.name} {next_number(self.world)} over {size}")
        self.world.runners[which].map(task, size)

    def visible(self) -> list[Run]:
        """Runs that a user can name: of a map whose list was dropped, only those that were looked at before."""
        return [r for r in self.world.runs if r.record is None or r.record.kept or r.glance() is not None]

    # ------------------------------------------------------------------ what users do

    @precondition(visible)
    @rule(number=picks)
    def cancel(self, number: int) -> None:
        visible = self.visible()
        run = pick([*(run for run in visible if run.end is None), visible[0]], number)
        self.say(f"cancel {run}")
        was_open = run.end is None
        future = run.future()
        self.world.cancels([run])
        assert run.runner.scheduler.cancel(future, self.world.now) is was_open
        self.drain(run.runner)

    @precondition(lambda self: len(self.world.open_runs()) > 5)
    @rule(which=which, most=st.integers(1, 4))
    def cancel_all(self, which: int, most: int) -> None:
        """Every open run of a runner is CANCELLED, though one may need another (SPEC 7.4)."""
        runner = self.world.runners[which]
        self.say(f"cancel all of runner {which}")
        runner.cancel_all(most)

    @precondition(visible)
    @rule(numbers=st.lists(picks, min_size=1, max_size=3), whole_map=st.booleans(), fail_fast=st.booleans())
    def caller_waits(self, numbers: list[int], whole_map: bool, fail_fast: bool) -> None:
        """A thread that runs nothing waits for some runs, or for a map."""
        runs, wanted = self.choose_wanted(numbers, whole_map)
        wait = Wait(Caller(), wanted, fail_fast)
        wait.watch(wanted)
        self.world.callers.append((wait, runs))

    def choose_wanted(self, numbers: list[int], whole_map: bool) -> tuple[list[Run], Any]:
        if whole_map and self.kept():
            runs = pick(self.kept(), numbers[0])
            return runs, [runs[0].record]
        choice = [run for run in self.visible() if run.end is None] or self.visible()
        runs = [pick(choice, number) for number in numbers] if choice else []
        return runs, [run.future() for run in runs]

    def kept(self) -> list[list[Run]]:
        """Maps whose list somebody holds."""
        return [runs for runs in self.world.maps if runs[0].record.kept]  # type: ignore[union-attr]

    @precondition(kept)
    @rule(number=picks, index=picks, drop=st.booleans())
    def look_into_list(self, number: int, index: int, drop: bool) -> None:
        """Somebody takes a future out of a map's list, and perhaps lets go of the list."""
        runs = pick(self.kept(), number)
        self.say(f"look at {pick(runs, index)}{', and drop the list' if drop else ''}")
        pick(runs, index).future()
        if drop:
            runs[0].record.drop()

    # ------------------------------------------------------------------ time

    def clock(self) -> list[Timer]:
        """Timers that may fire: those that are set, and the last that were taken back, perhaps too late."""
        return [*self.world.timers, *self.world.taken_back[-2:]]

    @precondition(clock)
    @rule(number=picks)
    def timer_fires(self, number: int) -> None:
        timer = pick(self.clock(), number)
        timer.cancel()
        self.say(f"the {'retry' if timer.retry else 'time limit'} of attempt {timer.attempt} of {timer.run}")
        if not timer.retry:
            self.limit_reached(timer.run, timer.attempt)
        else:
            timer.run.delayed = False
            timer.run.runner.scheduler.due(timer.run.future())
            self.drain(timer.run.runner)

    def gate_can_move(self) -> bool:
        gate = self.world.gate
        return bool(gate.decided or (gate.asking and gate.holder is None))

    @precondition(gate_can_move)
    @rule(refuse=st.sampled_from([False, False, True]))
    def limit_has_a_slot(self, refuse: bool) -> None:
        """The slot of a concurrency limit is free, or a run is told that it has it."""
        gate = self.world.gate
        if not gate.decided:
            self.say(f"{gate.asking[0]} {'is refused' if refuse else 'has'} a slot of its limit")
            gate.decide(refuse)
            return
        run, refusal = gate.decided.pop()
        self.say(f"{run} is told so")
        if refusal is None:
            run.runner.scheduler.admitted(run.future())
        else:
            if run.end is None:
                self.world.ends(run, FAILED)
            run.runner.scheduler.settle(run.future(), FAILED, refusal, self.world.now)
        self.drain(run.runner)

    def limit_reached(self, run: Run, attempt: int) -> None:
        meant = run.end is None and isinstance(run.place, Execution) and run.attempt == attempt
        if meant and attempt > run.task.retries:
            self.world.ends(run, FAILED)
        elif meant:
            run.overdue = True
        told = run.runner.scheduler.expired(run.future(), attempt, 1.0, self.world.now)
        assert told is meant
        self.drain(run.runner)

    @invariant()
    def the_rules_hold(self) -> None:
        audit(self.world)
        self.sound = True

    # ------------------------------------------------------------------ the end

    def step(self) -> bool:
        """Lets something happen that has to, sooner or later; False if there is no such thing."""
        if self.gate_can_move():
            self.limit_has_a_slot(False)
            return True
        timers = [timer for timer in self.world.timers if timer.retry]
        if timers:
            self.timer_fires(self.clock().index(timers[0]))
        return bool(timers)

    def teardown(self) -> None:
        """When everything is driven to its end, every run has ended."""
        if not self.sound:
            return  # a rule has failed, and is the news
        for _ in range(1000):
            if not self.step():
                break
            self.the_rules_hold()
        assert not self.world.open_runs(), f"left for ever: {self.world.open_runs()}"
        assert not self.world.timers, "timers of runs that have ended"


def next_number(world: World) -> int:
    return world.runs[-1].number + 1 if world.runs else 1


class PullingRules(SchedulerMachine):
    """What can happen where workers take runs themselves."""

    def workers(self) -> list[Worker]:
        return [worker for runner in self.world.runners for worker in runner.workers]

    def executing(self) -> list[Execution]:
        """Attempts that are executing their function."""
        tops = [w.top for w in self.workers() if isinstance(w.top, Execution)]
        coroutines = [c for runner in self.world.runners for c in runner.loop.coroutines]
        return [execution for execution in [*tops, *coroutines] if execution.goes_on()]

    def resting(self) -> list[Execution]:
        executions = [e for runner in self.world.runners for e in runner.executions()]
        return [e for e in executions if e.resting is not None]

    # ------------------------------------------------------------------ what moves by itself

    def movable(self) -> list[Worker | Loop | Runner]:
        """Workers that are at a step of their own, loops that were signalled, pools that look for what waits."""
        steps = (Worker.AWAKE, Worker.WOKEN, Worker.GRANTED)
        workers = [w for w in self.workers() if w.doing in steps or isinstance(w.top, Walk)]
        loops = [runner.loop for runner in self.world.runners if runner.loop.signalled]
        return [*workers, *loops, *(runner for runner in self.world.runners if runner.looks)]

    @precondition(movable)
    @rule(numbers=st.lists(picks, min_size=1, max_size=5), most=st.integers(1, 3))
    def things_move(self, numbers: list[int], most: int) -> None:
        for number in numbers:
            what = pick(self.movable(), number)
            self.say(what)
            if isinstance(what, Worker):
                self.worker_moves(what)
                self.drain(what.runner)
            elif isinstance(what, Loop):
                what.take(most)
                self.drain(what.runner)
            else:
                what.look_again()
                self.drain(what)
            self.the_rules_hold()
            if not self.movable():
                break

    things_move_on = things_move_further = things_move  # likelier than what users do

    def worker_moves(self, worker: Worker) -> None:
        """A worker looks for work, goes on after a wait, or takes or begins the next element of its span."""
        if worker.doing == Worker.AWAKE:
            worker.look_for_work()
        elif isinstance(worker.top, Wait):
            try:
                worker.go_on()
            except WaitCycle:
                assert isinstance(worker.top, Execution)
        elif isinstance(worker.top, Walk) and worker.top.popped is None:
            worker.next_element()
        else:
            worker.begin_element()

    @precondition(executing)
    @rule(number=picks, how=ways_to_end, delay=delays)
    def run_ends(self, number: int, how: str, delay: float) -> None:
        execution = pick(self.executing(), number)
        self.say(f"{execution.run} {'was interrupted' if execution.interrupted else how}")
        execution.end(how, delay)
        self.drain(execution.run.runner)

    @precondition(executing)
    @rule(number=picks, numbers=st.lists(picks, min_size=1, max_size=2), whole_map=st.booleans(), timed=st.booleans())
    def run_waits(self, number: int, numbers: list[int], whole_map: bool, timed: bool) -> None:
        """A run waits for others: doing them itself (a worker), or resting (a coroutine, or with a time limit)."""
        execution = pick(self.executing(), number)
        runs, wanted = self.choose_wanted(numbers, whole_map)
        if execution.interrupted or all(run.end is not None for run in runs):
            return
        rests = timed or not isinstance(execution.host, Worker)
        on_stack = self.stack_of(execution)
        circle = self.reach(runs, by_stack=False)
        seen = circle & ({execution.run} if rests else set(on_stack))
        if not seen and self.reach(runs, by_stack=True) & set(on_stack):
            return  # a circle that only a stack closes (after a cancel), or a limit, is not seen
        self.say(f"{execution.run} waits for {runs}, {'resting' if rests else 'doing them itself'}")
        self.drain(execution.run.runner)
        try:
            if rests:
                execution.rest(wanted)
                assert not seen, "a circle went unseen"
            else:
                execution.host.help(wanted)
        except WaitCycle:
            assert seen, "there is no such circle"
        self.drain(execution.run.runner)

    run_waits_for_others = run_waits

    def stack_of(self, execution: Execution) -> list[Run]:
        if not isinstance(execution.host, Worker):
            return [execution.run]
        return [item.run for item in execution.host.stack if isinstance(item, Execution)]

    def reach(self, runs: list[Run], by_stack: bool) -> set[Run]:
        """What some runs wait for, directly or not.

        That is upstreams and what a run waits for; `by_stack`, also what is above it on a stack or has its slot.
        """
        found: set[Run] = set()
        todo = list(runs)
        while todo:
            run = todo.pop()
            if run in found or run.end is not None:
                continue
            found.add(run)
            todo += [need for need, _ in run.needs if isinstance(need, Run)]
            if by_stack and run in self.world.gate.asking and self.world.gate.holder is not None:
                todo.append(self.world.gate.holder)
            execution = run.place
            if not isinstance(execution, Execution):
                continue
            if execution.resting is not None:
                todo += self.runs_in(execution.resting.wanted)
            if isinstance(execution.host, Worker):
                stack = execution.host.stack
                above = stack[stack.index(execution) + 1 :]
                if above and isinstance(above[0], Wait):
                    todo += self.runs_in(above[0].wanted)
                if by_stack:
                    todo += [item.run for item in above if isinstance(item, Execution)]
        return found

    def runs_in(self, wanted: Any) -> list[Run]:
        found: list[Run] = []
        for item in wanted:
            if isinstance(item, MapRecord):
                found += [self.world.by_number[item.base + index] for index in range(item.size)]
            else:
                found.append(self.world.of(item))
        return found

    @precondition(resting)
    @rule(number=picks)
    def rest_ends(self, number: int) -> None:
        """A coroutine has what it waited for; a thread has it, or waits no longer."""
        execution = pick(self.resting(), number)
        if self.may_wake(execution):
            self.say(f"{execution.run} wakes")
            execution.wake()
            self.drain(execution.run.runner)

    @staticmethod
    def may_wake(execution: Execution) -> bool:
        assert execution.resting is not None
        return isinstance(execution.host, Worker) or execution.resting.woken or execution.interrupted

    @precondition(lambda self: any(worker.is_stuck() for worker in self.workers()))
    @rule(number=picks)
    def worker_is_given_up(self, number: int) -> None:
        worker = pick([worker for worker in self.workers() if worker.is_stuck()], number)
        self.say(f"{worker} is given up")
        worker.given_up()
        self.drain(worker.runner)

    @precondition(lambda self: any(worker.is_surplus() for worker in self.workers()))
    @rule()
    def spare_worker_retires(self) -> None:
        next(worker for worker in self.workers() if worker.is_surplus()).retires()

    def step(self) -> bool:
        if self.executing():
            self.run_ends(0, "completes", 0.0)
            return True
        if self.movable() and not isinstance(self.movable()[0], Runner):
            self.things_move([0], 3)
            return True
        for index, execution in enumerate(self.resting()):
            if execution.resting.woken or execution.interrupted:  # type: ignore[union-attr]
                self.rest_ends(index)
                return True
        for runner in self.world.runners:
            if runner.looks and runner.look_again():
                self.drain(runner)
                return True
        return super().step()


class PushingRules(SchedulerMachine):
    """What can happen where batches are sent."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[Callable[[], None]] = []
        self.lost: list[Message] = []

    def messages(self) -> list[Message]:
        return [message for runner in self.world.runners for message in runner.messages]

    def at_rest(self) -> list[Message]:
        return [message for message in self.messages() if message.current is None and not message.ended]

    # ------------------------------------------------------------------ slots

    @precondition(SchedulerMachine.visible)
    @rule(which=which, numbers=st.sets(st.integers(0, 2)))
    def slots_change(self, which: int, numbers: set[int]) -> None:
        runner = self.world.runners[which]
        if not runner.pulls:
            self.say(f"the slots are {numbers}")
            runner.scheduler.slots_changed(sorted(numbers))
            self.drain(runner)

    # ------------------------------------------------------------------ a message's way

    @precondition(messages)
    @rule(numbers=st.lists(picks, min_size=1, max_size=5), tell=st.booleans(), how=ways_to_end, delay=delays)
    def messages_go_on(self, numbers: list[int], tell: bool, how: str, delay: float) -> None:
        """A run begins or ends on a worker, what has ended is reported, a message that has said all is closed."""
        for number in numbers:
            message = pick(self.messages(), number)
            if message.current is not None:
                self.say(f"{message.runs[message.current]} {'was interrupted' if message.interrupted else how}")
                message.end(how, delay)
            elif message.ended and (tell or not message.left):
                self.say(f"a report on {[message.runs[position] for position, _ in message.ended]}")
                self.said.append(message.report())
            elif message.left:
                self.run_begins(message, tell)
            else:
                self.message_closes(message)
            self.drain(message.runner)
            self.the_rules_hold()
            if not self.messages():
                break

    messages_go_further = messages_go_on  # likelier than what goes wrong

    def run_begins(self, message: Message, tell: bool) -> None:
        self.say(f"{message.runs[message.left[0]]} begins{', and so it is told' if tell else ''}")
        message.begin(tell)
        position = message.current
        assert position is not None
        self.said.append(lambda: message.tell_started(position))

    def message_closes(self, message: Message) -> None:
        self.say(f"the message with {message.runs} has said all")
        message.close()
        self.said.append(lambda: message.runner.scheduler.batch_closed(message.number))

    @precondition(at_rest)
    @rule(number=picks)
    def message_gives_up(self, number: int) -> None:
        """A worker closes a message though there are runs in it that it has not begun."""
        message = pick(self.at_rest(), number)
        self.message_closes(message)
        self.drain(message.runner)

    @precondition(lambda self: any(message.left for message in self.messages()))
    @rule(number=picks, how_many=st.integers(1, 3))
    def runs_are_handed_back(self, number: int, how_many: int) -> None:
        message = pick([message for message in self.messages() if message.left], number)
        positions = message.hand_back(how_many)
        self.say(f"handed back: {[message.runs[position] for position in positions]}")
        self.said.append(lambda: message.runner.scheduler.batch_handed_back(message.number, positions))
        self.drain(message.runner)

    @precondition(at_rest)
    @rule(number=picks)
    def message_cannot_be_unpacked(self, number: int) -> None:
        message = pick(self.at_rest(), number)
        self.say(f"the message with {message.runs} cannot be unpacked")
        message.split()
        self.said.append(lambda: message.runner.scheduler.batch_split(message.number))
        self.drain(message.runner)

    @precondition(messages)
    @rule(number=picks, known=st.booleans())
    def worker_dies(self, number: int, known: bool) -> None:
        message = pick(self.messages(), number)
        self.say(f"the worker with {message.runs} dies")
        message.lose(known)
        self.lost.append(message)
        self.drain(message.runner)

    # ------------------------------------------------------------------ late and doubled

    @precondition(lambda self: self.said)
    @rule(number=picks)
    def event_comes_again(self, number: int) -> None:
        """Whatever was said once changes nothing the second time, however late."""
        event = pick(self.said, number)
        self.say("an event comes again")
        event()
        self.drain(*self.world.runners)

    @precondition(lambda self: self.lost)
    @rule(number=picks, how=ways_to_end)
    def lost_message_speaks(self, number: int, how: str) -> None:
        """A worker that was thought dead goes on with its message, of which nobody wants to hear."""
        message = pick(self.lost, number)
        self.say("a lost message speaks")
        if message.current is not None:
            message.end(how, 0.0)
        message.report()
        message.runner.scheduler.batch_closed(message.number)
        self.drain(message.runner)

    def step(self) -> bool:
        if self.messages():
            self.messages_go_on([0], True, "completes", 0.0)
            return True
        for index, runner in enumerate(self.world.runners):
            if not runner.pulls and not runner.scheduler.slots and runner.scheduler.ready:
                self.slots_change(index, {0})
                return True
        return super().step()


class PullingMachine(PullingRules):
    kinds = (True, True)


class PushingMachine(PushingRules):
    kinds = (False, False)


class MixedMachine(PullingRules, PushingRules):
    kinds = (True, False)
