"""Tasks by themselves: options, signatures, methods, direct calls, generators (SPEC 2). On runners: the suite."""

from __future__ import annotations

import ast
import functools
import inspect
import pickle
import re
import threading
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import anyio
import cloudpickle
import pytest
from shoal import Flow, Task, flow, get_run_logger, runtime, task
from shoal.cache_policies import INPUTS
from shoal.exceptions import (
    CancelledRun,
    InvalidOption,
    MissingContextError,
    ParameterBindError,
    ReservedArgumentError,
    UpstreamTaskError,
)
from shoal.states import Cancelled, Completed, Crashed, Failed, Pending
from shoal.task_runners import ThreadPoolTaskRunner
from shoal.tasks import exponential_backoff
from shoal.testing.base import LOOPS
from shoal.testing.samples import Account, BoomError, add, boom, inc, note
from shoal.testing.tools import Signals

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


def plain_function(number: int, *more: int, scale: int = 1) -> int:
    """Doubles.

    At length.
    """
    return (number + sum(more)) * 2 * scale


def a_hook(a_task: Any, run: Any, state: Any) -> None: ...


@pytest.mark.parametrize("kind", [Task, Flow])
def test_type_checkers_are_told_of_every_option(
    kind: type[Task[..., Any] | Flow[..., Any]],
) -> None:
    module = ast.parse(inspect.getsource(inspect.getmodule(kind)))  # type: ignore[arg-type]
    told = next(
        node
        for node in ast.walk(module)
        if isinstance(node, ast.ClassDef) and node.name == f"{kind.__name__}Options"
    )
    fields = [ast.unparse(field.target) for field in told.body if isinstance(field, ast.AnnAssign)]
    assert fields == list(kind.OPTIONS)


# ---------------------------------------------------------------------- SPEC 2.1: the decorator


def test_a_task_knows_its_function() -> None:
    bare = task(plain_function)
    assert isinstance(bare, Task)
    assert bare.name == bare.__name__ == "plain_function"
    assert bare.__doc__ == plain_function.__doc__
    assert (bare.__module__, bare.__wrapped__) == (__name__, plain_function)
    assert bare.description == "Doubles.\n\nAt length."
    assert inspect.signature(bare) == inspect.signature(plain_function)
    assert bare(1, 2, scale=2) == 12
    named = task(name="Named", description="says so", version="2", tags=["a", "a"])(plain_function)
    assert (named.name, named.description, named.version) == ("Named", "says so", "2")
    assert named.tags == {"a"}
    assert "plain_function" in repr(bare)


def test_names_of_odd_callables() -> None:
    class Doubler:
        def __call__(self, x: int) -> int:
            return x * 2

    assert task(lambda: 1).name == "<lambda>"
    assert task(functools.partial(plain_function, 1)).name == "plain_function"
    assert task(Doubler()).name == "Doubler"
    assert task(len).name == "len"
    assert (task(Doubler())(2), task(len)("abc"), task(int)("7")) == (4, 3, 7)


GOOD_OPTIONS: dict[str, Any] = {
    "name": "x",
    "description": "y",
    "tags": {"a", "b"},
    "version": "1",
    "task_run_name": "{number}",
    "retries": 3,
    "retry_delay_seconds": [1.0, 2.0],
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": a_hook,
    "crash_retries": 2,
    "timeout_seconds": 7.0,
    "max_concurrency": 2,
    "log_prints": True,
    "on_running": [a_hook],
    "on_completion": [a_hook],
    "on_failure": [a_hook],
    "on_commit": [a_hook],
    "on_rollback": [a_hook],
    "resources": {"GPU": 1},
    "batch": False,
    "viz_return_value": [1],
    "persist_result": True,
    "result_storage": "results",
    "result_serializer": "json",
    "result_storage_key": "{parameters[number]}",
    "cache_policy": INPUTS,
    "cache_key_fn": a_hook,
    "cache_expiration": 5,
    "refresh_cache": True,
    "cache_result_in_memory": True,
}


