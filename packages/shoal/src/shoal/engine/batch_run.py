"""Runs a batch of calls in a process that is not the driver's, and reports in columns.

The worker's half of every backend that crosses a process border, and the words it shares with the driver's half:

    driver   pack ─▶ bytes ─▶ worker   run_packed: unpack ─▶ each call through the engine ─▶ bytes ─▶ driver   unpack_report

A task arrives pickled once and is known by its digest from then on; arguments arrive as columns. Results go back in
one pickle where they are plain, each on its own otherwise, so that one that cannot travel fails its run alone.

May import futures and what lies above them.
"""

from __future__ import annotations

import logging
import time
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from shoal import settings
from shoal.calls import CANCELLED, COMPLETED, FAILED, WAITING, Call, Outcome, Report
from shoal.context import HERE, SCOPE, TAGS, FlowRun, Scope
from shoal.engine.inputs import ATOMS
from shoal.engine.observing import CARRIERS, be_traced
from shoal.engine.task_run import raised, timed_attempt, timed_attempt_async, waited_for
from shoal.exceptions import SerializationError
from shoal.logs import in_plain_text, prints_are_logged
from shoal.safely import is_raisable
from shoal.serialization import (
    Portable,
    dumps,
    dumps_function,
    loads,
    loads_each,
    pack_error,
    unpicklable,
)
from shoal.states import Running, State

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shoal.context import Submitter
    from shoal.specs import Keeping, TaskSpec

__all__ = [
    "Packed",
    "Surroundings",
    "flow_run_of",
    "pack_outcome",
    "pack_task",
    "run_calls",
    "run_packed",
    "surroundings_of",
    "unpack_report",
]

#: A flow run's parameters travel with it up to this size; `runtime.flow_run.parameters` is empty beyond.
LARGEST_PARAMETERS = 64 * 1024


class Surroundings(NamedTuple):
    """What a worker knows of the flow run that a batch belongs to.

    Attributes:
        entropy: of the driver's process, so that run ids read the same here.
        level: of the `shoal` loggers.
        log_prints: whether prints are logged where no task and no flow says.
        flow: the flow run, without its flow's function; `None` outside a flow.
        capped: whether its runs are under a cap of the flow's.
        limited: whether there may be limits of tags.
        carrier: W3C headers of the flow run's span; `None` where it is not traced.
        observed: whether the worker is to tell what happens inside its runs.
    """

    entropy: int
    level: int
    log_prints: bool
    flow: tuple[Any, ...] | None
    capped: bool
    limited: bool
    carrier: dict[str, str] | None
    observed: bool


class Packed(NamedTuple):
    """A batch on its way.

    Attributes:
        tasks: digest and pickle of each task in it.
        surroundings: pickled.
        calls: pickled: for each call the index of its task, number, attempt, args, kwargs, tags and `Call.earlier`.
        seconds: after how long the worker hands back what it has not started.
    """

    tasks: list[tuple[bytes, bytes]]
    surroundings: bytes
    calls: bytes
    seconds: float


def pack_task(task: TaskSpec) -> tuple[bytes, bytes]:
    """A task's digest and pickle.

    Raises:
        SerializationError: its function cannot be pickled.
    """
    try:
        data = dumps_function(task)
    except BaseException as error:
        raise unpicklable(task.fn, f"the function of task {task.name!r}", error) from None
    import hashlib  # here, as workers seldom need it

    return hashlib.blake2b(data, digest_size=16).digest(), data


