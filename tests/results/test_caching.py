"""Results that are kept: what of it is the same on every runner is in the suite (section 12); here is the rest."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from shoal import flow, task
from shoal.cache_policies import (
    DEFAULT,
    FLOW_PARAMETERS,
    INPUTS,
    NO_CACHE,
    TASK_SOURCE,
    CacheKeyFnPolicy,
    CachePolicy,
)
from shoal.concurrency import concurrency
from shoal.exceptions import InvalidOption, UnstableKeyError
from shoal.limits import ConcurrencyLimits
from shoal.locking.memory import MemoryLockManager
from shoal.results import caching, telling, within
from shoal.results.storage import KeyLock, Record, open_storage
from shoal.results.storage.folder import FolderStorage
from shoal.results.turns import NoTurn, Turn, Turns
from shoal.tasks import task_input_hash
from shoal.testing.section_10_limits import limits_of_a_test
from shoal.testing.tools import Signals, eventually

if TYPE_CHECKING:
    from pathlib import Path


def names_of(*runs: Any) -> list[str]:
    """The names of the states in which runs have ended."""
    for run in runs:
        run.wait()
    return [run.state.name for run in runs]


@pytest.fixture
def calls() -> list[Any]:
    """What the functions of a test note down."""
    return []


@pytest.fixture(autouse=True)
def _says_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling.ONCE, "told", set())


# ---------------------------------------------------------------------- Prefect's examples, with imports renamed


def test_prefect_default_policy_is_for_one_flow_run(calls: list[Any]) -> None:
    @task(persist_result=True)
    def my_stateful_task(x: int) -> int:
        calls.append(x)
        return x + 1

    @flow
    def my_flow() -> list[str]:
        return names_of(my_stateful_task.submit(1)) + names_of(my_stateful_task.submit(1))

    assert my_flow() == ["Completed", "Cached"]
    assert my_flow() == ["Completed", "Cached"]
    assert calls == [1, 1]


def test_prefect_inputs_without_some(calls: list[Any]) -> None:
    my_custom_policy = TASK_SOURCE + DEFAULT - "debug" - "run"
    assert isinstance(my_custom_policy, CachePolicy)

    @task(cache_policy=INPUTS - "debug")
    def my_cached_task(x: int, debug: bool = False) -> str:
        calls.append("running")
        return f"x: {x}"

    assert my_cached_task(42) == my_cached_task(42, debug=True) == "x: 42"
    assert calls == ["running"]


def test_prefect_cache_key_fn(calls: list[Any]) -> None:
    def static_cache_key(context: Any, parameters: dict[str, Any]) -> str:
        return "static cache key"

    @task(cache_key_fn=static_cache_key)
    def my_cached_task() -> int:
        calls.append(1)
        return 42

    @task(cache_key_fn=static_cache_key)
    def another_task() -> int:
        calls.append(2)
        return 43

    @flow
    def my_flow() -> tuple[int, int]:
        return my_cached_task(), another_task()

    assert my_flow() == (42, 42)
    assert calls == [1]


def test_prefect_task_input_hash_and_expiration(
    calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    @task(cache_key_fn=task_input_hash, cache_expiration=timedelta(minutes=1))
    def hello_task(name_input: str) -> str:
        calls.append(name_input)
        return "hello " + name_input

    @flow
    def hello_flow(name_input: str) -> str:
        return hello_task(name_input)

    assert hello_flow("you") == hello_flow("you") == "hello you"
    assert hello_flow("me") == "hello me"
    assert calls == ["you", "me"]
    later = time.time() + 61
    monkeypatch.setattr(time, "time", lambda: later)
    assert hello_task("you") == "hello you"
    assert calls == ["you", "me", "you"]


def test_prefect_refresh_cache(calls: list[Any]) -> None:
    @task(cache_policy=INPUTS)
    def caching_task(x: int) -> int:
        calls.append(x)
        return len(calls)

    refreshing_task = caching_task.with_options(refresh_cache=True)
    assert [caching_task(1), caching_task(1), refreshing_task(1), caching_task(1)] == [1, 1, 2, 2]


def test_prefect_result_storage_key(calls: list[Any]) -> None:
    @task(result_storage_key="hello-{parameters[name]}.pickle")
    def hello_world(name: str = "world") -> str:
        calls.append(name)
        return f"hello {name}"

    assert hello_world(name="foo") == hello_world("foo") == "hello foo"
    assert calls == ["foo"]
    assert [entry.record.key for entry in open_storage().list()] == ["hello-foo.pickle"]


def test_prefect_policy_of_ones_own(calls: list[Any]) -> None:
    class FirstArgument(CachePolicy):
        def compute_key(
            self, task_ctx: Any, inputs: Any, flow_parameters: Any, **kwargs: Any
        ) -> str | None:
            if inputs.get("skip"):
                return None
            return f"{task_ctx.task.name}-{inputs['x']}-{flow_parameters['day']}"

    @task(cache_policy=FirstArgument())
    def work(x: int, skip: bool = False) -> int:
        calls.append(x)
        return x

    @flow
    def main(day: int) -> list[str]:
        return [
            work(x, skip=skip, return_state=True).name
            for x, skip in ((1, False), (1, False), (1, True))
        ]

    assert main(1) == ["Completed", "Cached", "Completed"]
    assert main(2) == ["Completed", "Cached", "Completed"]


# ---------------------------------------------------------------------- keys


def test_what_has_no_stable_key_fails_the_run_at_once(calls: list[Any]) -> None:
    @task(cache_policy=INPUTS, retries=2, retry_delay_seconds=60)
    def work(lock: Any, x: int) -> int:
        calls.append(x)
        return x

    with pytest.raises(UnstableKeyError, match=r"parameters\['lock'\].*INPUTS - 'lock'"):
        work(threading.Lock(), 1)
    kept = work.with_options(cache_policy=INPUTS - "lock")
    assert [kept(threading.Lock(), 1), kept(threading.Lock(), 1)] == [1, 1]
    assert calls == [1]


def test_the_key_is_of_the_arguments_before_they_are_changed(calls: list[Any]) -> None:
    @task(cache_policy=INPUTS)
    def work(items: list[int]) -> list[int]:
        calls.append(1)
        items.append(4)
        return items

    assert work([1, 2, 3]) == work([1, 2, 3]) == [1, 2, 3, 4]
    found = work([1, 2, 3])
    found.append(5)
    assert work([1, 2, 3]) == [1, 2, 3, 4], "each has a copy of its own"
    assert calls == [1]


def test_what_is_known_of_a_result() -> None:
    @task(cache_policy=INPUTS, cache_expiration=60)
    def work(x: int) -> int:
        return x

    @flow(name="around")
    def main() -> None:
        work(1)

    main()
    (entry,) = open_storage().list()
    record = open_storage().read(entry.record.key)
    assert record is not None
    assert record.task_name == "work"
    assert record.run_name.startswith("work-")
    assert record.flow_run_name
    assert record.expires is not None
    assert record.expires - record.created == pytest.approx(60)
    assert "argument 'x'" in record.parts


def test_a_policy_says_where_and_with_what_lock(tmp_path: Path, calls: list[Any]) -> None:
    class Noted(MemoryLockManager):
        def acquire_lock(self, key: str, *args: Any, **kwargs: Any) -> bool:
            calls.append(key)
            return super().acquire_lock(key, *args, **kwargs)

    policy = INPUTS.configure(key_storage=tmp_path / "keys", lock_manager=Noted())

    @task(cache_policy=policy)
    def work(x: int) -> int:
        return x

    assert [work(1), work(1)] == [1, 1]
    assert len(calls) == 1
    assert len(open_storage(tmp_path / "keys").list()) == 1
    freely = work.with_options(cache_policy=policy.configure(isolation_level="READ_COMMITTED"))
    assert freely(2) == 2
    assert len(calls) == 1


def test_options_that_exclude_each_other(caplog: pytest.LogCaptureFixture) -> None:
    @task(cache_policy=NO_CACHE, cache_key_fn=lambda *_: "key", result_storage_key="other")
    def work() -> int:
        return 1

    assert [work(return_state=True).name for _ in range(2)] == ["Completed", "Cached"]
    assert "cache_key_fn makes the keys, and cache_policy is not used" in caplog.text
    assert "cache_key_fn makes the keys, and result_storage_key is not used" in caplog.text
    for options in (
        {"persist_result": 1},
        {"result_serializer": "xml"},
        {"result_storage": 5},
        {"result_storage": ""},
    ):
        with pytest.raises(InvalidOption):
            flow(name="x", **options)(lambda: None)  # type: ignore[call-overload]


def test_keys_that_are_none() -> None:
    for wrong in (3, ""):
        with pytest.raises(
            InvalidOption, match=f"cache_key_fn=.* it gives {wrong!r}, and a key is"
        ):
            task(cache_key_fn=lambda *_, key=wrong: key)(lambda: 1)()
    with pytest.raises(InvalidOption, match=r"result_storage_key='' .* it gives ''"):
        task(result_storage_key="")(lambda: 1)()


@pytest.mark.parametrize(
    ("policy", "way_out"),
    [
        (DEFAULT, "cache_policy=DEFAULT - 'self', or"),
        (TASK_SOURCE, "cache_policy=TASK_SOURCE - 'self', or"),
        (INPUTS + CacheKeyFnPolicy(task_input_hash), "cache_policy=INPUTS - 'self', or"),
        (FLOW_PARAMETERS, "Leave FLOW_PARAMETERS out"),
    ],
    ids=["default", "source", "own", "parameters"],
)
def test_the_way_out_of_what_has_no_key(policy: CachePolicy, way_out: str) -> None:
    class Store:
        def __init__(self) -> None:
            self.lock = threading.Lock()

        def read(self, x: int) -> int:
            return x

    @flow
    def main(store: Any) -> int:
        return task(store.read, cache_policy=policy)(1)

    with pytest.raises(UnstableKeyError, match=f"of task 'read' .* {way_out}"):
        main(Store())


@pytest.mark.parametrize(
    ("template", "problem"),
    {
        "{parameters[dya]}": r"no parameter 'dya', but 'day'. Did you mean 'day'\?",
        "{parameters.day}": r"in brackets, as in parameters\[day\]",
        "{day}": r"it names 'day', and .*; did you mean {parameters\[day\]}\?",
        "{flow_run.nome}": "no flow_run.nome: there are 'flow_name', 'id', 'name'",
        "{task_run}": "say task_run.name",
        "{": "it cannot be filled in: ValueError",
    }.items(),
)
def test_a_key_as_a_format_string_is_looked_at_when_the_task_is_made(
    template: str, problem: str
) -> None:
    with pytest.raises(InvalidOption, match=problem):
        task(result_storage_key=template)(lambda day: day)


def test_a_key_as_a_format_string_has_no_none_in_it(calls: list[Any]) -> None:
    @task(result_storage_key="{flow_run.name}/{parameters[day].year!r:>6}")
    def work(day: Any) -> None:
        calls.append(day)

    @flow
    def main() -> None:
        work(date(2024, 1, 2))
        with pytest.raises(InvalidOption, match="the flow_run has no parent_flow_run_id"):
            work.with_options(result_storage_key="{flow_run.parent_flow_run_id}")(1)

    main()
    with pytest.raises(InvalidOption, match="no flow_run around the call, so it has no name"):
        work(date(2024, 1, 2))
    assert calls == [date(2024, 1, 2)]


@pytest.mark.parametrize(
    ("variable", "value", "problem"),
    [
        ("SHOAL_RESULTS_MAX_GB", "much", "a number from 0 up"),
        ("SHOAL_RESULTS_MAX_DAYS", "-1", "a number from 0 up"),
        ("SHOAL_RESULTS_STORAGE", "nosuch://x", "Protocol not known"),
    ],
)
@pytest.mark.parametrize("runner", ["threads:1", "processes:1"])
def test_a_variable_that_cannot_be_fails_the_runs_that_need_it(
    runner: str,
    variable: str,
    value: str,
    problem: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(variable, value)

    @task(cache_policy=INPUTS)
    def work(x: int) -> int:
        return x

    elsewhere = work.with_options(result_storage=tmp_path)

    @flow(task_runner=runner)
    def main() -> None:
        with pytest.raises(
            InvalidOption, match=f"{variable}='{value}' in the environment .*{problem}"
        ):
            work.submit(1).result()
        assert names_of(elsewhere.submit(1), elsewhere.submit(1))

    main()


# ---------------------------------------------------------------------- one at a time


def test_a_coroutine_waits_without_its_loop(tmp_path: Path) -> None:
    signals = Signals(tmp_path)

    @task(cache_policy=INPUTS)
    async def slow(x: int) -> int:
        signals.append("calls", x)
        while not signals.is_set("go"):  # noqa: ASYNC110  # it is set by another coroutine, while this one waits
            await asyncio.sleep(0.002)
        return x

    async def main() -> list[Any]:
        first, second = (asyncio.ensure_future(slow(1, return_state=True)) for _ in range(2))
        await asyncio.sleep(0.05)
        signals.set("go")
        return [(await run).name for run in (first, second)]

    assert sorted(asyncio.run(main())) == ["Cached", "Completed"]
    assert signals.lines("calls") == ["1"]


def test_a_function_does_not_hold_up_a_loop(calls: list[Any]) -> None:
    @task(cache_key_fn=lambda *_: "key")
    async def outer() -> int:
        return inner()  # whoever waited here would wait for ever

    @task(cache_key_fn=lambda *_: "key")
    def inner() -> int:
        calls.append(1)
        return 1

    async def main() -> list[int]:
        return list(await asyncio.gather(outer(), outer()))

    assert asyncio.run(main()) == [1, 1]


def test_runs_that_wait_for_each_other_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(within, "A_WHILE", 0.1)
    monkeypatch.setattr(caching, "A_WHILE", 0.1)
    signals = Signals(tmp_path)

    @task(cache_policy=INPUTS - "other", batch=False)
    def work(key: str, other: str | None) -> str:
        if other is None:
            return key
        signals.meet("both have a key", 2)
        return key + work.submit(other, None).result()

    @flow(task_runner="threads:4")
    def main() -> list[str]:
        runs = [work.submit("a", "b"), work.submit("b", "a")]
        return [run.result() for run in runs]

    # Who gives up waiting a moment later finds what the other has kept meanwhile.
    assert main() in (["ab", "ba"], ["aba", "ba"], ["ab", "bab"])


@pytest.mark.parametrize("holder", ["tags", "block", "caller"])
@pytest.mark.parametrize("how", ["call", "submit", "block", "await"])
@pytest.mark.parametrize(
    "runner", ["threads:4", pytest.param("processes:4", marks=pytest.mark.slow)]
)
def test_a_key_and_a_slot_that_wait_for_each_other_go_on(
    runner: str, how: str, holder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(within, "A_WHILE", 0.1)  # in a worker process, it is as long as ever
    limits_of_a_test(tmp_path, monkeypatch).create_concurrency_limit("only", 1)
    signals = Signals(tmp_path)

    @task(tags=["only"], batch=False)
    def inside() -> str:
        return "inside"

    @task(result_storage_key="one", batch=False)
    def has_the_key() -> str:
        signals.set("has the key")
        signals.wait("has the slot")
        if how == "call":
            return inside()
        if how == "submit":
            return inside.submit().result()
        with concurrency("tag:only"):
            return "inside"

    @task(result_storage_key="one", batch=False)
    async def has_the_key_async() -> str:
        signals.set("has the key")
        await anyio.to_thread.run_sync(signals.wait, "has the slot")
        return await inside.submit()

    @task(result_storage_key="one", batch=False)
    def wants_the_key() -> str:
        return "a slot"

    @task
    def has_the_slot() -> str:
        if holder == "caller":
            return wants_the_key()
        with concurrency("tag:only"):
            return wants_the_key()

    has_tags = wants_the_key if holder == "tags" else has_the_slot
    second_task = has_the_slot if holder == "block" else has_tags.with_options(tags=["only"])

    @flow(task_runner=runner)
    def main() -> list[str]:
        first = (has_the_key_async if how == "await" else has_the_key).submit()
        signals.wait("has the key")
        second = second_task.submit()
        eventually(
            lambda: ConcurrencyLimits().read_concurrency_limit_by_tag("only").active_slots,
            "it has the slot",
        )
        signals.set("has the slot")
        return [first.result(), second.result()]

    assert main() == ["inside", "a slot"]


def test_where_there_are_limits_runs_without_tags_are_as_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits_of_a_test(tmp_path, monkeypatch).create_concurrency_limit("only", 1)

    @task(cache_policy=INPUTS)
    def kept(x: int) -> int:
        return x

    @task
    def plain(x: int) -> int:
        return kept(x)

    @flow(task_runner="threads:1")
    def main() -> int:
        return plain.submit(1).result() + kept(1)

    assert main() == 2


def test_who_holds_slots_waits_for_one_that_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lock(KeyLock):
        tries = 0
        holder_waits = False

        def try_acquire(self) -> bool:
            self.tries += 1
            return False

        def release(self) -> None: ...

    monkeypatch.setattr(within, "A_WHILE", 0.0)
    lines = Turns()
    lock = Lock()
    without, other = Turn(("", "key"), lock), Turn(("", "other"), Lock(), holds_slots=True)
    with_slots = Turn(("", "key"), lock, holds_slots=True)
    for turn in (without, with_slots, other):
        lines.ask(turn)
    eventually(lambda: lock.tries > 3, "the lock is tried")
    assert not with_slots.decision.done()
    lock.holder_waits = True
    eventually(with_slots.decision.done, "the wait of who holds slots is over")
    assert isinstance(with_slots.decision.answer, NoTurn)
    assert not without.decision.done()
    assert not other.decision.done()
    for turn in (without, other):
        lines.leave(turn)


@pytest.mark.slow
def test_a_thread_that_is_given_up_has_no_key(calls: list[Any]) -> None:
    end = threading.Event()

    @task(cache_policy=INPUTS, timeout_seconds=0.05)
    def work(x: int) -> int:
        calls.append(x)
        while len(calls) == 1 and not end.is_set():
            try:
                end.wait(0.01)
            except BaseException:  # it takes no notice
                continue
        return x

    @flow(task_runner="threads:1")
    def main() -> Any:
        try:
            return names_of(work.submit(1)) + names_of(
                work.with_options(timeout_seconds=30).submit(1)
            )
        finally:
            end.set()

    assert main() == ["TimedOut", "Completed"]


# ---------------------------------------------------------------------- what is wrong


def test_it_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")

    @task(cache_policy=INPUTS, result_storage=tmp_path / "file" / "x")
    def lost(x: int) -> int:
        return x

    @task(cache_policy=INPUTS, result_serializer="json")
    def odd(x: int) -> Any:
        return object()

    @flow
    def main() -> None:
        lost.map(range(3)).wait()
        odd.map(range(3)).wait()

    main()
    told = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(told) == 2
    assert any("are not kept:" in text and "of task 'odd'" in text for text in told)
    assert any(f"are not kept on {socket.gethostname()}:" in text for text in told)


@pytest.mark.parametrize("what", ["cut off", "class gone"])
def test_of_a_file_it_is_said_once(
    what: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("module_of_a_test")
    exec("class Made:\n    pass", vars(module))
    monkeypatch.setitem(sys.modules, module.__name__, module)

    @task(cache_policy=INPUTS, result_storage=tmp_path)
    def make() -> Any:
        return getattr(module, "Made", int)()

    make()
    if what == "class gone":
        del vars(module)["Made"]
    else:
        (file,) = tmp_path.rglob("*.result")
        file.write_bytes(file.read_bytes()[:-1])
    names = [make(return_state=True).name for _ in range(2)]
    assert names == ["Completed", "Cached"]
    (told,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "is computed again" in told


@pytest.mark.slow
def test_all_workers_together_say_it_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")

    @task(cache_policy=INPUTS, result_storage=tmp_path / "file" / "x", batch=False)
    def lost(x: int) -> int:
        Signals(tmp_path).meet("on both workers", 2)
        return x

    @flow(task_runner="processes:2")
    def main() -> Any:
        return lost.map(range(2)).result()

    assert main() == [0, 1]
    assert len([r for r in caplog.records if r.levelno == logging.WARNING]) == 1


@pytest.mark.slow
def test_flow_parameters_that_do_not_travel_make_no_key() -> None:
    @task(cache_policy=INPUTS + FLOW_PARAMETERS)
    def work(x: int) -> int:
        return x

    @flow(task_runner="processes:1")
    def main(data: str) -> tuple[Any, Any]:
        free = work.with_options(cache_policy=INPUTS)
        return work.submit(1).exception(), free.submit(1).result()

    error, value = main("x" * 100_000)
    assert isinstance(error, UnstableKeyError)
    assert error.path == "flow_parameters"
    assert value == 1
    assert main("short") == (None, 1)


@pytest.mark.parametrize("waits", [False, True])
def test_a_store_that_is_far_does_not_hold_up_a_loop(waits: bool, calls: list[Any]) -> None:
    loop_thread = threading.get_ident()

    class Far(FolderStorage):
        is_near = False

        def read(self, key: str) -> Record | None:
            calls.append(threading.get_ident() != loop_thread)
            return super().read(key)

    storage = Far(str(open_storage().place))

    @task(cache_policy=INPUTS, result_storage=storage)
    async def work(x: int) -> int:
        await asyncio.sleep(0.02)
        return x

    async def main() -> list[str]:
        if not waits:
            return [(await work(1, return_state=True)).name for _ in range(2)]
        states = await asyncio.gather(*[work(1, return_state=True) for _ in range(2)])
        return sorted((state.name for state in states), reverse=True)

    assert asyncio.run(main()) == ["Completed", "Cached"]
    assert all(calls)


# ---------------------------------------------------------------------- several processes

ASKS = """
import os, sys
from shoal import flow, task
from shoal.cache_policies import INPUTS