def test_every_option_is_kept_and_can_be_cleared() -> None:  # SPEC 2.4
    full = task(**GOOD_OPTIONS)(plain_function)
    bare = task(plain_function)
    assert full.options() == GOOD_OPTIONS
    assert full.with_options().options() == GOOD_OPTIONS
    for option in GOOD_OPTIONS:
        changed = full.with_options(**{option: None})
        assert changed.options() == {**GOOD_OPTIONS, option: bare.options()[option]}, option
        assert full.options() == GOOD_OPTIONS
    assert set(GOOD_OPTIONS) == set(Task.OPTIONS)


def test_copies_share_nothing_that_changes() -> None:  # SPEC 2.4
    hooks: list[Any] = [a_hook]
    resources = {"GPU": 1}
    first = task(on_failure=hooks, resources=resources, tags=["a"])(plain_function)
    second = first.with_options(name="second")
    second.on_failure(a_hook)
    second.resources["GPU"] = 5
    hooks.append(a_hook)
    resources["GPU"] = 9
    assert (len(first.on_failure_hooks), len(second.on_failure_hooks)) == (1, 2)
    assert (first.resources, first.tags) == ({"GPU": 1}, {"a"})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("retries", -1),
        ("retries", 1.5),
        ("retries", "3"),
        ("retries", True),
        ("crash_retries", -1),
        ("retry_delay_seconds", -1),
        ("retry_delay_seconds", "soon"),
        ("retry_delay_seconds", [1, -1]),
        ("retry_delay_seconds", float("nan")),
        ("retry_jitter_factor", -0.5),
        ("retry_condition_fn", 3),
        ("timeout_seconds", 0),
        ("max_concurrency", 0),
        ("max_concurrency", -1),
        ("max_concurrency", True),
        ("max_concurrency", 2.0),
        ("max_concurrency", "4"),
        ("tags", "one-string"),
        ("tags", [1]),
        ("task_run_name", 5),
        ("on_running", a_hook),
        ("on_completion", [None]),
        ("on_failure", "hook"),
        ("batch", 0),
        ("batch", "yes"),
        ("name", 5),
        ("log_prints", "yes"),
        ("resources", ["GPU"]),
        ("resources", {"GPU": "one"}),
        ("colour", "red"),
        ("asset_deps", None),
        ("persist_result", "yes"),
        ("result_storage", 5),
        ("result_serializer", "xml"),
        ("result_storage_key", 5),
        ("cache_policy", "inputs"),
        ("cache_key_fn", "key"),
        ("cache_expiration", -1),
        ("cache_expiration", "1h"),
        ("refresh_cache", 1),
        ("cache_result_in_memory", "no"),
    ],
)
def test_bad_options(option: str, value: Any) -> None:
    for make in (task(plain_function).with_options, lambda **o: task(**o)(plain_function)):
        with pytest.raises(InvalidOption, match=option) as caught:
            make(**{option: value})  # type: ignore[operator, unused-ignore]
        assert caught.value.option == option
        assert isinstance(caught.value, (ValueError, TypeError))


@pytest.mark.parametrize(
    ("option", "meant"),
    [("retrys", "retries"), ("timeout", "timeout_seconds"), ("on_complete", "on_completion")],
)
def test_a_misspelt_option_is_named_with_its_task(option: str, meant: str) -> None:
    message = f"task 'plain_function': there is no option {option!r}; did you mean '{meant}'"
    for make in (task(plain_function).with_options, lambda **o: task(**o)(plain_function)):
        with pytest.raises(InvalidOption, match=re.escape(message)):
            make(**{option: 1})  # type: ignore[operator, unused-ignore]


