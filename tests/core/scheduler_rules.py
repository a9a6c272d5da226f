"""What must hold after every step: the scheduler's guarantees, each as a comparison with what is true.

`audit` checks them all. A guarantee that fails names the run and what is wrong with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from manyhands.calls import CANCELLED, COMPLETED, CRASHED, DONE, FAILED, NOT_READY
from manyhands.states import StateType

from tests.core.scheduler_world import PUSHING, Execution, Message, Walk, Worker

if TYPE_CHECKING:
    from tests.core.scheduler_world import Run, World

__all__ = ["audit"]

FINAL_STATES = {
    COMPLETED: [(StateType.COMPLETED, "Completed")],
    FAILED: [(StateType.FAILED, "Failed"), (StateType.FAILED, "TimedOut")],
    CANCELLED: [(StateType.CANCELLED, "Cancelled")],
    CRASHED: [(StateType.CRASHED, "Crashed")],
    NOT_READY: [(StateType.PENDING, "NotReady")],
}


def audit(world: World) -> None:
    """Checks everything. (That no run starts when it must not, `World.begins` checks at that moment.)"""
    effects_are_carried_out(world)
    ends_are_right_and_stay(world)
    states_are_true(world)
    counters_are_true(world)
    limits_hold(world)
    what_has_ended_is_stopped(world)
    pending_runs_have_owners(world)
    who_waits_is_woken(world)
    the_last_end_is_told(world)


def effects_are_carried_out(world: World) -> None:
    """Who brings an event drains one scheduler; what another has to do must be told by OTHER."""
    for runner in world.runners:
        assert not runner.scheduler.effects, f"effects of {runner} are left behind"


def ends_are_right_and_stay(world: World) -> None:
    """A run settles exactly once, as it has to, and never changes afterwards."""
    for run in world.runs:
        phase = run.phase
        if run.end is None:
            assert phase < DONE, f"{run} has ended, and should not have"
            continue
        assert phase == run.end, f"{run} should have ended as {run.end}, and is in phase {phase}"
        if run.record is None or run.record.kept:
            assert run.final in (None, run.seen()), f"{run} has changed after its end"
            run.final = run.seen()
        assert run.tellings <= 1, f"the end of {run} was told twice"
        # Of a cancelled element nobody hears who does not have its future.
        hushed = not run.runner.tells or (run.end == CANCELLED and run.record is not None)
        assert run.tellings or hushed, f"nobody was told of the end of {run}"


def states_are_true(world: World) -> None:
    """What a future says of its run, at every moment (SPEC 4.1)."""
    for run in world.runs:
        future = run.glance()
        if future is not None:
            state = run.runner.state_of(future)
            assert (state.type, state.name) in true_states(world, run), f"{run} is said to be {state!r}"


def true_states(world: World, run: Run) -> list[tuple[StateType, str]]:
    """The states that a run may be in."""
    if run.end is not None:
        return FINAL_STATES[run.end]
    if run.delayed:
        return [(StateType.SCHEDULED, "AwaitingRetry")]
    if isinstance(run.place, Execution) or (isinstance(run.place, Message) and run.told):
        return [(StateType.RUNNING, "Running" if run.attempt == 1 else "Retrying")]
    return [(StateType.PENDING, "Queued" if world.gate.knows(run) else "Pending")]


def counters_are_true(world: World) -> None:
    """What the scheduler counts and lists is what there is."""
    for runner in world.runners:
        mine = [run for run in world.runs if run.runner is runner]
        scheduler = runner.scheduler
        assert scheduler.open == sum(run.end is None for run in mine)
        assert scheduler.finished == sum(run.end is not None for run in mine)
        waiting = [run for run in mine if run.end is None and (run.waits_for_upstream() or world.gate.knows(run))]
        assert {world.of(future) for future in scheduler.waiting} == set(waiting)
        assert {world.of(future) for future in scheduler.delayed} == {run for run in mine if run.delayed}
        if runner.pulls and scheduler.counting:
            granted = sum(worker.doing == Worker.GRANTED for worker in runner.workers)
            assert scheduler.busy == runner.places_taken() + granted, "the count of places is wrong"
    for runs in world.maps:
        record: Any = runs[0].record
        assert record.ended is all(run.end is not None for run in runs)
        assert record.failed is any(run.end not in (None, COMPLETED) for run in runs)


def limits_hold(world: World) -> None:
    """No runner has more runs than its limit, no slot more messages in flight than its window."""
    holder = world.gate.holder
    if holder is not None and not world.gate.knows(holder):
        assert holder.end is None, f"{holder} has ended, and keeps its slot"
    for runner in world.runners:
        if runner.limit is not None:
            assert runner.places_taken() <= runner.limit, f"{runner} has more runs at once than its limit"
        if not runner.pulls:
            for slot, in_flight in runner.scheduler.slots.items():
                messages = [message for message in runner.messages if message.batch.slot == slot]
                assert in_flight == len(messages), f"the count for slot {slot} is wrong"
                assert len(messages) <= PUSHING.policy.window, f"too many messages for slot {slot}"


def what_has_ended_is_stopped(world: World) -> None:
    """Whatever still executes though its run has ended was told to stop, and nothing of it is still to start."""
    for runner in world.runners:
        for execution in runner.executions():
            assert execution.run.end is None or execution.interrupted, f"{execution.run} goes on"
        for message in runner.messages:
            if message.current is not None:
                run = message.runs[message.current]
                assert run.end is None or message.interrupted, f"{run} goes on"
            for position in message.left:
                assert message.runs[position].end is None, f"{message.runs[position]} is still to start"


def pending_runs_have_owners(world: World) -> None:
    """A run that is open waits for something, and something is there to end that wait."""
    for run in world.open_runs():
        assert owner_of(world, run), f"nobody is going to see to {run}"


def owner_of(world: World, run: Run) -> str | None:
    """What a run waits for."""
    runner, scheduler = run.runner, run.runner.scheduler
    if run.place is not None:
        return "it executes, or is on its way"
    if run.delayed:
        return "a timer" if any(t.run is run and t.retry for t in world.timers) else None
    if run.waits_for_upstream():
        return "an upstream"
    if world.gate.knows(run):
        return "a limit"
    if not runner.pulls:
        if not scheduler.slots:
            return "a slot"
        return "a batch" if runner.messages and is_queued(run, scheduler.ready) else None
    place_free = runner.limit is None or runner.places_taken() < runner.limit
    if run.task.is_async:
        if not is_queued(run, scheduler.ready_async):
            return None
        awake = any(w.doing in (Worker.AWAKE, Worker.WOKEN, Worker.GRANTED) for w in runner.workers)
        return "the loop" if runner.loop.signalled or awake or not place_free else None
    if any(is_ahead(run, item) for w in runner.workers for item in w.stack if isinstance(item, Walk)):
        return "the worker that walks to it"
    if not is_queued(run, scheduler.ready):
        return None
    somebody = any(worker.doing != Worker.IDLE for worker in runner.workers)
    return "a worker" if runner.looks or somebody or not place_free else None


def is_queued(run: Run, lane: Any) -> bool:
    """Whether a run, or its map, is where workers and batches are filled from."""
    record = run.record
    if record is not None and record.queued and any(item is record for item in lane):
        if any(start <= run.index < stop for start, stop in record.unclaimed):
            return True
    future = run.glance()
    return future is not None and future in lane


def is_ahead(run: Run, walk: Walk) -> bool:
    """Whether a worker comes to a run on its way through a span."""
    return run.record is walk.span.record and (run.index == walk.popped or run.index in walk.rest())


def who_waits_is_woken(world: World) -> None:
    """A wait is over when everything has ended, or something has failed and that was to end it; no sooner."""
    for wait, runs in world.callers:
        failed = any(run.end not in (None, COMPLETED) for run in runs)
        over = all(run.end is not None for run in runs) or (wait.fail_fast and failed)
        assert wait.woken is over, f"a wait for {runs}"


def the_last_end_is_told(world: World) -> None:
    """Who wants to know that no run is open any more is told whenever that is so."""
    for runner in world.runners:
        mine = [run for run in world.runs if run.runner is runner]
        if any(run.end is None for run in mine):
            runner.drained = 0
        elif mine and runner.tells:
            assert runner.drained, f"nobody was told that all of {runner} has ended"