def surroundings_of(scope: Scope | None, *, observed: bool = False) -> bytes:
    """What workers are told of a scope; `observed`: see `Surroundings`."""
    from shoal.names import process_entropy

    flow = None
    capped = False
    carrier = None
    run = scope.flow_run if scope is not None else None
    if run is not None:
        try:
            parameters = dumps(run.parameters)
        except BaseException:  # it is not missed: tasks get their arguments by themselves
            parameters = b""
        if len(parameters) > LARGEST_PARAMETERS:
            parameters = b""
        lineage = []
        above: FlowRun | None = run
        while above is not None:
            lineage.append((above.number, above.name, above.flow.name))
            above = above.parent
        capped = run.flow.max_concurrency is not None
        carrier = CARRIERS.get(run.number)
        told = (run.log_prints, run.keeping, run.home or settings.results_storage())
        flow = (lineage, sorted(run.tags), run.run_count, told, run.started, parameters)
    level = logging.getLogger("shoal.task_runs").getEffectiveLevel()
    limited = scope is not None and scope.limited
    return dumps(
        Surroundings(
            *(process_entropy(), level, settings.log_prints(), flow, capped, limited, carrier),
            observed,
        )
    )


class _FlowStub:
    """Stands on a worker for the flow that submitted the run."""

    resumes = None

    def __init__(self, name: str, log_prints: bool, keeping: Keeping | None, home: str) -> None:
        self.name = name
        self.log_prints = log_prints
        self.keeping = keeping
        self.home = home


class _DistantFlowRun(FlowRun):
    """A flow run of the driver's: its parameters are unpickled when a run asks for them, so that none fails of them else.

    Attributes:
        packed: they; empty for none.
        left_out: whether they were too large to travel, or could not be pickled.
    """

    __slots__ = ("_parameters", "left_out", "packed")

    _parameters: dict[str, Any]
    left_out: bool
    packed: bytes

    @property
    def parameters(self) -> dict[str, Any]:
        if self.packed:
            self._parameters, self.packed = loads(self.packed), b""
        return self._parameters

    @parameters.setter
    def parameters(self, value: dict[str, Any]) -> None:
        self._parameters, self.packed = value, b""


def flow_run_of(flow: tuple[Any, ...]) -> FlowRun:
    """The flow run that `Surroundings.flow` tells of."""
    lineage, tags, run_count, told, started, parameters = flow
    run: FlowRun | None = None
    for number, name, flow_name in reversed(lineage):
        stub: Any = _FlowStub(flow_name, *told)
        run = _DistantFlowRun(stub, number, name, {}, frozenset(tags), run)
    assert isinstance(run, _DistantFlowRun)  # a lineage has at least the run itself
    run.run_count = run_count
    if started is not None:
        run.enter(Running(timestamp=started))
    run.packed = parameters
    run.left_out = not parameters
    return run


# ---------------------------------------------------------------------- on the worker

_tasks: dict[bytes, Any] = {}