def test_what_cannot_be_a_task() -> None:
    with pytest.raises(InvalidOption, match="function"):
        task(5)  # type: ignore[call-overload]
    with pytest.raises(InvalidOption, match="already"):
        task(inc)

    def waits(wait_for: Any) -> None: ...

    def returns(x: Any, *, return_state: Any = None) -> None: ...

    for function, argument in ((waits, "wait_for"), (returns, "return_state")):  # SPEC 2.6
        with pytest.raises(ReservedArgumentError, match=argument) as caught:
            task(function)
        assert (caught.value.task_name, caught.value.argument) == (function.__name__, argument)
        assert isinstance(caught.value, TypeError)


def test_hooks_by_decorator() -> None:
    hooked = task(plain_function)
    assert hooked.on_running(a_hook) is a_hook
    hooked.on_completion(a_hook)
    hooked.on_failure(a_hook)
    for hooks in (hooked.on_running_hooks, hooked.on_completion_hooks, hooked.on_failure_hooks):
        assert hooks == [a_hook]
    with pytest.raises(InvalidOption, match="function"):
        hooked.on_failure(5)  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match=r"flow 'plain-function'.*function"):
        flow(plain_function).on_crashed(5)  # type: ignore[type-var]


def test_tasks_can_be_pickled() -> None:
    shift = 5

    @task(name="Shift", retries=2, tags=["a"], on_failure=[a_hook])
    def shifted(x: int) -> int:
        return x + shift

    again = pickle.loads(cloudpickle.dumps(shifted))
    assert again(1) == 6
    assert (again.name, again.retries, again.tags) == ("Shift", 2, {"a"})
    method = pickle.loads(cloudpickle.dumps(Account("ann").deposit))
    assert method(3) == "ann +3"


def test_retry_delays() -> None:  # SPEC 7.1
    def delays(value: Any, jitter: float | None = None) -> list[float]:
        a_task = task(retry_delay_seconds=value, retry_jitter_factor=jitter)(plain_function)
        return [a_task.retry_delay(attempt) for attempt in (1, 2, 3, 4)]

    assert delays(None) == [0, 0, 0, 0]
    assert delays(2) == [2, 2, 2, 2]
    assert delays([1, 5]) == [1, 5, 5, 5]
    assert delays(()) == [0, 0, 0, 0]
    assert delays(lambda count: 10**count) == [10, 100, 1000, 10_000]
    assert delays(lambda count: [1, 2, 4]) == [1, 2, 4, 4]
    spread = [delay for _ in range(50) for delay in delays(10, 0.5)]
    assert all(5 <= delay <= 15 for delay in spread)
    assert max(spread) - min(spread) > 1
    assert all(delay >= 0 for _ in range(50) for delay in delays(1, 3))


# ---------------------------------------------------------------------- SPEC 2.6: binding


@pytest.mark.parametrize(
    ("args", "kwargs", "argument"),
    [
        ((), {}, "x"),
        ((1, 2, 3), {}, None),
        ((1,), {"colour": 2}, "colour"),
        ((1,), {"x": 2}, None),
    ],
    ids=["missing", "too-many", "unknown", "twice"],
)
def test_wrong_arguments(args: Any, kwargs: Any, argument: str | None) -> None:
    @flow
    def main() -> None:
        for use in (add, add.submit):
            with pytest.raises(ParameterBindError, match="add") as caught:
                use(*args, **kwargs)
            assert caught.value.task_name == "add"
            assert isinstance(caught.value, TypeError)
            if argument is not None:
                assert caught.value.argument == argument

    main()


def test_arguments_called_like_ours() -> None:
    @task
    def show(self: Any, task: Any, args: Any, parameters: Any, scope: Any) -> Any:
        return self, task, args, parameters, scope

    given: dict[str, Any] = {"self": 1, "task": 2, "args": 3, "parameters": 4, "scope": 5}

    @flow
    def main() -> None:
        assert show(**given) == show.submit(**given).result() == (1, 2, 3, 4, 5)

    main()


