"""What the scheduler's part of the bus does for workers that have nothing, without a cluster."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from inspect import signature
from types import SimpleNamespace
from typing import Any

from distributed.scheduler import SchedulerState, TaskState, WorkerState
from distributed.stealing import WorkStealing
from shoal_dask.bus import LOOKED_AT, NAME, SESSION, SchedulerBus, _Session, key_of, session_in

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

    def __init__(self, key: str, resources: dict[str, float] | None = None) -> None:
        super().__init__(
            key=key,
            processing_on=None,
            worker_restrictions=set(),
            host_restrictions=set(),
            resource_restrictions=resources or {},
        )


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
    tasks = {task.key: task for worker in workers for task in worker.processing}
    bus: Any = SchedulerBus()
    bus._sessions = {OURS: _Session("client", 0.001)}
    bus._sessions[OURS].sent = dict.fromkeys(sorted(key for key in tasks if session_in(key)))
    bus._scheduler = SimpleNamespace(
        workers={worker.address: worker for worker in workers},
        idle={worker.address: worker for worker in workers if not worker.processing},
        queued=set(queued),
        extensions={"stealing": stealing} if steals else {},
        tasks=tasks,
        loop=loop,
    )
    bus.transition(key_of("work", OURS, 99), "processing", "memory", stimulus_id="")
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
    bound = ours(3, resources={"GPU": 1}), ours(4, resources={"GPU": 1})
    assert not after_an_end([Worker("busy", *bound), there], set()).asked, "may not go everywhere"
    seceded = Worker("busy", first, second)
    seceded.long_running = {second}
    assert not after_an_end([seceded, there], set()).asked, "it holds no thread"
    busy = Worker("busy", first, second)
    assert not after_an_end([busy, there], set(), queued=("more",)).asked, "it will get that"
    assert not after_an_end([busy, there], set(), steals=False).asked, "it is switched off"
    assert not after_an_end([busy, Worker("full", ours(5))], set()).asked, "nobody is idle"


def test_no_more_is_looked_at_than_a_scheduler_has_time_for() -> None:
    tasks = {ours(number) for number in range(10 * LOOKED_AT)}
    idle = Worker("idle", nthreads=20 * LOOKED_AT)
    stealing = after_an_end([Worker("busy", *tasks), idle], tasks)
    assert 0 < len(stealing.asked) <= LOOKED_AT


def test_what_may_have_begun_is_refused_by_everybody_else() -> None:
    """Dask may have another worker steal it from the one that it went to."""
    said: list[tuple[str, dict[str, Any]]] = []
    task = ours(1)
    workers = [Worker("first"), Worker("second")]
    bus: Any = SchedulerBus()
    bus._sessions = {OURS: _Session("client", 0.001)}
    bus._scheduler = SimpleNamespace(
        workers={worker.address: worker for worker in workers},
        tasks={task.key: task},
        allowed_failures=3,
        stream_comms=defaultdict(lambda: SimpleNamespace(interval=0.005)),
        worker_send=lambda address, message: said.append((address, message)),
    )
    task.suspicious = 0
    bus._say = bus._tell_joined = lambda *args, **message: None
    bus.transition(task.key, "waiting", "processing", stimulus_id="")
    assert not said
    bus.transition(task.key, "waiting", "processing", stimulus_id="")
    assert [(address, message["refuse"]) for address, message in said] == [
        ("first", task.key),
        ("second", task.key),
    ]
    bus.add_worker(bus._scheduler, "third")
    assert said[-1] == ("third", {"op": NAME, "session": OURS, "refuse": task.key})
    bus.transition(task.key, "released", "forgotten", stimulus_id="")
    said.clear()
    bus.add_worker(bus._scheduler, "fourth")
    assert not any("refuse" in message for _, message in said)


def test_what_is_used_of_dasks_stealing_is_there() -> None:
    assert {"ts", "victim", "thief"} <= {*signature(WorkStealing.move_task_request).parameters}
    stealing = WorkStealing.__annotations__
    assert {"in_flight", "in_flight_tasks"} <= stealing.keys()
    assert {"processing", "long_running", "nthreads"} <= {*WorkerState.__slots__}
    restrictions = {"worker_restrictions", "host_restrictions", "resource_restrictions"}
    assert {"processing_on", *restrictions} <= {*TaskState.__slots__}
    assert {"idle", "queued", "extensions"} <= SchedulerState.__annotations__.keys()
