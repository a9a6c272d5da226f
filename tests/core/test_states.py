"""States: constructors, predicates, results, exceptions, aggregation (SPEC 1.3, 3.4, 5.3)."""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shoal import flow
from shoal.exceptions import (
    CancelledRun,
    CrashedRun,
    FailedRun,
    ResultLost,
    UnfinishedRun,
    UpstreamTaskError,
)
from shoal.states import (
    AwaitingConcurrencySlot,
    AwaitingRetry,
    Cancelled,
    Cancelling,
    Completed,
    Crashed,
    Failed,
    NotReady,
    Paused,
    Pending,
    Queued,
    Retrying,
    Running,
    Scheduled,
    State,
    StateDetails,
    StateGroup,
    StateType,
    TimedOut,
    aggregate_states,
    exception_to_crashed_state,
    exception_to_failed_state,
    get_state_exception,
    raise_state_exception,
    state,
)

CONSTRUCTORS = [
    (Scheduled, "SCHEDULED", "Scheduled"),
    (AwaitingRetry, "SCHEDULED", "AwaitingRetry"),
    (Pending, "PENDING", "Pending"),
    (Queued, "PENDING", "Queued"),
    (NotReady, "PENDING", "NotReady"),
    (Running, "RUNNING", "Running"),
    (Retrying, "RUNNING", "Retrying"),
    (Completed, "COMPLETED", "Completed"),
    (Failed, "FAILED", "Failed"),
    (TimedOut, "FAILED", "TimedOut"),
    (Crashed, "CRASHED", "Crashed"),
    (Cancelled, "CANCELLED", "Cancelled"),
    (Cancelling, "CANCELLING", "Cancelling"),
    (Paused, "PAUSED", "Paused"),
]
each_constructor = pytest.mark.parametrize(
    ("make", "type_", "name"), CONSTRUCTORS, ids=[row[2] for row in CONSTRUCTORS]
)


# ---------------------------------------------------------------------- SPEC 1.3


@each_constructor
def test_constructors(make: Any, type_: str, name: str) -> None:
    state = make()
    assert (state.type, state.name, state.message, state.data) == (type_, name, None, None)
    state = make("why", data=1, name="Custom", timestamp=5.0)
    assert (state.type, state.name, state.message, state.data) == (type_, "Custom", "why", 1)
    assert state.epoch == 5.0
    assert make(name=None).name == name


@each_constructor
def test_exactly_one_type_predicate_holds(make: Any, type_: str, name: str) -> None:
    state = make()
    holding = [t for t in StateType if getattr(state, f"is_{t.lower()}")()]
    assert holding == [type_]


@each_constructor
def test_final_and_done(make: Any, type_: str, name: str) -> None:
    final = type_ in {"COMPLETED", "FAILED", "CANCELLED", "CRASHED"}
    assert make().is_final() is final
    assert make().is_done() is (final or name == "NotReady")


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (Completed(), "Completed()"),
        (Failed("message"), "Failed('message')"),
        (Retrying(), "Retrying(type=RUNNING)"),
        (TimedOut("late"), "TimedOut('late', type=FAILED)"),
    ],
    ids=str,
)
def test_str(state: State[Any], text: str) -> None:
    assert str(state) == text
    assert text in repr(state)


def test_types_are_strings() -> None:
    assert StateType.COMPLETED == "COMPLETED"
    assert State("FAILED").type is StateType.FAILED
    with pytest.raises(ValueError, match="DREAMING"):
        State("DREAMING")


def test_timestamp() -> None:
    before = time.time()
    state = Running()
    assert before <= state.epoch <= time.time()
    assert state.timestamp == datetime.fromtimestamp(state.epoch, UTC)
    assert state.timestamp.tzinfo is not None


def test_scheduled_time() -> None:
    when = datetime.now(UTC) + timedelta(hours=1)
    assert Scheduled(scheduled_time=when).scheduled_time == when
    assert AwaitingRetry(scheduled_time=when.timestamp()).scheduled_time == when
    assert Scheduled().scheduled_time is None


