"""What the scheduler's part of the bus does for workers that have nothing, without a cluster."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from shoal_dask.bus import SESSION, SchedulerBus, key_of

OURS = f"{SESSION}1"


class Worker(SimpleNamespace):
    """A worker as Dask's scheduler knows it."""

    __hash__ = object.__hash__

    def __init__(self, address: str, *tasks: Any, nthreads: int = 1) -> None:
        super().__init__(
            address=address, nthreads=nthreads, processing=set(tasks), long_running=set()
        )
        for task in tasks:
            task.processing_on = self


class Task(SimpleNamespace):
    """A task as Dask's scheduler knows it."""

    __hash__ = object.__hash__

    def __init__(self, key: str, valid: set[Worker] | None = None) -> None:
        super().__init__(key=key, valid=valid, processing_on=None)


class Stealing:
    """Dask's stealing: notes what it is asked for, and is answered at once."""

    def __init__(self, executing: set[Any]) -> None:
        self.in_flight: dict[Any, Any] = {}
        self.in_flight_tasks: defaultdict[Any, int] = defaultdict(int)
        self.executing = executing
        self.asked: list[str] = []

    def move_task_request(self, task: Task, victim: Worker, thief: Worker) -> None:
        self.asked.append(task.key)
        if task not in self.executing:
            victim.processing.remove(task)
            thief.processing.add(task)
            task.processing_on = thief


class Loop:
    """Runs at once what is to be run later."""

    def __init__(self) -> None:
        self.later: list[Callable[[], None]] = []

    def add_callback(self, action: Callable[[], None]) -> None:
        self.later.append(action)

    def call_later(self, seconds: float, action: Callable[[], None]) -> None:
        self.later.append(action)

    def run(self) -> None:
        while self.later:
            self.later.pop(0)()


def ours(number: int, **given: Any) -> Task:
    return Task(key_of("work", OURS, number), **given)


def after_an_end(
    workers: list[Worker],
    executing: set[Any],
    *,
    steals: bool = True,
    queued: tuple[str, ...] = (),
) -> Stealing:
    """Has the bus see that a task of ours has ended; gives what Dask's stealing was asked for."""
    stealing = Stealing(executing)
    loop = Loop()
    bus: Any = SchedulerBus()
    bus._sessions = {OURS: SimpleNamespace(asked={}, entered=set(), kept=set())}
    bus._scheduler = SimpleNamespace(
        workers={worker.address: worker for worker in workers},
        idle={worker.address: worker for worker in workers if not worker.processing},
        queued=set(queued),
        extensions={"stealing": stealing} if steals else {},
        valid_workers=lambda task: task.valid,
        loop=loop,
    )
    bus.transition(key_of("work", OURS, 0), "processing", "memory", stimulus_id="")
    loop.run()
    return stealing


def test_a_task_that_waits_behind_another_goes_to_a_worker_that_has_nothing() -> None:
    executing, waiting = ours(1), ours(2)
    busy, idle = Worker("busy", executing, waiting), Worker("idle")
    after_an_end([busy, idle], {executing})
    assert busy.processing == {executing}
    assert idle.processing == {waiting}


def test_each_worker_is_asked_once_for_each_task() -> None:
    tasks = {ours(number) for number in range(3)}
    stealing = after_an_end([Worker("busy", *tasks), Worker("idle")], tasks)
    assert sorted(stealing.asked) == sorted(task.key for task in tasks)


def test_no_more_is_taken_than_there_are_threads() -> None:
    tasks = [ours(number) for number in range(6)]
    busy, idle = Worker("busy", *tasks), Worker("idle", nthreads=2)
    after_an_end([busy, idle], {tasks[0]})
    assert (len(busy.processing), len(idle.processing)) == (4, 2)


def test_what_is_left_alone() -> None:
    first, second = ours(1), ours(2)
    others = Task("somebody-elses"), Task("another")
    there = Worker("there")
    assert not after_an_end([Worker("busy", *others), there], set()).asked, "is not ours"
    bound = ours(3, valid=set()), ours(4, valid=set())
    assert not after_an_end([Worker("busy", *bound), there], set()).asked, "may not go there"
    seceded = Worker("busy", first, second)
    seceded.long_running = {second}
    assert not after_an_end([seceded, there], set()).asked, "it holds no thread"
    busy = Worker("busy", first, second)
    assert not after_an_end([busy, there], set(), queued=("more",)).asked, "it will get that"
    assert not after_an_end([busy, there], set(), steals=False).asked, "it is switched off"
    assert not after_an_end([busy, Worker("full", ours(5))], set()).asked, "nobody is idle"