class _Collector(logging.Handler):
    """Keeps log records for the report, in a form that travels."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(in_plain_text(record))


def run_packed(packed: Packed, make_runner: Callable[[], Any]) -> bytes:
    """Runs a packed batch to its end, or until its time is over.

    Args:
        packed: the batch.
        make_runner: gives the entered runner that takes runs submitted inside these; called if there are any.

    Returns:
        The pickled report.
    """
    try:
        tasks = []
        for digest, data in packed.tasks:
            task = _tasks.get(digest)
            if task is None:
                task = _tasks[digest] = loads(data)
            tasks.append(task)
        surroundings = loads(packed.surroundings)
        rows = loads(packed.calls)
    except BaseException as error:
        return dumps((pack_error(error, "(unpacking)"), None, [], [], [], 0.0, []))
    from shoal import names

    names.adopt_entropy(surroundings.entropy)
    collector = _Collector()
    logger = logging.getLogger("shoal")
    handlers, propagate, level = logger.handlers, logger.propagate, logger.level
    logger.handlers, logger.propagate = [collector], False
    logger.setLevel(surroundings.level)
    try:
        flow_run = flow_run_of(surroundings.flow) if surroundings.flow is not None else None
        scope = _LazyScope(make_runner, flow_run)
        calls = []
        prints_are_logged(surroundings.log_prints)
        for index, number, attempt, args, kwargs, tags, earlier in rows:
            context = Context()
            context.run(SCOPE.set, scope)
            context.run(TAGS.set, tags)
            if surroundings.carrier is not None:
                context.run(be_traced, surroundings.carrier)
            call = Call(tasks[index], args, kwargs, number, context, scope, attempt)
            call.follow(earlier)
            calls.append(call)
        values, ends, seconds = run_calls(calls, packed.seconds)
        scope.close()
    finally:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)
    return dumps((None, *_columns(calls, values), ends, seconds, collector.records))


class _LazyScope(Scope):
    """A scope on a worker, whose runner is made when a run inside submits another."""

    __slots__ = ("_make", "_runner")

    def __init__(self, make: Callable[[], Any], flow_run: FlowRun | None) -> None:
        self._make = make
        self._runner: Any = None
        self.flow_run = flow_run

    @property
    def dispatcher(self) -> Submitter:  # type: ignore[override]  # nobody assigns it
        """The dispatcher of the runner, which is made on first use."""
        if self._runner is None:
            self._runner = self._make()
        return self._runner.scope(self.flow_run).dispatcher  # type: ignore[no-any-return]

    keeper = None  # there is no way back to the driver
    limited = False

    def close(self) -> None:
        """Waits for the runs that were submitted inside, and leaves the runner."""
        if self._runner is not None:
            self._runner.__exit__(None, None, None)


def run_calls(
    calls: Sequence[Call],
    seconds: float,
    begins: Callable[[int], object] | None = None,
    returns: Callable[[int], object] | None = None,
) -> tuple[list[Any], list[float], float]:
    """Runs calls one after another (coroutines together) until `seconds` are over.

    Args:
        calls: the calls.
        seconds: when they are over, no further call is begun.
        begins: told where in `calls` the first one is, and each with a time limit, when it begins.
        returns: told likewise when the function of one with a time limit has ended.

    Returns:
        For each call that was run its value, or an `Outcome` where there is more to say; when each ended; and how
        long they took together.
    """
    started = time.perf_counter()
    values: list[Any] = []
    ends: list[float] = []
    if calls and calls[0].task.is_async:
        if begins is not None and calls[0].task.timeout_seconds is None:
            begins(0)
        for outcome in _run_coroutines(calls, begins, returns):
            values.append(_brief(outcome))
            ends.append(time.time())
        return values, ends, time.perf_counter() - started
    for index, call in enumerate(calls):
        HERE.batch_call = call
        try:
            if begins is not None and (index == 0 or call.task.timeout_seconds is not None):
                begins(index)
            outcome = timed_attempt(call, None if returns is None else partial(returns, index))
            if outcome.phase == WAITING:
                outcome = call.context.copy().run(waited_for, call, outcome.value)
        except BaseException as error:
            outcome = call.context.copy().run(raised, call, error)
        values.append(_brief(outcome))
        ends.append(time.time())
        if time.perf_counter() - started > seconds:
            break
    HERE.batch_call = None
    return values, ends, time.perf_counter() - started


def _brief(outcome: Outcome) -> Any:
    plain = outcome.phase == COMPLETED and outcome.state is None and outcome.name is None
    return outcome.value if plain else outcome


def _run_coroutines(
    calls: Sequence[Call],
    begins: Callable[[int], object] | None,
    returns: Callable[[int], object] | None,
) -> list[Outcome]:
    import asyncio

    async def one(index: int, call: Call) -> Outcome:
        try:
            if begins is not None and call.task.timeout_seconds is not None:
                begins(index)  # not sooner: others of the batch come before
            on_returned = None if returns is None else partial(returns, index)
            outcome = await timed_attempt_async(call, on_returned)
            if outcome.phase == WAITING:
                outcome = waited_for(call, outcome.value)
        except asyncio.CancelledError:
            return Outcome(
                CANCELLED, None
            )  # its own: nobody else cancels it, and it is no end of its neighbours
        except BaseException as error:
            outcome = raised(call, error)
        return outcome

    async def all_of_them() -> list[Outcome]:
        loop = asyncio.get_running_loop()
        contexts = [under_asyncio(call.context.copy()) for call in calls]
        tasks = [
            loop.create_task(one(index, call), context=context)
            for index, (call, context) in enumerate(zip(calls, contexts, strict=True))
        ]
        pending = set(tasks)
        while pending:
            try:
                _, pending = await asyncio.wait(pending)
            except asyncio.CancelledError:
                continue  # by one of them, which cancels all that it finds
        cancelled = Outcome(CANCELLED, None)
        return [cancelled if task.cancelled() else task.result() for task in tasks]

    from concurrent.futures import CancelledError

    from shoal.engine.loops import SERVICE_LOOP, under_asyncio

    try:
        return SERVICE_LOOP.run(all_of_them())  # type: ignore[no-any-return]
    except CancelledError:  # by a run of another batch, before it began
        return [Outcome(CANCELLED, None) for _ in calls]


def _columns(
    calls: Sequence[Call], values: list[Any]
) -> tuple[bytes | None, list[bytes], list[int]]:
    """Results as one pickle if all are plain; else each on its own, with the places of outcomes."""
    if all(type(value) in ATOMS for value in values):
        return dumps(values), [], []
    parts: list[bytes] = []
    places: list[int] = []
    for place, (call, value) in enumerate(zip(calls, values, strict=False)):
        if type(value) is Outcome:
            places.append(place)
            parts.append(pack_outcome(call, value))
            continue
        try:
            parts.append(dumps(value))
        except BaseException as problem:
            places.append(place)
            error = unpicklable(value, "result", problem, call.run_name())
            parts.append(pack_outcome(call, Outcome(FAILED, error, name=call.name)))
    return None, parts, places


def pack_outcome(call: Call, outcome: Outcome) -> bytes:
    """Pickles an outcome so that it certainly travels: what cannot be pickled makes it a failure."""
    try:
        return _packed_outcome(call, outcome)
    except BaseException as problem:
        told = outcome.value if outcome.state is None else outcome.state.data
        error = unpicklable(told, "result", problem, call.run_name())
        return dumps(Outcome(FAILED, error, name=call.name))


def _packed_outcome(call: Call, outcome: Outcome) -> bytes:
    error, state = outcome.value, outcome.state
    if is_raisable(error):
        outcome.value = Portable(error, call.run_name())
        if state is not None and state.data is error and state.name == "Failed":
            outcome.state = None  # it says no more than the exception
        elif state is not None:
            outcome.state = _portable_state(state, call, error, outcome.value)
    return dumps(outcome)


def _portable_state(
    state: State[Any], call: Call, error: BaseException, portable: Portable
) -> State[Any]:
    """A state that a task returned, with exceptions in it that travel.

    Args:
        state: the state.
        call: of the task.
        error: an exception that may be in it.
        portable: what stands for it on the way.
    """
    data = state.data
    if data is error:
        data = portable
    elif is_raisable(data):
        data = Portable(data, call.run_name())
    elif isinstance(data, (list, tuple, set, frozenset)) and all(
        isinstance(item, State) for item in data
    ):
        parts = [
            item if item.is_completed() else _portable_state(item, call, error, portable)
            for item in data
        ]
        data = parts if isinstance(data, list) else tuple(parts)
    return State(state.type, state.name, state.message, data=data)


# ---------------------------------------------------------------------- back in the driver


def unpack_report(batch: int, data: bytes) -> Report | BaseException:
    """The report of a batch; an exception if the worker could not unpack the batch."""
    failure, plain, parts, places, ends, seconds, logs = loads(data)
    if failure is not None:
        return loads(failure)  # type: ignore[no-any-return]
    if plain is not None:
        values = loads(plain)
    else:
        values = loads_each(parts)
        for place, value in enumerate(values):
            if isinstance(value, SerializationError) and place not in places:
                values[place] = Outcome(FAILED, value)
    return Report(batch, range(len(values)), values, ends, seconds, logs)