def test_functions_without_a_signature() -> None:
    """Some functions written in C tell nothing of their parameters."""
    with pytest.raises(ValueError, match="signature"):
        inspect.signature(max)
    largest = task(max)

    @flow
    def main() -> None:
        assert largest(2, 9, 4) == largest.submit(2, 9, 4).result() == 9
        assert largest.submit([1, -5], key=abs).result() == -5
        assert largest.map([1, 5], [3, 3]).result() == [3, 5]
        with pytest.raises(TypeError):
            largest.submit().result()

    main()


# ---------------------------------------------------------------------- SPEC 2.2: direct calls


def test_a_direct_call_at_top_level() -> None:
    @task(tags=["own"])
    def whoami(x: int) -> Any:
        run = runtime.task_run
        return run.task_name, run.parameters, run.run_count, run.tags, runtime.flow_run.id

    assert whoami(3) == ("whoami", {"x": 3}, 1, ["own"], None)
    assert runtime.task_run.id is None


def test_submitting_at_top_level() -> None:  # SPEC 2.3
    for use in (inc.submit, lambda x: inc.map([x])):
        with pytest.raises(MissingContextError, match="inc") as caught:
            use(1)
        assert isinstance(caught.value, RuntimeError)
        assert all(hint in str(caught.value) for hint in ("flow", "with ThreadPoolTaskRunner"))


def test_submitting_from_a_thread_that_knows_no_flow() -> None:
    caught: list[BaseException] = []

    def use() -> None:
        try:
            inc.submit(1)
        except MissingContextError as error:
            caught.append(error)

    @flow
    def main() -> None:
        thread = threading.Thread(target=use)
        thread.start()
        thread.join()

    main()
    assert len(caught) == 1


def test_states_of_direct_calls() -> None:
    give = task(lambda state: state, name="give")

    def state_of(made: Any) -> Any:
        return task(lambda: made, name="gives")(return_state=True)

    assert state_of(5).result() == 5
    assert str(state_of(Failed("no"))) == "Failed('no')"
    assert state_of(Cancelled()).is_cancelled()
    assert state_of(Crashed("x")).is_crashed()
    assert str(state_of([Completed(), Failed()])) == "Failed('1/2 states failed.')"
    assert not state_of(Pending()).is_completed()
    with pytest.raises(CancelledRun):
        task(Cancelled, name="gives")()
    assert give(Completed(data=3)) == 3, "a State is resolved as an argument"


def test_upstreams_of_direct_calls(tmp_path: Path) -> None:
    signals = Signals(tmp_path)

    @flow
    def main() -> None:
        assert add(inc.submit(1), [inc.submit(2)][0]) == 5
        assert inc(1, wait_for=[inc.submit(1)]) == 2
        with pytest.raises(UpstreamTaskError, match="boom"):
            note(signals, "log", [boom.submit()])
        state = note(signals, "log", boom.submit(), return_state=True)
        assert state.name == "NotReady"
        with pytest.raises(UpstreamTaskError, match="boom"):
            state.result()

    main()
    assert signals.lines("log") == []


def test_a_direct_call_gives_the_very_object() -> None:
    thing, box = object(), [object()]
    same = task(lambda x: x, name="same")
    assert same(thing) is thing
    assert same(box) is box


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_exceptions_that_end_programs_pass_through_direct_calls(
    error: type[BaseException],
) -> None:
    def ends() -> None:
        raise error

    with pytest.raises(error):
        task(ends)()


def test_an_exception_of_a_direct_call_is_the_functions_own() -> None:
    with pytest.raises(BoomError, match="mine") as caught:
        boom("mine", code=9)
    assert caught.value.code == 9
    assert caught.traceback[-1].name == "boom"


