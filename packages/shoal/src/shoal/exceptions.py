"""Every error that Shoal raises on its own account, in one tree.

May import `safely`. Everything else may import this module.

    ShoalError
    ├── RunError                  a run was asked for its result and there is none (or none yet)
    │   ├── FailedRun             FAILED without an exception of its own
    │   ├── CrashedRun            CRASHED: killed, exited, or interrupted
    │   │   └── WorkerDied        ... because its worker process went away
    │   ├── CancelledRun          CANCELLED
    │   ├── UnfinishedRun         not settled yet
    │   ├── UpstreamTaskError     never started, because a run it needs did not complete
    │   ├── TaskRunTimeout        an attempt exceeded timeout_seconds        (TimeoutError)
    │   ├── FlowRunTimeout        the same for a flow                        (TimeoutError)
    │   ├── MissingResult         completed, but its value is no longer kept
    │   ├── ResultLost            completed, but what held its value died
    │   ├── WaitCycle             waits for itself, over however many runs
    │   └── NestingTooDeep        runs inside runs past Python's stack       (RecursionError)
    ├── WaitTimeout               result(timeout), as_completed(timeout)     (TimeoutError)
    ├── BlockingWaitInLoop        result() where only await can work         (RuntimeError)
    ├── MissingContextError       needs a flow or task run around it         (RuntimeError)
    ├── ParameterTypeError        a flow parameter has the wrong type        (TypeError)
    ├── ParameterBindError        arguments do not fit the signature         (TypeError)
    ├── ReservedArgumentError     a parameter has a name that is ours        (TypeError)
    ├── MappingLengthMismatch     map() over iterables of different lengths  (ValueError)
    ├── MappingMissingIterable    map() without anything to map over         (ValueError)
    ├── InvalidOption             an impossible option                       (ValueError, TypeError)
    │   ├── UnknownOption         there is none of this name
    │   └── UnknownRunner         a runner name that nobody registered
    ├── RunNameError              a run name template that cannot be used    (ValueError, TypeError)
    ├── SerializationError        something cannot cross to a worker or back
    ├── ConcurrencyLimitError     a tag limit that is unknown, zero or misused
    ├── BackendError              a backend told of what cannot be            (RuntimeError)
    ├── RunnerStateError          a runner used before, after, or twice      (RuntimeError)
    ├── MissingExtraError         a package is not installed                 (ImportError)
    ├── ClusterError              there is no cluster to run anything on
    │   ├── ClusterUnreachable    none answers at an address                 (ConnectionError)
    │   ├── ClusterFailed         it could not be started, or would not be joined
    │   └── EnvironmentMismatch   driver and cluster are too different to work together
    ├── ScriptError               a CLI target that cannot be loaded
    └── FlowNotFound              a CLI target without the flow asked for

An error is written like a dataclass: annotations are its facts, `_text` makes the message from them. Constructors
take facts by keyword only. (The real `dataclasses` would import `inspect`, too dear for `import shoal`.)
"""

from __future__ import annotations

import reprlib
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, dataclass_transform

from shoal.safely import repr_of
from shoal.spelling import or_perhaps

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "BackendError",
    "BlockingWaitInLoop",
    "CancelledRun",
    "ClusterError",
    "ClusterFailed",
    "ClusterUnreachable",
    "ConcurrencyLimitError",
    "CrashedRun",
    "EnvironmentMismatch",
    "FailedRun",
    "FlowNotFound",
    "FlowRunTimeout",
    "InvalidOption",
    "MappingLengthMismatch",
    "MappingMissingIterable",
    "MissingContextError",
    "MissingExtraError",
    "MissingResult",
    "NestingTooDeep",
    "ParameterBindError",
    "ParameterTypeError",
    "ReservedArgumentError",
    "ResultLost",
    "RunError",
    "RunNameError",
    "RunnerStateError",
    "ScriptError",
    "SerializationError",
    "ShoalError",
    "TaskRunTimeout",
    "UnfinishedRun",
    "UnknownOption",
    "UnknownRunner",
    "UpstreamTaskError",
    "WaitCycle",
    "WaitTimeout",
    "WorkerDied",
]


