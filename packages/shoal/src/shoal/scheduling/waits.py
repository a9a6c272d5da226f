"""Workers that wait for runs, and are given what they wait for. Pure.

    run_waits ─▶ BlockedRun ──HELP──▶ help ─▶ a batch for it, on top of what waits there, or at the spare slot lent to it
                   ▲                        │
                   └─── look_again ◀────────┘ closed, or something that it waits for became ready
    would_go_on ─▶ under a cap, it waits until there is a place for it ──GO_ON──▶ its worker
    run_resumed ─▶ the run leaves its place; its spare slot ends when nothing is in flight there

May import `blocked_run`, `wait_graph` and what lies above them; it is given the scheduler that it sends through.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.calls import SENT, Batch
from shoal.futures.blocking import ALL, NOTHING, TIMED
from shoal.futures.run import TaskFuture
from shoal.scheduling import wait_graph
from shoal.scheduling.blocked_run import BlockedRun
from shoal.scheduling.caps import caps_of
from shoal.scheduling.effects import GONE

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from shoal.futures.blocking import Wanted
    from shoal.scheduling.sending import SendingScheduler
    from shoal.specs import TaskCap

__all__ = ["WorkerWaits"]


class WorkerWaits:
    """The runs that wait on workers, where they do, and what their workers are given meanwhile.

    Nobody else changes what it keeps. A place is a slot, or, where slots are of no particular worker, what runs one batch
    and all that is run in place on top of it; such a place is no slot's number.

    Args:
        scheduler: what it sends batches through.

    Attributes:
        blocked_runs: by place, the runs that wait there, innermost last.
        beside: by the number of a batch, the waits of threads that its run has started. What these are given is run in a
            place of its own, one after the other.
        helping: by the number of a batch in flight, what is helped by it.
    """

    def __init__(self, scheduler: SendingScheduler) -> None:
        self._scheduler = scheduler
        self._slots = scheduler.slots
        self._leaving: set[int] = set()  # spare slots that are not needed any more
        self.blocked_runs: dict[int, list[BlockedRun]] = {}
        self.beside: dict[int, list[BlockedRun]] = {}
        self.helping: dict[int, BlockedRun] = {}

    def blocked(self) -> Collection[int]:
        """The slots whose workers can do nothing but wait."""
        if not (self.blocked_runs or self.beside) or self._scheduler.capabilities.queues:
            return ()  # places are no slots there, and may be thousands
        found = {
            place
            for place, here in self.blocked_runs.items()
            if place >= 0 and any(h.blocks for h in here)
        }
        return found | {waits[0].batch.slot for waits in self.beside.values()}

    def run_waits(
        self,
        number: int,
        position: int | None,
        wanted: Wanted,
        *,
        blocks: bool,
        until: int = ALL,
        lends: bool = False,
        beside: bool = False,
        tag: Any = None,
    ) -> BlockedRun | None:
        """A run on a worker is about to wait.

        Args:
            number: the batch it is in.
            position: of the run in it; `None` if what waits is no run of ours.
            wanted: what it waits for.
            blocks: whether its worker can do nothing else meanwhile.
            until: what it lasts until; see `Wait`. If it is `TIMED`, the worker lends its slot to a spare one.
            lends: whether it is for no run: the spare slot then is for whatever comes.
            beside: whether a thread waits that the run has started.
            tag: what the backend knows the wait by.

        Returns:
            What stands for it until `run_resumed`; `None` if the batch is not in flight any more.

        Raises:
            WaitCycle: the run would wait for itself.
        """
        scheduler = self._scheduler
        entry = scheduler.batches.get(number)
        if entry is None:
            return None
        batch = entry[0]
        run = scheduler.run_at(batch, position) if position is not None else None
        if beside:
            return self._waits_beside(batch, run, wanted, lends=lends, tag=tag)
        place = self._place_of(batch)
        stack = [] if run is None or lends else [run]
        if blocks and not lends:
            stack = [h.run for h in self.blocked_runs.get(place, ()) if h.blocks and h.run] + stack
        blocked_run = BlockedRun(scheduler, batch, run, wanted, stack, blocks=blocks, tag=tag)
        blocked_run.lends_worker = blocks and lends
        if run is not None:
            for below in stack:
                wait_graph.check_cycle(wanted, below)
            if until != NOTHING:
                wait_graph.blocked_on(run, wanted, until)
        self.blocked_runs.setdefault(place, []).append(blocked_run)
        if blocks:
            if lends:
                blocked_run.spare = spare = self._slots.lend_to_all(self._leaving)
                self._leaving -= {spare}
            else:
                if until == TIMED:
                    blocked_run.spare = self._slots.lend()
                blocked_run.look_again()
        else:
            self._slots.leave_loop(batch)
        if scheduler.caps is not None:
            scheduler.lend_place(number, blocked_run)
            if blocks and until != TIMED:
                self.help_first(blocked_run)  # before others get the place that it has lent
        scheduler.fill()
        return blocked_run

    def waits_for_more(self, blocked_run: BlockedRun, wanted: list[Any], until: int) -> None:
        """A run that has given its place up, and does not block its worker, waits for these, too; for nothing if `until` is
        `NOTHING`.

        Raises:
            WaitCycle: the run would wait for itself.
        """
        run = blocked_run.run
        if run is None or blocked_run not in self.blocked_runs.get(
            self._place_of(blocked_run.batch), ()
        ):
            return
        if until == NOTHING:
            blocked_run.wanted = []
            wait_graph.blocked_on(run, None)
            return
        wait_graph.check_cycle(wanted, run)
        if blocked_run.wanted:
            until = max(until, run._details().waits_until)
        blocked_run.wanted = [*blocked_run.wanted, *wanted]
        wait_graph.blocked_on(run, blocked_run.wanted, until)

    def _waits_beside(
        self,
        batch: Batch,
        run: TaskFuture[Any] | None,
        wanted: Wanted,
        *,
        lends: bool,
        tag: Any,
    ) -> BlockedRun:
        """A thread is about to wait that a run has started."""
        scheduler = self._scheduler
        if run is not None:
            wait_graph.check_cycle(wanted, run)
        stack = [run] if run is not None else []
        blocked_run = BlockedRun(
            scheduler, batch, run, wanted, stack, blocks=False, beside=True, tag=tag
        )
        blocked_run.lends_worker = lends
        self.beside.setdefault(batch.number, []).append(blocked_run)
        self._tell_beside(blocked_run)
        blocked_run.look_again()
        if scheduler.caps is not None:
            scheduler.lend_place(batch.number, blocked_run)
            self.help_first(blocked_run)
        scheduler.fill()
        return blocked_run

    def _tell_beside(self, blocked_run: BlockedRun) -> None:
        run = blocked_run.run
        if run is not None:
            waits = self.beside.get(blocked_run.batch.number, ())
            wait_graph.waits_beside(run, [w for h in waits if h.run is run for w in h.wanted])

    def would_go_on(self, blocked_run: BlockedRun, task_caps: Sequence[TaskCap]) -> None:
        """A run on a worker waits for no other run any more: it may go on once it has a place of its caps again. Until then
        its worker gets nothing, which might wait for this run in turn.

        Args:
            blocked_run: what stands for it.
            task_caps: that it is under from now on: its task's, or that of a task which it calls, and those of generators
                that it is at.
        """
        self._wants_nothing(blocked_run)
        scheduler = self._scheduler
        caps = caps_of(scheduler) if task_caps else scheduler.caps
        number = blocked_run.batch.number
        is_open = number in scheduler.batches
        if self._shares(blocked_run):
            blocked_run.resume()  # the last of those who wait takes the place for all
        elif caps is None or not is_open or caps.take_again(number, blocked_run, task_caps):
            blocked_run.resume()
        else:
            blocked_run.look_again()  # it can be given nothing: its place in the system is for others

    def _wants_nothing(self, blocked_run: BlockedRun) -> None:
        """A wait has ended, perhaps before all that it was for: nothing of that is run there, and its run needs none of it.

        Else its worker would be given it again and again, and hand it back each time, so that it would neither be run
        elsewhere nor would the worker ever lend its place in the system, which a run that has its place of a cap may need.
        """
        blocked_run.is_over = True
        blocked_run.wanted = ()
        blocked_run.lends_worker = False
        blocked_run.goes_on()
        if blocked_run.beside:
            self._tell_beside(blocked_run)
        elif blocked_run.run is not None:
            wait_graph.blocked_on(blocked_run.run, ())

    def _shares(self, blocked_run: BlockedRun) -> bool:
        """Whether another thread waits that shares the place of a run: its own, or one that it has started."""
        batch = blocked_run.batch
        waits = [*self.beside.get(batch.number, ())]
        if waits and blocked_run.beside:
            waits += [
                h for h in self.blocked_runs.get(self._place_of(batch), ()) if h.batch is batch
            ]
        return any(other is not blocked_run for other in waits)

    def run_resumed(self, blocked_run: BlockedRun) -> None:
        """A run on a worker goes on."""
        if blocked_run.beside:
            self._resumed_beside(blocked_run)
            return
        place = self._place_of(blocked_run.batch)
        here = self.blocked_runs.get(place)
        if here is None or blocked_run not in here:
            return
        here.remove(blocked_run)
        blocked_run.goes_on()
        if blocked_run.lends:
            caps_of(self._scheduler).stopped(blocked_run)
        if not here:
            del self.blocked_runs[place]
        if blocked_run.run is not None:
            wait_graph.blocked_on(blocked_run.run, None)
        if blocked_run.spare is not None and blocked_run.spare in self._slots.in_flight:
            self._leaving.add(blocked_run.spare)
            self._slots.leave(blocked_run.spare)
            self._let_go(blocked_run.spare)
        self._slots.has_room = True
        self._scheduler.fill()

    def _resumed_beside(self, blocked_run: BlockedRun) -> None:
        number = blocked_run.batch.number
        waits = self.beside.get(number)
        if waits is None or blocked_run not in waits:
            return
        waits.remove(blocked_run)
        if not waits:
            del self.beside[number]
        blocked_run.goes_on()
        if blocked_run.lends:
            caps_of(self._scheduler).stopped(blocked_run)
        self._tell_beside(blocked_run)
        self._slots.has_room = True
        self._scheduler.fill()

    def _is_waiting(self, blocked_run: BlockedRun) -> bool:
        """Whether something could be run for it where it waits, and nothing is; or it would go on, whatever is."""
        if blocked_run.beside:
            helped_together = self.beside.get(blocked_run.batch.number, [])
            is_here = blocked_run in helped_together
        else:
            helped_together = [blocked_run]
            here = self.blocked_runs.get(self._place_of(blocked_run.batch), [])
            is_here = blocked_run is next((h for h in reversed(here) if h.blocks), None)
        helped = any(h in self.helping.values() for h in helped_together)
        return is_here and (blocked_run.is_over or not helped)

    def help(self, blocked_run: BlockedRun) -> bool:
        """Gives a waiting worker a run that it waits for, or that one needs, if there is one to be had.

        Returns:
            False if its worker is blocked and was given nothing.

        Raises:
            WaitCycle: the run would wait for itself.
        """
        blocked_run.looked()
        if not self._is_waiting(blocked_run):
            return True
        scheduler = self._scheduler
        work = wait_graph.claim_wanted(blocked_run.wanted, blocked_run, blocked_run.stack)
        if work is None:
            return False
        if type(work) is TaskFuture:
            work._phase = SENT
        runs = [work] if type(work) is TaskFuture else work
        number = next(scheduler.maker.numbers)
        if blocked_run.spare is not None:
            batch = Batch(number, blocked_run.spare, runs, None)
            self._slots.count(batch)
        else:
            batch = Batch(number, blocked_run.batch.slot, runs, None)
            batch.blocked_run = blocked_run
        if scheduler.run_at(batch, 0)._task.is_async:
            blocked_run.look_again()  # it is on the loop: the worker has time for more
        else:
            self.helping[number] = blocked_run
        scheduler.launch(batch)
        return True

    def help_out(self, wanted: Wanted) -> BlockedRun | None:
        """All that there is waits for slots, whose holders wait for runs that nobody would begin: one of the workers lends
        its place to what they need, whatever else is lent.

        Args:
            wanted: what they wait for.

        Returns:
            Where the system has a queue of its own, whose place in it is for others from now on.
        """
        slots = self._slots
        for waits in self.beside.values():
            for blocked_run in waits:
                if blocked_run.lends_worker and self._is_waiting(blocked_run):
                    blocked_run.wanted = wanted
                    blocked_run.look_again()
                    return None
        if self._scheduler.capabilities.queues:
            return self._lend_one_more(wanted)  # what the others are at is not known
        blocked = self.blocked()
        if slots.awaited or any(
            slot not in blocked for slot in slots.in_flight.keys() - slots.spares
        ):
            return None  # somebody will have room
        for here in self.blocked_runs.values():
            innermost = next((h for h in reversed(here) if h.blocks), None)
            if innermost is None or not innermost.lends_worker:
                continue
            has_lent = innermost.spare is not None
            if has_lent and (
                innermost.spare not in slots.spares or innermost in self.helping.values()
            ):
                continue
            if not has_lent:
                innermost.spare = slots.lend()
            innermost.wanted = wanted
            innermost.look_again()
            return None
        return None

    def _lend_one_more(self, wanted: Wanted) -> BlockedRun | None:
        """A run that waits for slots, and has lent nothing, lends its place to what comes next in the system's queue; what
        is not there yet is sent.
        """
        for here in self.blocked_runs.values():
            innermost = next((h for h in reversed(here) if h.blocks), None)
            if innermost is None or not innermost.lends_worker or innermost.spare is not None:
                continue
            innermost.spare = self._slots.lend()
            innermost.wanted = wanted
            innermost.look_again()
            return innermost
        return None

    def help_first(self, blocked_run: BlockedRun) -> None:
        """`help` before others are given anything, if it still waits.

        Raises:
            WaitCycle: the run would wait for itself.
        """
        here = self.blocked_runs.get(self._place_of(blocked_run.batch), ())
        beside = self.beside.get(blocked_run.batch.number, ())
        if (blocked_run in here or blocked_run in beside) and not self.help(blocked_run):
            blocked_run.look_again()  # its run was cancelled meanwhile, say, and it waits for others too

    def batch_closed(self, batch: Batch) -> None:
        """A batch is in flight no more."""
        blocked_run = self.helping.pop(batch.number, None)
        if blocked_run is not None:
            for waits in (
                self.beside.get(blocked_run.batch.number, ()) if blocked_run.beside else ()
            ):
                waits.look_again()
            blocked_run.look_again()
        for left in list(self.beside.get(batch.number, ())):
            self.run_resumed(left)
        if self.blocked_runs:
            here = self.blocked_runs.get(self._place_of(batch), ())
            for left in [h for h in here if h.batch is batch]:
                self.run_resumed(left)  # its worker died while it waited
        if batch.slot in self._leaving:
            self._let_go(batch.slot)

    def _place_of(self, batch: Batch) -> int:
        """Where a batch runs: batches with the same place are on top of each other."""
        while batch.blocked_run is not None and not batch.blocked_run.beside:
            batch = batch.blocked_run.batch
        if batch.blocked_run is None and not self._scheduler.capabilities.queues:
            return batch.slot
        return -batch.number

    def _let_go(self, slot: int) -> None:
        """A spare slot ends once nothing is in flight there."""
        scheduler = self._scheduler
        in_use = slot in self.blocked_runs or any(
            b.slot == slot for b, _ in scheduler.batches.values()
        )
        if slot in self._leaving and not in_use:
            self._leaving.discard(slot)
            self._slots.end(slot)
            scheduler.effects.append((GONE, slot))