def test_equality_and_hash() -> None:
    assert Completed(data=[1], timestamp=1) == Completed(data=[1], timestamp=2)
    assert hash(Completed(data=[1])) == hash(Completed(data=[1]))
    assert Completed(data=1) != Completed(data=2)
    assert Completed() != Failed()
    assert Failed("a") != Failed("b")
    assert Retrying() != Running()
    assert Completed() != "Completed()"


class Undecided:
    def __bool__(self) -> bool:
        raise ValueError("ambiguous")


class Array:
    def __eq__(self, other: object) -> Any:
        return Undecided()

    __hash__ = None  # type: ignore[assignment]


def test_data_that_cannot_be_compared_is_equal_to_itself_only() -> None:
    array = Array()
    assert Completed(data=array) == Completed(data=array)
    assert Completed(data=array) != Completed(data=Array())


@given(
    type_=st.sampled_from(StateType),
    name=st.none() | st.text(min_size=1),
    message=st.none() | st.text(),
    data=st.none() | st.integers() | st.lists(st.text()),
    when=st.none() | st.floats(0, 4e9),
)
def test_pickling(type_: StateType, name: str, message: str, data: object, when: float) -> None:
    state: State[Any] = State(type_, name, message, data=data, scheduled_time=when)
    for again in (pickle.loads(pickle.dumps(state)), copy.copy(state), copy.deepcopy(state)):
        assert again == state
        assert again.epoch == state.epoch
        assert again.scheduled_time == state.scheduled_time
        assert again.type is type_


# ---------------------------------------------------------------------- results


def test_result_of_a_completed_run() -> None:
    assert Completed(data=7).result() == 7
    assert Completed().result() is None
    assert Completed(data=7).exception() is None
    error = ValueError("a value that happens to be an exception")
    assert Completed(data=error).result() is error


def test_result_raises_the_run_s_own_exception() -> None:
    error = ValueError("no")
    state = Failed("no", data=error)
    with pytest.raises(ValueError, match="no") as caught:
        state.result()
    assert caught.value is error
    assert state.result(raise_on_failure=False) is error
    assert state.exception() is error


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        (Failed("why"), FailedRun),
        (Crashed("why"), CrashedRun),
        (Cancelled("why"), CancelledRun),
    ],
    ids=str,
)
def test_bad_end_without_an_exception(state: State[Any], kind: type[Exception]) -> None:
    with pytest.raises(kind, match="why"):
        state.result()
    assert type(state.result(raise_on_failure=False)) is kind
    named = get_state_exception(state, run_name="inc-3f2")
    assert "inc-3f2" in str(named)


@pytest.mark.parametrize("state", [Pending(), Running(), Scheduled(), Paused()], ids=str)
@pytest.mark.parametrize("raise_on_failure", [True, False], ids=["raise", "return"])
def test_unfinished(state: State[Any], raise_on_failure: bool) -> None:
    with pytest.raises(UnfinishedRun, match=state.name):
        state.result(raise_on_failure)
    with pytest.raises(UnfinishedRun):
        state.exception()
    assert isinstance(get_state_exception(state), UnfinishedRun)
    with pytest.raises(UnfinishedRun):
        raise_state_exception(state)


def test_not_ready_raises_what_went_wrong_upstream() -> None:
    """SPEC 5.3."""
    error = UpstreamTaskError(run_name="a-1", task_name="a", state="Failed()")
    with pytest.raises(UpstreamTaskError, match="a-1"):
        NotReady(data=error).result()
    assert NotReady(data=error).result(raise_on_failure=False) is error


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_a_task_cannot_exit_its_caller(error: BaseException) -> None:
    """SPEC 7.6."""
    with pytest.raises(CrashedRun) as caught:
        Crashed("gone", data=error).result()
    assert caught.value.cause is error


def test_raise_state_exception() -> None:
    raise_state_exception(Completed())
    with pytest.raises(KeyError):
        raise_state_exception(Failed(data=KeyError("x")))