@dataclass_transform(kw_only_default=True, eq_default=False)
class ShoalError(Exception):
    """Base of every error here: catch it to catch them all.

    Facts are instance attributes, so a pickled or copied error keeps its message, its facts and its notes.
    """

    _required: ClassVar[dict[str, bool]] = {}  # every fact of the class -> must it be given?

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        own = {name: name not in vars(cls) for name in cls.__annotations__}
        cls._required = {**cls._required, **own}

    def __init__(self, **facts: Any) -> None:
        required = self._required
        if not required.keys() >= facts.keys():
            raise TypeError(
                f"{type(self).__name__} has no {_names(facts.keys() - required.keys())}"
            )
        missing = [name for name, needed in required.items() if needed and name not in facts]
        if missing:
            raise TypeError(f"{type(self).__name__} needs {_names(missing)}")
        self.__setstate__(facts)
        self._prepare()
        super().__init__(self._text())

    def _prepare(self) -> None:
        """Brings the facts into the shape in which they are kept."""

    def _text(self) -> str:
        return type(self).__name__

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args), vars(self)


_E = TypeVar("_E", bound=ShoalError)


def _rebuild(cls: type[_E], args: tuple[object, ...]) -> _E:
    """Makes an error again from its message; its facts follow as state."""
    error = cls.__new__(cls, *args)
    super(ShoalError, error).__init__(*args)  # OSError and ImportError have fields of their own
    return error


_reprs = reprlib.Repr()
_reprs.maxstring = _reprs.maxother = 80


def _shown(value: object) -> str:
    """A short repr, so that a large or broken value neither floods the message nor travels with the error."""
    try:
        return _reprs.repr(value)
    except BaseException:  # it catches an `Exception` only
        return repr_of(value)


def _names(names: Any) -> str:
    return ", ".join(repr(name) for name in names) or "none"


# ---------------------------------------------------------------------- runs without a result


class RunError(ShoalError):
    """Base of what asking a run for its result raises, unless the task's own exception does.

    Attributes:
        run_name: the run, or `None` where only its state was at hand.
        cause: the exception behind this one, chained as `__cause__`, or `None`.
    """

    run_name: str | None = None
    cause: BaseException | None = None

    def __setstate__(self, state: dict[str, Any] | None, /) -> None:
        super().__setstate__(state)
        if self.cause is not None:  # assigning None would also hide the exception being handled
            self.__cause__ = self.cause

    @property
    def _run(self) -> str:
        return f"Run {self.run_name!r}" if self.run_name else "The run"


class _EndedRun(RunError):
    """What the three bad ends share; `_verb` says which one."""

    message: str | None = None
    _verb = "ended"

    def _text(self) -> str:
        if self.message and not self.run_name:
            return self.message
        return f"{self._run} {self._verb}" + (f": {self.message}" if self.message else ".")


class FailedRun(_EndedRun):
    """The run is FAILED without an exception of its own, say because its task returned a Failed state.

    Attributes:
        message: the state's message, or `None`.
    """

    _verb = "failed"


class CrashedRun(_EndedRun):
    """The run is CRASHED: it was killed, left the interpreter, or was interrupted from outside.

    A SystemExit or KeyboardInterrupt of the task is the `cause` here and not raised itself: a task cannot end the
    program that asks for its result.

    Attributes:
        message: the state's message, or `None`.
    """

    _verb = "crashed"


class CancelledRun(_EndedRun):
    """The run was cancelled before it could end.

    Attributes:
        message: the state's message, or `None`.
    """

    _verb = "was cancelled"