@pytest.mark.parametrize("loop", LOOPS)
def test_direct_calls_of_async_tasks(loop: str) -> None:
    tries: list[int] = []

    @task(retries=2, retry_delay_seconds=0.01)
    async def fails_once(x: int) -> Any:
        tries.append(runtime.task_run.run_count)
        await anyio.sleep(0.001)
        if len(tries) == 1:
            raise BoomError("once")
        return x, runtime.task_run.parameters

    async def main() -> None:
        coroutine = fails_once(5)
        assert inspect.iscoroutine(coroutine)
        assert tries == []
        assert await coroutine == (5, {"x": 5})

    anyio.run(main, backend=loop)
    assert tries == [1, 2]


def test_direct_calls_of_async_tasks_side_by_side() -> None:
    @task
    async def look(x: int) -> Any:
        before = runtime.task_run.id
        await anyio.sleep(0.01)
        return before == runtime.task_run.id, runtime.task_run.parameters["x"] == x

    async def main() -> None:
        async def one(x: int) -> None:
            assert await look(x) == (True, True)

        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(one, number)
        assert runtime.task_run.id is None

    anyio.run(main)


def test_cancelling_a_direct_call_of_an_async_task() -> None:
    ended: list[str] = []

    @task(retries=5)
    async def sleeps() -> None:
        try:
            await anyio.sleep(60)
        finally:
            ended.append("stopped")

    async def main() -> None:
        with anyio.move_on_after(0.02) as scope:
            await sleeps()
        assert scope.cancelled_caught

    anyio.run(main)
    assert ended == ["stopped"]


# ---------------------------------------------------------------------- SPEC 7.1: delays that double


def test_exponential_backoff() -> None:
    delays = exponential_backoff(backoff_factor=2)
    assert delays(4) == [2, 4, 8, 16]
    assert pickle.loads(pickle.dumps(delays))(2) == [2, 4]
    assert len(delays(100)) == 50

    slow = task(name="slow", retries=3, retry_delay_seconds=exponential_backoff(10))(print)
    assert [slow.retry_delay(attempt) for attempt in (1, 2, 3, 60)] == [10, 20, 40, 10 * 2**49]
    jittered = slow.with_options(retry_jitter_factor=0.5)
    assert 10 <= jittered.retry_delay(2) <= 30
    for bad in (-1, "2", True, float("inf"), None):
        with pytest.raises(InvalidOption, match="backoff_factor"):
            exponential_backoff(bad)  # type: ignore[arg-type, unused-ignore]


# ---------------------------------------------------------------------- SPEC 2.5: methods, generators


def test_methods_and_their_instances() -> None:
    ann, bob = Account("ann"), Account("bob")
    assert (ann.deposit(1), bob.deposit(2)) == ("ann +1", "bob +2")
    assert isinstance(ann.deposit, Task)
    assert Account.deposit(ann, 5) == "ann +5"
    assert ann.deposit.with_options(retries=4).retries == 4
    assert Account.deposit.retries == 0
    with pytest.raises(ParameterBindError, match="deposit"):
        ann.deposit()
    assert (Account.where("rome"), ann.where("rome"), Account.double(2), ann.double(2)) == (
        "piggy of rome",
        "piggy of rome",
        4,
        4,
    )


def test_async_and_generator_methods() -> None:
    class Box:
        def __init__(self, content: list[int]) -> None:
            self.content = content

        @task
        async def total(self) -> int:
            return sum(self.content)

        @task
        def each(self) -> Iterator[int]:
            yield from self.content

    @flow
    def main() -> None:
        one, two = Box([1, 2]), Box([3])
        assert [box.total.submit().result() for box in (one, two)] == [3, 3]
        assert [list(box.each()) for box in (one, two)] == [[1, 2], [3]]
        assert two.each.submit().result() == [3]

    main()