def test_asking_again_leaves_no_cycle() -> None:
    """The frame that raised must not be held by the exception's traceback through its own local variables."""
    error = ValueError("no")
    with pytest.raises(ValueError, match="no"):
        Failed(data=error).result()
    frames = []
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_globals is vars(state):
            frames.append(traceback.tb_frame)
        traceback = traceback.tb_next
    assert frames
    assert all(error not in frame.f_locals.values() for frame in frames)


# ---------------------------------------------------------------------- values that stayed elsewhere


def test_fetched_once_when_asked() -> None:
    calls: list[int] = []

    def fetch() -> int:
        calls.append(1)
        return 7

    state: State[int] = State("COMPLETED", fetch=fetch)
    assert state.is_completed()
    assert str(state) == "Completed()"
    assert hash(state)
    assert calls == []
    assert state.result() == 7
    assert state.result() == 7
    assert state.data == 7
    assert calls == [1]


def test_fetched_once_by_many_threads() -> None:
    calls: list[int] = []
    started = threading.Barrier(5)

    def fetch() -> int:
        calls.append(1)
        return 7

    state: State[int] = State("COMPLETED", fetch=fetch)
    results: list[int] = []

    def ask() -> None:
        started.wait()
        results.append(state.result())

    threads = [threading.Thread(target=ask) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [7] * 5
    assert calls == [1]


def test_pickling_fetches() -> None:
    state: State[int] = State("COMPLETED", fetch=lambda: 7)
    assert pickle.loads(pickle.dumps(state)).result() == 7


def test_comparing_fetches_only_where_it_matters() -> None:
    def never() -> int:
        raise AssertionError("fetched")

    state: State[int] = State("COMPLETED", fetch=never)
    itself = state
    assert state == itself
    assert state != Failed()
    assert State("COMPLETED", fetch=lambda: 7) == Completed(data=7)


def test_a_fetch_that_failed_is_tried_again() -> None:
    answers: list[Any] = [TimeoutError("busy"), 7]

    def fetch() -> int:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return int(answer)

    state: State[int] = State("COMPLETED", fetch=fetch)
    with pytest.raises(TimeoutError):
        state.result(raise_on_failure=False)
    assert state.result() == 7


def test_lost_values() -> None:
    """SPEC 5.7: the run stays COMPLETED, and `result()` gets `ResultLost`."""

    def fetch() -> int:
        raise ResultLost(run_name="inc-3f2")

    state: State[int] = State("COMPLETED", fetch=fetch)
    with pytest.raises(ResultLost):
        state.result()
    assert isinstance(state.result(raise_on_failure=False), ResultLost)
    assert state.is_completed()


# ---------------------------------------------------------------------- SPEC 3.4


@pytest.mark.parametrize(
    ("given_states", "text"),
    [
        ([Completed(), Completed()], "Completed('All states completed.')"),
        ([Completed(), Failed(), Crashed()], "Failed('2/3 states failed.')"),
        ([Failed(), Cancelled(), Completed()], "Cancelled('1/3 states cancelled.')"),
        ([Completed(), NotReady()], "Failed('1/2 states did not complete.')"),
        ([Failed(), NotReady()], "Failed('1/2 states failed.')"),
    ],
    ids=["all completed", "some failed", "one cancelled", "not ready", "failed and not ready"],
)
def test_aggregate(given_states: list[State[Any]], text: str) -> None:
    state = aggregate_states(given_states)
    assert str(state) == text
    assert state.data == given_states
    assert state.is_done()


def test_aggregate_takes_any_iterable() -> None:
    assert aggregate_states(iter([Completed(data=1)])).result() == [Completed(data=1)]


def test_aggregate_raises_the_first_failure() -> None:
    first, second = ValueError("first"), ValueError("second")
    upstream = UpstreamTaskError(run_name="a-1", task_name="a", state="Failed()")
    members = [
        Completed(data=1),
        NotReady(data=upstream),
        Failed(data=first),
        Failed(data=second),
    ]
    assert get_state_exception(aggregate_states(members)) is first
    assert get_state_exception(aggregate_states(members[:2])) is upstream
    nested = aggregate_states([Completed(), aggregate_states(members)])
    with pytest.raises(ValueError, match="first"):
        nested.result()


def test_a_state_as_data() -> None:
    error = ValueError("inner")
    assert get_state_exception(Failed(data=Failed(data=error))) is error


# ---------------------------------------------------------------------- Prefect's further names


def test_states_counted() -> None:
    group = StateGroup([Completed(), Failed("a"), Crashed(), Cancelled(), Paused(), NotReady()])
    assert (group.total_count, group.fail_count, group.cancelled_count, group.paused_count) == (
        6,
        2,
        1,
        1,
    )
    assert (group.final_count, group.not_final_count) == (4, 2)
    assert group.type_counts[StateType.PENDING] == 1
    assert group.any_failed()
    assert group.any_cancelled()
    assert group.any_paused()
    assert not group.all_completed()
    assert not group.all_final()
    assert repr(StateGroup(iter([Completed(), Running()]))) == (
        "StateGroup<total=2, not_final=1, 'COMPLETED'=1, 'RUNNING'=1>"
    )
    good = StateGroup([Completed(), Completed()])
    assert good.all_completed()
    assert good.all_final()
    assert {good.any_failed(), good.any_cancelled(), good.any_paused()} == {False}


def test_a_failed_state_of_an_exception() -> None:
    error = ValueError("no")
    state = exception_to_failed_state(error)
    assert state == Failed("ValueError: no", data=error)
    assert state.result(raise_on_failure=False) is error
    named = exception_to_failed_state(error, message="loading failed: ", name="Lost", timestamp=1.0)
    assert (named.name, named.message, named.epoch) == (
        "Lost",
        "loading failed: ValueError: no",
        1.0,
    )
    try:
        raise error
    except ValueError:
        assert exception_to_failed_state() == state
    with pytest.raises(ValueError, match="no exception"):
        exception_to_failed_state()


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ValueError("no"), "unexpected"),
        (KeyboardInterrupt(), "interrupt"),
        (SystemExit(3), "exit"),
        (asyncio.CancelledError(), "cancellation"),
    ],
)
def test_a_crashed_state_of_an_exception(error: BaseException, says: str) -> None:
    state = exception_to_crashed_state(error)
    assert state.is_crashed()
    assert state.data is error
    assert says in (state.message or "")
    with pytest.raises(TypeError):
        exception_to_crashed_state("no")  # type: ignore[arg-type, unused-ignore]