class WorkerDied(CrashedRun):
    """The worker that executed the run went away before it reported the end.

    Attributes:
        host: the worker's machine.
        pid: the worker's process id, or `None` where the engine does not tell.
        exit_code: its exit status, or `None` if unknown or ended by a signal.
        signal: the number of the signal that ended it, or `None`. A negative `exit_code`, as subprocess and
            multiprocessing report it, becomes the signal.
    """

    host: str
    pid: int | None = None
    exit_code: int | None = None
    signal: int | None = None

    def _prepare(self) -> None:
        if self.signal is None and self.exit_code is not None and self.exit_code < 0:
            self.signal, self.exit_code = -self.exit_code, None
        worker = f"its worker on {self.host}" + ("" if self.pid is None else f" (pid {self.pid})")
        if self.message is None:
            self.message = f"{worker} {self._end()}. If the task may run twice, set crash_retries."

    def _end(self) -> str:
        if self.signal is None:
            return "died" if self.exit_code is None else f"exited with code {self.exit_code}"
        import signal

        try:
            name = signal.Signals(self.signal).name
        except ValueError:  # a number that this platform has no name for
            name = f"signal {self.signal}"
        return f"was ended by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


class UnfinishedRun(RunError):
    """The run is not settled, so its result is not known yet.

    Attributes:
        state_name: the name of the state it is in.
    """

    state_name: str

    def _text(self) -> str:
        return f"{self._run} is {self.state_name} and has no result yet: wait for it first."


class UpstreamTaskError(RunError):
    """A run never started, because a run whose value or end it needs did not complete.

    Attributes:
        run_name: the upstream run that went wrong first.
        task_name: that run's task, or `None` where only its state was at hand.
        state: the state it ended in, as text.
        cause: its exception, chained as `__cause__`, or `None`.
    """

    state: str
    task_name: str | None = None

    def _text(self) -> str:
        of = "" if self.task_name is None else f" of task {self.task_name!r}"
        return (
            f"{self._run}{of}, which this run needs, did not complete but is {self.state}. "
            "To start in spite of that, pass it as allow_failure(...)."
        )


class TaskRunTimeout(RunError, TimeoutError):
    """One attempt of a task run took longer than its limit.

    Attributes:
        timeout: the limit in seconds.
    """

    timeout: float

    def _text(self) -> str:
        return f"{self._run} exceeded its timeout of {self.timeout:g} s."


class FlowRunTimeout(RunError, TimeoutError):
    """A flow run took longer than its limit; the task runs it had started are cancelled.

    Attributes:
        timeout: the limit in seconds.
    """

    timeout: float

    def _text(self) -> str:
        return f"{self._run} of a flow exceeded its timeout of {self.timeout:g} s."


class MissingResult(RunError):
    """The run completed, but its value is no longer kept, say because its list of futures was dropped."""

    def _text(self) -> str:
        return f"{self._run} completed, but its value was released: keep its future until you have the result."


class ResultLost(RunError):
    """The run completed, but what held its large value died; nothing is computed again in silence.

    Attributes:
        holder: what held the value, say "worker tcp://10.0.0.7:4711", or `None`.
    """

    holder: str | None = None

    def _text(self) -> str:
        holder = self.holder or "what held its value"
        return f"{self._run} completed, but {holder} is gone and the value with it: submit the task again."


class WaitCycle(RunError):
    """Runs wait for each other in a circle, so that none of them could ever end.

    Attributes:
        run_name: the run whose wait would have closed the circle.
        awaited: what it was about to wait for, which waits for it or is it.
    """

    awaited: str

    def _text(self) -> str:
        return f"{self._run} cannot wait for {self.awaited!r}, which itself waits for it to end."


class NestingTooDeep(RunError, RecursionError):
    """Tasks that call or wait for tasks went deeper than Python's stack allows.

    Attributes:
        depth: how many runs were on the stack, or `None` if unknown.
    """

    depth: int | None = None

    def _text(self) -> str:
        deep = "" if self.depth is None else f", {self.depth} runs deep"
        return f"{self._run} is nested too deep for Python's stack{deep}: submit work side by side instead."


# ---------------------------------------------------------------------- waiting


class WaitTimeout(ShoalError, TimeoutError):
    """Nothing failed: a wait took longer than the caller wanted. The runs go on.

    Attributes:
        run_name: the run waited for, `None` for several.
        timeout: the seconds waited, or `None` if not known.
        unfinished: how many runs had not ended.
        total: out of how many.
    """

    run_name: str | None = None
    timeout: float | None = None
    unfinished: int = 1
    total: int = 1

    def _text(self) -> str:
        if self.run_name is None:
            return f"{self.unfinished} (of {self.total}) futures unfinished"
        within = "in time" if self.timeout is None else f"within {self.timeout:g} s"
        return f"Run {self.run_name!r} did not end {within}; it goes on."


