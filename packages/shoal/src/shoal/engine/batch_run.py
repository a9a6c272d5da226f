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
from typing import TYPE_CHECKING, Any, NamedTuple

from shoal.calls import COMPLETED, FAILED, WAITING, Call, Outcome, Report
from shoal.context import SCOPE, TAGS, FlowRun, Scope
from shoal.engine.inputs import ATOMS
from shoal.engine.task_run import raised, timed_attempt, timed_attempt_async, waited_for
from shoal.exceptions import SerializationError
from shoal.logs import name_of
from shoal.serialization import (
    Portable,
    dumps,
    dumps_function,
    find_culprit,
    loads,
    loads_each,
    portable_error,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shoal.tasks import Task

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
        flow: the flow run, without its flow's function; `None` outside a flow.
    """

    entropy: int
    level: int
    flow: tuple[Any, ...] | None


class Packed(NamedTuple):
    """A batch on its way.

    Attributes:
        tasks: digest and pickle of each task in it.
        surroundings: pickled.
        calls: pickled: for each call the index of its task, number, attempt, args, kwargs and tags.
        seconds: after how long the worker hands back what it has not started.
    """

    tasks: list[tuple[bytes, bytes]]
    surroundings: bytes
    calls: bytes
    seconds: float


def pack_task(task: Task[Any, Any]) -> tuple[bytes, bytes]:
    """A task's digest and pickle.

    Raises:
        SerializationError: its function cannot be pickled.
    """
    try:
        data = dumps_function(task)
    except Exception:
        raise find_culprit(task.fn, f"the function of task {task.name!r}") from None
    import hashlib  # here, as workers seldom need it

    return hashlib.blake2b(data, digest_size=16).digest(), data


def surroundings_of(scope: Scope | None) -> bytes:
    """What workers are told of a scope."""
    from shoal.names import process_entropy

    flow = None
    run = scope.flow_run if scope is not None else None
    if run is not None:
        try:
            parameters = dumps(run.parameters)
        except (
            Exception
        ):  # what cannot travel is not missed: tasks get their arguments by themselves
            parameters = b""
        if len(parameters) > LARGEST_PARAMETERS:
            parameters = b""
        lineage = []
        above: FlowRun | None = run
        while above is not None:
            lineage.append((above.number, above.name, above.flow.name))
            above = above.parent
        flow = (lineage, sorted(run.tags), run.run_count, bool(run.flow.log_prints), parameters)
    level = logging.getLogger("shoal.task_runs").getEffectiveLevel()
    return dumps(Surroundings(process_entropy(), level, flow))


class _FlowStub:
    """Stands on a worker for the flow that submitted the run."""

    def __init__(self, name: str, log_prints: bool) -> None:
        self.name = name
        self.log_prints = log_prints


def flow_run_of(flow: tuple[Any, ...]) -> FlowRun:
    """The flow run that `Surroundings.flow` tells of."""
    lineage, tags, run_count, log_prints, parameters = flow
    run: FlowRun | None = None
    for number, name, flow_name in reversed(lineage):
        stub: Any = _FlowStub(flow_name, log_prints)
        run = FlowRun(stub, number, name, {}, frozenset(tags), run)
    assert run is not None  # a lineage has at least the run itself
    run.run_count = run_count
    run.parameters = loads(parameters) if parameters else {}
    return run


# ---------------------------------------------------------------------- on the worker

_tasks: dict[bytes, Any] = {}


class _Collector(logging.Handler):
    """Keeps log records for the report, in a form that travels."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        record.msg = record.getMessage()
        record.args = None
        if record.exc_info:
            record.exc_text = record.exc_text or logging.Formatter().formatException(
                record.exc_info
            )
            record.exc_info = None
        self.records.append(record)


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
    except Exception as error:
        return dumps((portable_error(error, "(unpacking)"), None, [], [], [], 0.0, []))
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
        for index, number, attempt, args, kwargs, tags in rows:
            context = Context()
            context.run(SCOPE.set, scope)
            context.run(TAGS.set, tags)
            calls.append(Call(tasks[index], args, kwargs, number, context, scope, attempt))
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
    def dispatcher(self) -> Any:
        """The dispatcher of the runner, which is made on first use."""
        if self._runner is None:
            self._runner = self._make()
        return self._runner.scope().dispatcher

    def close(self) -> None:
        """Waits for the runs that were submitted inside, and leaves the runner."""
        if self._runner is not None:
            self._runner.__exit__(None, None, None)


def run_calls(calls: Sequence[Call], seconds: float) -> tuple[list[Any], list[float], float]:
    """Runs calls one after another (coroutines together) until `seconds` are over.

    Returns:
        For each call that was run its value, or an `Outcome` where there is more to say; when each ended; and how
        long they took together.
    """
    started = time.perf_counter()
    values: list[Any] = []
    ends: list[float] = []
    if calls and calls[0].task.is_async:
        for outcome in _run_coroutines(calls):
            values.append(_brief(outcome))
            ends.append(time.time())
        return values, ends, time.perf_counter() - started
    for call in calls:
        try:
            outcome = timed_attempt(call)
            if outcome.phase == WAITING:
                outcome = call.context.copy().run(waited_for, call, outcome.value)
        except Exception as error:
            outcome = call.context.copy().run(raised, call, error)
        values.append(_brief(outcome))
        ends.append(time.time())
        if time.perf_counter() - started > seconds:
            break
    return values, ends, time.perf_counter() - started


def _brief(outcome: Outcome) -> Any:
    plain = outcome.phase == COMPLETED and outcome.state is None and outcome.name is None
    return outcome.value if plain else outcome


def _run_coroutines(calls: Sequence[Call]) -> list[Outcome]:
    import asyncio

    async def one(call: Call) -> Outcome:
        outcome = await timed_attempt_async(call)
        if outcome.phase == WAITING:
            outcome = waited_for(call, outcome.value)
        return outcome

    async def all_of_them() -> list[Outcome]:
        loop = asyncio.get_running_loop()
        contexts = [under_asyncio(call.context.copy()) for call in calls]
        tasks = [
            loop.create_task(one(call), context=context)
            for call, context in zip(calls, contexts, strict=True)
        ]
        return list(await asyncio.gather(*tasks))

    from shoal.engine.loops import SERVICE_LOOP, under_asyncio

    return SERVICE_LOOP.run(all_of_them())  # type: ignore[no-any-return]


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
        except Exception:
            places.append(place)
            error = find_culprit(value, "result", name_of(call))
            parts.append(pack_outcome(call, Outcome(FAILED, error, name=call.name)))
    return None, parts, places


def pack_outcome(call: Call, outcome: Outcome) -> bytes:
    """Pickles an outcome so that it certainly travels: what cannot be pickled makes it a failure."""
    if isinstance(outcome.value, BaseException):
        if outcome.state is not None and outcome.state.data is outcome.value:
            outcome.state = None if outcome.state.name == "Failed" else outcome.state
        outcome.value = Portable(outcome.value, name_of(call))
        if outcome.state is not None:
            outcome.state = type(outcome.state)(
                outcome.state.type, outcome.state.name, outcome.state.message, data=outcome.value
            )
    try:
        return dumps(outcome)
    except Exception:
        return dumps(
            Outcome(FAILED, find_culprit(outcome.value, "result", name_of(call)), name=call.name)
        )


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