def test_states_of_exceptions_can_be_awaited() -> None:
    async def awaited() -> State[Any]:
        failed: Any = exception_to_failed_state(ValueError("no"))
        state: State[Any] = await failed
        return state

    state = asyncio.run(awaited())
    assert type(state) is State
    assert str(state) == "Failed('ValueError: no')"
    crossed = pickle.loads(pickle.dumps(exception_to_crashed_state(ValueError("no"))))
    assert type(crossed) is State
    assert crossed.is_crashed()


def test_a_flow_that_returns_the_state_of_an_exception() -> None:
    @flow
    def main() -> Any:
        return exception_to_failed_state(ValueError("no"))

    @flow
    async def main_async() -> Any:
        return exception_to_failed_state(ValueError("no"))

    for given_state in (main(return_state=True), asyncio.run(main_async(return_state=True))):  # type: ignore[arg-type, unused-ignore]
        assert str(given_state) == "Failed('ValueError: no')"


def test_details_of_a_state_that_belongs_to_nobody() -> None:
    assert Completed().state_details == StateDetails()
    planned = AwaitingConcurrencySlot("in line", scheduled_time=1.0)
    assert (planned.type, planned.name) == (StateType.SCHEDULED, "AwaitingConcurrencySlot")
    assert planned.state_details.scheduled_time == planned.scheduled_time
    assert planned.state_details.cache_key is None


def test_details_survive_pickling() -> None:
    @flow
    def main() -> int:
        return 1

    state = main(return_state=True)
    crossed = pickle.loads(pickle.dumps(state))
    assert crossed == state
    assert crossed.state_details == state.state_details
    assert copy.copy(state).state_details.flow_run_id is not None