class BlockingWaitInLoop(ShoalError, RuntimeError):
    """A blocking wait on the loop that runs async tasks, which could then never end.

    Attributes:
        run_name: the run waited for, `None` for several.
    """

    run_name: str | None = None

    def _text(self) -> str:
        waited = "runs" if self.run_name is None else f"run {self.run_name!r}"
        return f"Waiting for {waited} here would block the loop that runs async tasks: use `await future`."


# ---------------------------------------------------------------------- calls and their arguments


class MissingContextError(ShoalError, RuntimeError):
    """Something was used outside the run it needs.

    Attributes:
        task_name: the task that was submitted, or `None`.
        what: what else was attempted, say "get_run_logger()", or `None`.
    """

    task_name: str | None = None
    what: str | None = None

    def _text(self) -> str:
        if self.what is not None:
            return f"{self.what} works only inside a flow run or a task run."
        task = "A task" if self.task_name is None else f"Task {self.task_name!r}"
        return (
            f"{task} was submitted outside a flow. Submit it inside a function decorated with @flow, call it "
            "directly, or use a runner by itself: `with ThreadPoolTaskRunner() as runner: runner.submit(...)`."
        )


class ParameterTypeError(ShoalError, TypeError):
    """A flow was called with a parameter that does not fit its annotation.

    Attributes:
        flow_name: the flow.
        parameter: the parameter, with the path inside it where that is known ("config.retries").
        value: the value; kept as a short repr.
        problem: what is wrong with it.
    """

    flow_name: str
    parameter: str
    value: object
    problem: str

    def _prepare(self) -> None:
        self.value = _shown(self.value)

    def _text(self) -> str:
        return (
            f"Flow {self.flow_name!r}: parameter {self.parameter!r} is {self.value}: {self.problem}"
        )


class ParameterBindError(ShoalError, TypeError):
    """The arguments of a call do not fit the signature of the task or flow.

    Attributes:
        task_name: the task or flow.
        problem: what does not fit.
        argument: the argument that is missing or too much, `None` where no single one is.
    """

    task_name: str
    problem: str
    argument: str | None = None

    def _text(self) -> str:
        return f"Cannot call {self.task_name!r}: {self.problem}"


class ReservedArgumentError(ShoalError, TypeError):
    """A decorated function has a parameter whose name `submit` and `map` need for themselves.

    Attributes:
        task_name: the task or flow.
        argument: the parameter.
    """

    task_name: str
    argument: str

    def _text(self) -> str:
        return (
            f"{self.task_name!r} has a parameter {self.argument!r}, which is reserved: rename it."
        )


class MappingLengthMismatch(ShoalError, ValueError):
    """The iterables given to `map` have different lengths.

    Attributes:
        task_name: the task.
        lengths: the length of each mapped argument, by name.
    """

    task_name: str
    lengths: Mapping[str, int]

    def _text(self) -> str:
        each = ", ".join(f"{name!r} has {length}" for name, length in self.lengths.items())
        return (
            f"Cannot map {self.task_name!r} over iterables of different lengths: {each}. "
            "Wrap what is the same for every run in unmapped(...)."
        )


class MappingMissingIterable(ShoalError, ValueError):
    """`map` was called without an argument to map over.

    Attributes:
        task_name: the task.
        arguments: names of the arguments that were given, all of them static.
    """

    task_name: str
    arguments: Sequence[str] = ()

    def _text(self) -> str:
        return (
            f"Cannot map {self.task_name!r} over nothing (static arguments: {_names(self.arguments)}). "
            "Pass an iterable, or use submit for a single run."
        )