@task(cache_policy=INPUTS)
def work(key: int) -> int:
    with open(sys.argv[1], "a") as log:
        log.write(f"{key}\\n")
    return key

@flow(task_runner="threads:4")
def main() -> None:
    keys = list(range(200))
    assert work.map(keys).result() == keys

main()
"""


@pytest.mark.slow
def test_processes_compute_each_key_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    (tmp_path / "asks.py").write_text(ASKS)
    command = [sys.executable, str(tmp_path / "asks.py"), str(log)]
    children = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(8)]
    for child in children:
        _, errors = child.communicate(timeout=100)
        assert child.returncode == 0, errors
    computed = log.read_text().split()
    assert sorted(computed, key=int) == [str(key) for key in range(200)]


DIES = """
import sys
from shoal import task
from shoal.cache_policies import INPUTS
from shoal.testing.section_10_limits import limits_of_a_test
from shoal.testing.tools import Signals

signals = Signals(sys.argv[1])

@task(cache_policy=INPUTS)
def work(x: int) -> int:
    signals.append("calls", sys.argv[2])
    signals.set("began")
    if sys.argv[2] == "first":
        signals.wait("never")
    return x

assert work(1) == 1
"""


@pytest.mark.slow
def test_the_next_takes_over_when_the_first_is_killed(tmp_path: Path) -> None:
    signals = Signals(tmp_path)
    (tmp_path / "dies.py").write_text(DIES)
    command = [sys.executable, str(tmp_path / "dies.py"), str(tmp_path)]
    with subprocess.Popen([*command, "first"]) as first:
        signals.wait("began")
        with subprocess.Popen([*command, "second"]) as second:
            eventually(lambda: _waits(second.pid), "the second process waits")
            first.send_signal(signal.SIGKILL)
            assert second.wait(timeout=30) == 0
    assert signals.lines("calls") == ["first", "second"]


def _waits(pid: int) -> bool:
    """Whether a process has a second thread: the one that looks for keys."""
    return len(os.listdir(f"/proc/{pid}/task")) > 1


@pytest.mark.slow
def test_a_task_that_asks_for_nothing_imports_nothing() -> None:
    script = """
import sys
from shoal import flow, task

@task
def work(x: int) -> int:
    return x

@flow
def main() -> None:
    assert work.map([1, 2]).result() == [1, 2]
    assert work(1) == work.submit(1).result()

main()
print([name for name in sys.modules if name.startswith(("shoal.results", "shoal.cache_policies", "sqlite3"))])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