def test_a_generator_streams() -> None:
    log: list[str] = []

    @task(on_completion=[lambda a_task, run, state: log.append(state.name)])
    def count(upto: int) -> Iterator[int]:
        try:
            for number in range(upto):
                log.append(f"made {number} in {runtime.task_run.task_name}")
                yield number
        finally:
            log.append("closed")

    assert list(count(1)) == [0]
    assert log == ["made 0 in count", "closed", "Completed"]
    log.clear()
    stream = count(3)
    assert log == [], "nothing happens before the first item is asked for"
    assert next(stream) == 0
    stream.close()
    assert log == ["made 0 in count", "closed"]
    assert runtime.task_run.id is None


def test_a_generator_that_fails() -> None:
    failures: list[str] = []

    @task(on_failure=[lambda a_task, run, state: failures.append(str(state.exception()))])
    def breaks() -> Iterator[int]:
        yield 1
        raise BoomError("on the way")

    stream = breaks()
    assert next(stream) == 1
    with pytest.raises(BoomError, match="on the way"):
        next(stream)
    assert failures == ["on the way"]
    assert breaks(return_state=True).is_failed()

    @flow
    def main() -> None:
        with pytest.raises(BoomError):
            breaks.submit().result()

    main()


def test_a_generator_that_takes_futures() -> None:
    @task
    def count(upto: Any) -> Iterator[int]:
        yield from range(upto)

    @flow
    def main() -> None:
        assert list(count(inc.submit(1))) == [0, 1]
        with pytest.raises(UpstreamTaskError):
            list(count(boom.submit()))

    main()


@pytest.mark.parametrize("loop", LOOPS)
def test_an_async_generator_streams(loop: str) -> None:
    @task
    async def count(upto: int) -> AsyncIterator[Any]:
        for number in range(upto):
            await anyio.sleep(0.001)
            yield number, runtime.task_run.task_name

    async def main() -> None:
        async with aclosing(count(2)) as stream:  # type: ignore[type-var]
            assert [item async for item in stream] == [(0, "count"), (1, "count")]
        assert runtime.task_run.id is None
        assert (await count(2, return_state=True)).is_completed()  # type: ignore[misc, unused-ignore]

    anyio.run(main, backend=loop)


# ---------------------------------------------------------------------- SPEC 2.7, 8.4, 1.5


def test_resources_that_a_runner_does_not_know(caplog: pytest.LogCaptureFixture) -> None:
    """It says so once per task, and runs it."""

    @task(resources={"GPU": 1, "num_cpus": 2})
    def train(x: int) -> int:
        return x

    @flow(task_runner=ThreadPoolTaskRunner(1))
    def main() -> None:
        assert [train.submit(number).result() for number in range(5)] == list(range(5))
        assert train.map([1, 2]).result() == [1, 2]

    main()
    said = [record for record in caplog.records if "GPU" in record.getMessage()]
    assert len(said) == 1
    assert "train" in said[0].getMessage()


def test_the_run_logger_of_direct_calls(caplog: pytest.LogCaptureFixture) -> None:
    @task
    def talk() -> Any:
        get_run_logger().warning("hello")
        return runtime.task_run.name, runtime.task_run.id

    name, run_id = talk()
    record = next(record for record in caplog.records if record.getMessage() == "hello")
    assert (record.run_name, record.run_id) == (name, run_id)  # type: ignore[attr-defined]
    with pytest.raises(MissingContextError, match="get_run_logger"):
        get_run_logger()


def test_a_coroutine_that_is_not_awaited_is_named_after_the_function() -> None:
    async def sends(number: int) -> int:
        return number

    class Post:
        @task
        async def sends(self) -> None: ...

        @flow
        async def sends_all(self) -> None: ...

    for coroutine in (
        task(sends)(1),
        task(sends)(1, return_state=True),
        task(functools.partial(sends, 1))(),
        flow(sends)(1),
        Post().sends(),
        Post().sends_all(),
    ):
        assert coroutine.__name__.startswith("sends")
        assert coroutine.__qualname__.endswith(coroutine.__name__)
        coroutine.close()