class InvalidOption(ShoalError, ValueError, TypeError):
    """An option does not exist, or its value is of the wrong type or out of range.

    Attributes:
        option: the option.
        value: its value; kept as a short repr.
        problem: what is wrong with it.
        where: the task, flow, runner or else it was given to, or `None`.
    """

    option: str
    value: object
    problem: str
    where: str | None = None

    def _prepare(self) -> None:
        self.value = _shown(self.value)

    def _text(self) -> str:
        where = "" if self.where is None else f" in {self.where}"
        return f"The option {self.option}={self.value}{where} is not valid: {self.problem}"


class UnknownOption(InvalidOption):
    """There is no option of this name.

    Attributes:
        known: the options that there are.
    """

    known: Sequence[str] = ()
    problem: str = "there is no such option"

    def _text(self) -> str:
        there = "There" if self.where is None else f"{self.where}: there"
        return f"{there} is no option {self.option!r}{or_perhaps(self.option, self.known)}"


class RunNameError(ShoalError, ValueError, TypeError):
    """A `task_run_name` or `flow_run_name` could not be turned into a name.

    Attributes:
        template: the format string, or the callable's name.
        task_name: the task or flow whose run it would have named.
        problem: what went wrong.
    """

    template: str
    task_name: str
    problem: str

    def _text(self) -> str:
        return f"The run name {self.template!r} of {self.task_name!r} cannot be rendered: {self.problem}"


class SerializationError(ShoalError):
    """Something cannot be pickled, so it can neither reach a worker nor come back; only this run fails.

    Attributes:
        path: where it sits, say "parameters['cfg'].lock" or "result".
        type_name: the type of what cannot be pickled.
        problem: what the pickler said.
        run_name: the run, or `None`.
    """

    path: str
    type_name: str
    problem: str
    run_name: str | None = None

    def _text(self) -> str:
        of = "" if self.run_name is None else f" of run {self.run_name!r}"
        return (
            f"{self.path}{of} ({self.type_name}) cannot be pickled: {self.problem}. "
            "Make it inside the task, or run the task on threads."
        )


# ---------------------------------------------------------------------- limits, runners, the command line


class ConcurrencyLimitError(ShoalError):
    """A concurrency limit is unknown, is zero, or cannot be used as asked.

    Attributes:
        tag: the limit's tag or name.
        problem: what is wrong, and what to do.
        run_name: the run that needed it, or `None`.
    """

    tag: str
    problem: str
    run_name: str | None = None

    def _text(self) -> str:
        needed = "" if self.run_name is None else f", needed by run {self.run_name!r}"
        return f"Concurrency limit {self.tag!r}{needed}: {self.problem}"


class RunnerStateError(ShoalError, RuntimeError):
    """A task runner was used before it was entered or after it was left, or was entered twice.

    Attributes:
        runner: the runner's name.
        problem: what was attempted, and what to do instead.
    """

    runner: str
    problem: str

    def _text(self) -> str:
        return f"{self.runner}: {self.problem}"


class BackendError(ShoalError, RuntimeError):
    """A task runner's backend has told of something that cannot be; this is in the log, and harms no run.

    Attributes:
        runner: the runner's name.
        event: what it called.
        batch: the number of the batch that it spoke of.
        problem: what cannot be.
    """

    runner: str
    event: str
    batch: int
    problem: str

    def _text(self) -> str:
        return f"{self.runner}'s backend told {self.event!r} of batch {self.batch}: {self.problem}"


class MissingExtraError(ShoalError, ImportError):
    """A feature needs a package that is not installed.

    Attributes:
        feature: what was asked for, say "the task runner 'dask'".
        requirement: what to install, say "shoal-dask" or "bokeh".
    """

    feature: str
    requirement: str

    @property
    def command(self) -> str:
        """The exact command that installs it; for packages of ours, in a clone of the repository."""
        if self._ours:  # there are no releases yet
            return _install(f"./packages/shoal ./packages/{self.requirement}")
        return _install(f'"{self.requirement}"')

    @property
    def _ours(self) -> bool:
        return self.requirement.startswith("shoal-")

    def _text(self) -> str:
        where = " (in a clone of Shoal's repository)" if self._ours else ""
        return f"{self.feature} needs a package that is not installed: {self.command}{where}"


