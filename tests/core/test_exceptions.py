"""The error tree: facts as attributes, messages that name them, pickling and copying (SPEC 1.6)."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import pytest
from shoal import exceptions
from shoal.exceptions import (
    AcquireConcurrencySlotTimeoutError,
    BackendError,
    BlockingWaitInLoop,
    CancelledRun,
    ClusterError,
    ClusterFailed,
    ClusterUnreachable,
    ConcurrencyLimitError,
    ConcurrencySlotAcquisitionError,
    CrashedRun,
    EnvironmentMismatch,
    FailedRun,
    FlowNotFound,
    FlowRunTimeout,
    InvalidOption,
    JournalBusy,
    JournalError,
    MappingLengthMismatch,
    MappingMissingIterable,
    MissingContextError,
    MissingExtraError,
    MissingResult,
    NestingTooDeep,
    ParameterBindError,
    ParameterTypeError,
    RecordError,
    ReservedArgumentError,
    ResultLost,
    ResultStorageError,
    RunError,
    RunNameError,
    RunnerStateError,
    RunNotFound,
    ScriptError,
    SerializationError,
    ShoalError,
    TaskRunTimeout,
    UnfinishedRun,
    UnknownOption,
    UnknownRunner,
    UnstableKeyError,
    UpstreamTaskError,
    VisualizationError,
    WaitCycle,
    WaitTimeout,
    WorkerDied,
)

#: One of each, with every fact given, and what must be in its message.
EXAMPLES: list[tuple[ShoalError, list[str]]] = [
    (FailedRun(message="no luck", run_name="inc-3f2"), ["inc-3f2", "failed", "no luck"]),
    (CrashedRun(message="exit", run_name="inc-3f2", cause=SystemExit(3)), ["crashed", "exit"]),
    (CancelledRun(message="by hand", run_name="inc-3f2"), ["cancelled", "by hand"]),
    (
        WorkerDied(run_name="inc-3f2", host="node7", pid=4711, signal=9),
        ["inc-3f2", "node7", "4711", "SIGKILL", "crash_retries"],
    ),
    (UnfinishedRun(run_name="inc-3f2", state_name="Pending"), ["inc-3f2", "Pending"]),
    (
        UpstreamTaskError(
            run_name="load-01a", task_name="load", state="Failed('no')", cause=ValueError("no")
        ),
        ["load-01a", "'load'", "Failed('no')", "allow_failure"],
    ),
    (TaskRunTimeout(run_name="inc-3f2", timeout=0.5), ["inc-3f2", "0.5 s"]),
    (FlowRunTimeout(run_name="jolly-owl", timeout=2), ["jolly-owl", "2 s"]),
    (MissingResult(run_name="inc-3f2"), ["inc-3f2", "released"]),
    (ResultLost(run_name="inc-3f2", holder="worker 7", cause=OSError("gone")), ["worker 7"]),
    (WaitCycle(run_name="a-111", awaited="b-222"), ["a-111", "b-222"]),
    (NestingTooDeep(run_name="deep-00f", depth=120), ["deep-00f", "120"]),
    (WaitTimeout(run_name="inc-3f2", timeout=1.5), ["inc-3f2", "1.5 s"]),
    (BlockingWaitInLoop(run_name="inc-3f2"), ["inc-3f2", "await"]),
    (MissingContextError(task_name="inc"), ["'inc'", "@flow", "with ThreadPoolTaskRunner"]),
    (
        ParameterTypeError(
            flow_name="etl", parameter="config.size", value="ten", problem="not a number"
        ),
        ["etl", "config.size", "'ten'", "not a number"],
    ),
    (ParameterBindError(task_name="inc", argument="y", problem="unexpected 'y'"), ["inc", "'y'"]),
    (ReservedArgumentError(task_name="inc", argument="wait_for"), ["inc", "wait_for"]),
    (
        MappingLengthMismatch(task_name="add", lengths={"x": 2, "y": 3}),
        ["add", "'x' has 2", "'y' has 3", "unmapped"],
    ),
    (MappingMissingIterable(task_name="add", arguments=("x",)), ["add", "'x'", "submit"]),
    (
        InvalidOption(option="timeout_seconds", value=-1, problem="must be positive", where="inc"),
        ["timeout_seconds", "-1", "must be positive", "inc"],
    ),
    (ResultStorageError(place="/data/results", problem="no space"), ["/data/results", "no space"]),
    (RunNameError(template="{x.y}", task_name="inc", problem="no y"), ["{x.y}", "inc", "no y"]),
    (
        SerializationError(
            path="parameters['cfg'].lock",
            type_name="_thread.lock",
            problem="cannot pickle it",
            run_name="inc-3f2",
        ),
        ["parameters['cfg'].lock", "_thread.lock", "inc-3f2"],
    ),
    (
        UnstableKeyError(
            path="parameters['conn'].lock",
            type_name="_thread.lock",
            problem="cannot pickle it",
            task_name="load",
        ),
        ["parameters['conn'].lock", "_thread.lock", "'load'", "INPUTS - 'conn'", "cache_key_fn"],
    ),
    (
        VisualizationError(task_name="load", problem="the flow uses the result of task 'load'"),
        ["cannot be drawn", "'load'"],
    ),
    (ConcurrencyLimitError(tag="db", problem="is 0", run_name="q-1"), ["'db'", "is 0", "q-1"]),
    (
        ConcurrencySlotAcquisitionError(names=("db", "api"), problem="there is no limit"),
        ["'db', 'api'", "there is no limit"],
    ),
    (
        AcquireConcurrencySlotTimeoutError(names=("db",), timeout_seconds=1.5),
        ["'db'", "within 1.5 s"],
    ),
    (RunnerStateError(runner="threads", problem="entered twice"), ["threads", "twice"]),
    (JournalError(path="/data/journal", problem="it is empty"), ["/data/journal", "it is empty"]),
    (JournalBusy(name="polite-magpie"), ["'polite-magpie'", "under way"]),
    (
        RunNotFound(name="calm-owl", folder="/data", known=("calm-owls", "x")),
        ["'calm-owl'", "/data", "did you mean 'calm-owls'?", "shoal runs ls"],
    ),
    (RecordError(path="run.shoal", problem="it is a folder"), ["run.shoal", "a folder"]),
    (
        BackendError(runner="Mine", event="lost", batch=7, problem="none of this number was sent"),
        ["Mine", "'lost'", "7", "none of this number"],
    ),
    (
        MissingExtraError(feature="'dask'", requirement="shoal-dask"),
        ["'dask'", "pip install ./packages/shoal ./packages/shoal-dask", "clone"],
    ),
    (
        UnknownOption(where="task 'fetch'", option="retrys", value=3, known=("retries", "tags")),
        ["task 'fetch': there is no option 'retrys'; did you mean 'retries'?"],
    ),
    (
        UnknownRunner(runner="treads:4", known=("threads", "dask")),
        ["There is no task runner 'treads:4'; did you mean 'threads'? Known: 'threads', 'dask'."],
    ),
    (
        ClusterUnreachable(cluster="Ray", address="ray://h:1", problem="no answer"),
        ["Ray", "ray://h:1", "no answer"],
    ),
    (
        ClusterFailed(cluster="Dask", problem="no quota", cluster_class="a.B"),
        ["A Dask cluster of a.B could not be started", "no quota"],
    ),
    (
        EnvironmentMismatch(
            cluster="Dask",
            rows={"python": {"driver": "3.11.7", "scheduler": "3.12.4"}},
            table="<the table>",
            problem="python is 3.12.4 on the scheduler",
        ),
        ["Dask", "<the table>", "3.12.4 on the scheduler", "check_environment=False"],
    ),
    (ScriptError(target="etl.py:nightly", problem="no such file"), ["etl.py:nightly", "no such"]),
    (FlowNotFound(target="etl.py", flow_name="x", found=("y",)), ["etl.py", "'x'", "'y'"]),
]
ABSTRACT = {ShoalError, RunError, ClusterError}


def each() -> list[Any]:
    return [pytest.param(error, id=type(error).__name__) for error, _ in EXAMPLES]


def test_every_error_has_an_example_here() -> None:
    public = {getattr(exceptions, name) for name in exceptions.__all__}
    assert {type(error) for error, _ in EXAMPLES} == public - ABSTRACT


def test_every_error_is_in_the_drawing() -> None:
    assert exceptions.__doc__ is not None
    drawing = exceptions.__doc__.split("An error is written")[0]
    for name in exceptions.__all__:
        assert f" {name} " in drawing.replace("\n", " "), name


@pytest.mark.parametrize("error", each())
def test_is_named_by_the_module_that_users_import(error: ShoalError) -> None:
    assert type(error).__module__ == "shoal.exceptions"
    assert b"shoal.exceptions" in pickle.dumps(error)
    assert getattr(exceptions, type(error).__name__) is type(error)


@pytest.mark.parametrize("error", each())
def test_docstring_tells_every_fact(error: ShoalError) -> None:
    # Python 3.13 stores docstrings without the indentation of their code, which earlier ones keep.
    documented = "\n".join(inspect.cleandoc(cls.__doc__ or "") for cls in type(error).__mro__)
    for fact in vars(error):
        assert f"\n    {fact}: " in documented


@pytest.mark.parametrize(
    ("error", "parts"), [pytest.param(*row, id=type(row[0]).__name__) for row in EXAMPLES]
)
def test_message_names_the_facts(error: ShoalError, parts: list[str]) -> None:
    for part in parts:
        assert part in str(error)


def pickled(error: ShoalError) -> ShoalError:
    back: ShoalError = pickle.loads(pickle.dumps(error))
    return back


@pytest.mark.parametrize("duplicate", [pickled, copy.copy, copy.deepcopy])
@pytest.mark.parametrize("error", each())
def test_survives_pickling_and_copying(error: ShoalError, duplicate: Any) -> None:
    error = copy.copy(error)
    error.add_note("seen on node7")
    again = duplicate(error)
    assert again is not error
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert again.args == error.args
    assert {k: repr(v) for k, v in vars(again).items()} == {
        k: repr(v) for k, v in vars(error).items()
    }
    assert repr(again.__cause__) == repr(error.__cause__)


@pytest.mark.parametrize(
    ("error", "built_in"),
    [
        (TaskRunTimeout, TimeoutError),
        (FlowRunTimeout, TimeoutError),
        (WaitTimeout, TimeoutError),
        (NestingTooDeep, RecursionError),
        (RunnerStateError, RuntimeError),
        (BackendError, RuntimeError),
        (BlockingWaitInLoop, RuntimeError),
        (MissingContextError, RuntimeError),
        (ParameterTypeError, TypeError),
        (ParameterBindError, TypeError),
        (InvalidOption, ValueError),
        (InvalidOption, TypeError),
        (MissingExtraError, ImportError),
        (WorkerDied, CrashedRun),
        (ClusterUnreachable, ConnectionError),
        (EnvironmentMismatch, ClusterError),
    ],
)
def test_is_also_the_error_that_people_expect(
    error: type[BaseException], built_in: type[BaseException]
) -> None:
    assert issubclass(error, built_in)


def test_cause_is_chained_at_once() -> None:
    """SPEC 5.3: it carries the upstream's exception."""
    cause = KeyError("x")
    error = UpstreamTaskError(run_name="a-1", task_name="a", state="Failed()", cause=cause)
    assert error.cause is cause
    assert error.__cause__ is cause