def _install(packages: str) -> str:
    """The command that installs into the environment in which this program runs, and into no other."""
    import shlex
    import sys
    from importlib.util import find_spec

    python = shlex.quote(sys.executable or "python3")
    if find_spec("pip") is None:  # an environment that uv has made has none of its own
        return f"uv pip install {packages} --python {python}"
    return f"{python} -m pip install {packages}"


class UnknownRunner(InvalidOption):
    """No task runner has this name or address.

    Attributes:
        runner: what was asked for, say "treads:4".
        known: names that would do.
    """

    runner: str
    known: Sequence[str] = ()
    option: str = "task_runner"
    value: object = None
    problem: str = "there is no such task runner"

    def _prepare(self) -> None:
        self.value = self.runner
        super()._prepare()

    def _text(self) -> str:
        there = "There" if self.where is None else f"{self.where}: there"
        perhaps = or_perhaps(self.runner.partition(":")[0], self.known)
        return f"{there} is no task runner {self.runner!r}{perhaps} Known: {_names(self.known)}."


class ClusterError(ShoalError):
    """Base of what goes wrong before there is a cluster to run anything on."""


class ClusterUnreachable(ClusterError, ConnectionError):
    """No cluster could be talked to.

    Attributes:
        cluster: of which kind, say "Dask".
        address: where it was looked for: an address, or the path of a file that names one.
        problem: what was in the way.
    """

    cluster: str
    address: str
    problem: str

    def _text(self) -> str:
        return f"There is no {self.cluster} cluster to talk to at {self.address}: {self.problem}"


class ClusterFailed(ClusterError):
    """A cluster could not be started, one that answers could not be joined, or it has no workers.

    Attributes:
        cluster: of which kind, say "Dask".
        problem: what happened; its exception is chained.
        cluster_class: the name of what was to make it, where that is chosen.
        address: of the one that could not be joined, or has failed; `None` if it was started here.
        was_started: whether it was there, and has failed later.
    """

    cluster: str
    problem: str
    cluster_class: str | None = None
    address: str | None = None
    was_started: bool = False

    def _text(self) -> str:
        whose = "" if self.cluster_class is None else f" of {self.cluster_class}"
        if self.was_started:
            where = "" if self.address is None else f" at {self.address}"
            return f"The {self.cluster} cluster{whose}{where} has failed: {self.problem}"
        what = "started" if self.address is None else f"joined at {self.address}"
        return f"A {self.cluster} cluster{whose} could not be {what}: {self.problem}"


class EnvironmentMismatch(ClusterError):
    """The driver and the cluster have installed what does not work together.

    Attributes:
        cluster: of which kind, say "Dask".
        rows: by package, what each place has: `{"python": {"driver": "3.11.9", "workers": "3.12.4"}}`.
        table: the same as an aligned text.
        problem: which of the differences is too large.
        can_be_tried: whether it is for `check_environment` to say that it shall not work.
    """

    cluster: str
    rows: Mapping[str, Mapping[str, str]]
    table: str
    problem: str
    can_be_tried: bool = True

    def _text(self) -> str:
        way = ", or give check_environment=False to try it" if self.can_be_tried else ""
        return (
            f"The environments of this {self.cluster} cluster do not fit together: {self.problem}.\n"
            f"{self.table}\nInstall the same versions everywhere{way}."
        )


class ScriptError(ShoalError):
    """A target of the command line cannot be loaded.

    Attributes:
        target: the target as typed, say "etl.py:nightly".
        problem: what went wrong.
    """

    target: str
    problem: str

    def _text(self) -> str:
        return f"Cannot load {self.target!r}: {self.problem}"


class FlowNotFound(ShoalError):
    """A target of the command line was loaded but holds no such flow, or no single one.

    Attributes:
        target: the target as typed.
        flow_name: the flow asked for, `None` if none was named.
        found: names of the flows that it holds.
    """

    target: str
    flow_name: str | None = None
    found: Sequence[str] = ()

    def _text(self) -> str:
        wanted = "a single flow" if self.flow_name is None else f"a flow {self.flow_name!r}"
        return f"{self.target!r} does not hold {wanted}. Flows there: {_names(self.found)}."