def test_without_a_cause_the_context_still_shows() -> None:
    assert FailedRun(message="no").__suppress_context__ is False


def test_facts_are_checked() -> None:
    with pytest.raises(TypeError, match="UnfinishedRun needs 'state_name'"):
        UnfinishedRun(run_name="a-1")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="UnfinishedRun has no 'colour'"):
        UnfinishedRun(state_name="Pending", colour="red")  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        UnfinishedRun("Pending")  # type: ignore[call-arg]


def test_optional_facts_have_defaults() -> None:
    error = WaitTimeout(unfinished=3, total=10)
    assert error.run_name is None
    assert str(error) == "3 (of 10) futures unfinished"  # SPEC 4.4


def test_a_bad_end_without_a_run_name_says_just_the_message() -> None:
    assert str(FailedRun(message="2/3 states failed.")) == "2/3 states failed."
    assert str(CancelledRun()) == "The run was cancelled."


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"exit_code": -11}, "ended by SIGSEGV"),
        ({"signal": 9}, "ended by SIGKILL (out of memory?)"),
        ({"signal": 99}, "ended by signal 99"),
        ({"exit_code": 3}, "exited with code 3"),
        ({}, "died"),
    ],
    ids=["negative exit code", "signal", "unnamed signal", "exit code", "unknown"],
)
def test_worker_died_says_how(facts: dict[str, int], text: str) -> None:
    """SPEC 7.5."""
    assert text in str(WorkerDied(host="node7", **facts))  # type: ignore[arg-type]


def test_a_negative_exit_code_is_the_signal() -> None:
    error = WorkerDied(host="node7", exit_code=-9)
    assert (error.signal, error.exit_code) == (9, None)


def test_a_cluster_is_started_or_joined() -> None:
    assert "joined at h:6379" in str(ClusterFailed(cluster="Ray", problem="no", address="h:6379"))


def test_what_cannot_be_tried_is_not_advised() -> None:
    error = EnvironmentMismatch(cluster="Ray", rows={}, table="", problem="no", can_be_tried=False)
    assert "check_environment" not in str(error)


def test_values_are_kept_as_short_reprs() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise ZeroDivisionError

    for value in ("x" * 10_000, list(range(10_000)), Broken(), lambda: None):
        error = InvalidOption(option="retries", value=value, problem="no")
        assert isinstance(error.value, str)
        assert len(str(error)) < 300
        pickle.dumps(error)
