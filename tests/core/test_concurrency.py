"""`shoal.concurrency` in any code: plain, on event loops, in flows (SPEC 10.3)."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import shoal.concurrency
from shoal import flow, task
from shoal.concurrency import asyncio as limiting_async
from shoal.concurrency import sync as limiting
from shoal.exceptions import (
    AcquireConcurrencySlotTimeoutError,
    BlockingWaitInLoop,
    ConcurrencyLimitError,
    ConcurrencySlotAcquisitionError,
    FlowRunTimeout,
    InvalidOption,
)
from shoal.limits import ConcurrencyLimits, GlobalConcurrencyLimitCreate
from shoal.limits.acquiring import in_event_loop
from shoal.scheduling import dispatcher
from shoal.testing.section_10_concurrency import held_elsewhere, holders, waiters
from shoal.testing.section_10_limits import limits_of_a_test
from shoal.testing.tools import PATIENCE, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

on_any_loop = pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])


@pytest.fixture
def limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ConcurrencyLimits:
    limits = limits_of_a_test(tmp_path, monkeypatch)
    for name, slots in (("one", 1), ("two", 2), ("three", 3)):
        limits.upsert_global_concurrency_limit_by_name(name, slots)
    return limits


def slots(name: str) -> float:
    """How many slots of a limit are taken."""
    return ConcurrencyLimits().read_global_concurrency_limit_by_name(name).active_slots


def free(*names: str) -> None:
    """Waits until nothing is taken: slots are given back behind the code's back."""
    for name in names:
        eventually(lambda name=name: not slots(name), f"all slots of {name} are free")


def somebody_waits(name: str) -> None:
    """Waits until somebody stands in line."""
    eventually(lambda: waiters(name), f"somebody waits for {name}")


def nobody_waits(name: str) -> None:
    """Waits until nobody stands in line."""
    eventually(lambda: not waiters(name), f"nobody waits for {name}")


# ---------------------------------------------------------------------- blocks of code


@pytest.mark.usefixtures("limits")
def test_a_block_holds_slots_of_all_its_limits() -> None:
    with limiting.concurrency(["two", "three", "two"], occupy=2):
        assert (slots("two"), slots("three")) == (2, 2)
    free("two", "three")
    with pytest.raises(KeyError), limiting.concurrency("two"):
        raise KeyError
    free("two")


@pytest.mark.usefixtures("limits")
def test_all_or_none() -> None:
    with held_elsewhere("one"):
        with (
            pytest.raises(AcquireConcurrencySlotTimeoutError) as caught,
            limiting.concurrency(["one", "two"], timeout_seconds=0.01),
        ):
            pass
        assert slots("two") == 0
    assert caught.value.names == ("one", "two")
    assert caught.value.timeout_seconds == 0.01
    assert isinstance(caught.value, TimeoutError)


@on_any_loop
@pytest.mark.anyio
@pytest.mark.usefixtures("limits")
async def test_a_coroutine_that_waits_blocks_no_loop() -> None:
    order: list[str] = []

    async def second() -> None:
        async with limiting_async.concurrency("one"):
            order.append("second holds")

    async with anyio.create_task_group() as group, limiting_async.concurrency("one"):
        group.start_soon(second)
        await anyio.to_thread.run_sync(somebody_waits, "one")
        order.append("first leaves")
    assert order == ["first leaves", "second holds"]
    with pytest.raises(AcquireConcurrencySlotTimeoutError):
        await _late()


async def _late() -> None:
    with held_elsewhere("one"):
        async with limiting_async.concurrency("one", timeout_seconds=0.01):
            pass


@on_any_loop
@pytest.mark.anyio
@pytest.mark.usefixtures("limits")
async def test_a_coroutine_that_is_cancelled_holds_nothing() -> None:
    with held_elsewhere("one"):
        async with anyio.create_task_group() as group:
            group.start_soon(_enter, "one")
            await anyio.to_thread.run_sync(somebody_waits, "one")
            group.cancel_scope.cancel()
        await anyio.to_thread.run_sync(nobody_waits, "one")
    with anyio.move_on_after(0.05):
        async with limiting_async.concurrency("one"):
            await anyio.sleep_forever()
    await anyio.to_thread.run_sync(free, "one")


async def _enter(name: str) -> None:
    async with limiting_async.concurrency(name):
        raise AssertionError("the slot was held")


def test_blank_names_and_rates_are_told_in_the_callers_words() -> None:
    with pytest.raises(InvalidOption, match="per_minute=0 in a call of rate_limit"):
        limiting.rate_limit("api", per_minute=0)
    for name in ("", " ", ["one", "\t"]):
        with pytest.raises(InvalidOption, match="in a call of concurrency"):
            limiting.concurrency(name)
    with pytest.raises(ConcurrencyLimitError, match="blank"):
        ConcurrencyLimits().create_concurrency_limit(" ", 1)


def test_a_decorator_refuses_what_it_would_not_guard() -> None:
    def items() -> Iterator[int]:
        yield 1

    async def items_async() -> AsyncIterator[int]:
        yield 1

    async def waiting() -> None:
        pass

    for world in (limiting, limiting_async, shoal.concurrency):
        for function in (items, items_async):
            with pytest.raises(InvalidOption, match="before its code begins: write `with`"):
                world.concurrency("two")(function)
    with pytest.raises(InvalidOption, match="asyncio"):
        limiting.concurrency("two")(waiting)


@pytest.mark.usefixtures("limits")
def test_decorators() -> None:
    @limiting.concurrency("two")
    def blocking(add: int) -> float:
        """What it does."""
        return slots("two") + add

    @limiting_async.concurrency("two")
    async def waiting(add: int) -> float:
        return slots("two") + add

    @shoal.concurrency.concurrency("two")
    def either(depth: int) -> float:
        return slots("two") if depth == 0 else either(depth - 1)

    @shoal.concurrency.concurrency("two")
    async def either_waiting() -> float:
        return slots("two")

    assert blocking(1) == 2
    assert (blocking.__name__, blocking.__doc__) == ("blocking", "What it does.")
    assert asyncio.run(waiting(1)) == 2
    assert either(1) == 2
    assert asyncio.run(either_waiting()) == 1
    free("two")


@pytest.mark.usefixtures("limits")
def test_what_holds_slots_and_is_dropped_gives_them_back() -> None:
    def stream() -> Iterator[int]:
        with limiting.concurrency("one"):
            yield 1

    items = stream()
    next(items)
    assert slots("one") == 1
    del items
    gc.collect()
    free("one")
    block = limiting.concurrency("one")
    block.__enter__()
    assert slots("one") == 1
    del block
    gc.collect()
    free("one")


# ---------------------------------------------------------------------- one name for both


@pytest.mark.usefixtures("limits")
def test_one_name_for_code_that_blocks_and_for_coroutines() -> None:
    with shoal.concurrency.concurrency("one"):
        assert slots("one") == 1
    shoal.concurrency.rate_limit("pace", per_minute=60_000)

    async def main() -> None:
        async with shoal.concurrency.concurrency("one"):
            assert slots("one") == 1
        await shoal.concurrency.rate_limit("pace", per_minute=60_000)
        with pytest.raises(BlockingWaitInLoop, match="async with"):
            shoal.concurrency.concurrency("one").__enter__()

    asyncio.run(main())
    free("one")


@pytest.mark.usefixtures("limits")
def test_the_loop_of_async_tasks_is_not_blocked() -> None:
    @task
    async def careless(which: str) -> None:
        if which == "concurrency":
            with limiting.concurrency("one"):
                pass
        else:
            limiting.rate_limit("one")

    @flow
    def main() -> list[Any]:
        runs = [careless.submit("concurrency"), careless.submit("rate")]
        return [run.result(PATIENCE, False) for run in runs]

    for error in main():
        assert isinstance(error, BlockingWaitInLoop)
        assert error.limits == ("one",)


# ---------------------------------------------------------------------- within itself


@pytest.mark.usefixtures("limits")
def test_a_block_within_a_block() -> None:
    with limiting.concurrency("three"):
        with limiting.concurrency("three", occupy=2):
            assert slots("three") == 3
            with (
                pytest.raises(ConcurrencySlotAcquisitionError, match="wait for itself") as caught,
                limiting.concurrency(["two", "three"]),
            ):
                pass
            assert caught.value.names == ("two", "three")
            assert slots("two") == 0
        eventually(lambda: slots("three") == 1, "two are given back")
    free("three")


@pytest.mark.usefixtures("limits")
def test_a_block_within_a_block_passes_who_waits_for_what_it_holds() -> None:
    """Somebody who wants all of it stands in line before, and would wait for the outer block."""
    got = threading.Event()

    def want_all() -> None:
        with limiting.concurrency("three", occupy=3):
            got.set()

    thread = threading.Thread(target=want_all)
    with limiting.concurrency("three"):
        thread.start()
        somebody_waits("three")
        with limiting.concurrency("three", timeout_seconds=PATIENCE):
            assert not got.is_set()
    assert got.wait(PATIENCE)
    thread.join(PATIENCE)
    free("three")


@pytest.mark.usefixtures("limits")
def test_who_runs_beside_the_holder_waits_for_it() -> None:
    """A run that is submitted inside the block is none of its own: it waits until the block is left."""

    @task
    def beside() -> str:
        with limiting.concurrency("one"):
            return "held"

    @flow
    def main() -> str:
        with limiting.concurrency("one"):
            future = beside.submit()
            somebody_waits("one")
        return future.result(PATIENCE)

    assert main() == "held"

    async def beside_async() -> str:
        async with limiting_async.concurrency("one"):
            return "held"

    async def main_async() -> str:
        async with limiting_async.concurrency("one"):
            other = asyncio.create_task(beside_async())
            await asyncio.to_thread(somebody_waits, "one")
        return await other

    assert asyncio.run(main_async()) == "held"


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_run_with_a_tag_that_calls_one_with_the_same(
    limits: ConcurrencyLimits, kind: str
) -> None:
    """SPEC 10.2: of a limit of 1 it would wait for itself."""
    limits.create_concurrency_limit("db", 1)
    limits.create_concurrency_limit("pair", 2)

    @task(tags=["db"])
    def inner() -> str:
        return "ran"

    @task(tags=["pair"])
    def roomy() -> str:
        return "ran"

    @task(tags=["db", "pair"])
    def outer() -> str:
        with pytest.raises(ConcurrencyLimitError, match="wait for itself"):
            inner()
        return roomy()

    @task(tags=["db"])
    async def inner_async() -> str:
        return "ran"

    @task(tags=["pair"])
    async def roomy_async() -> str:
        return "ran"

    @task(tags=["db", "pair"])
    async def outer_async() -> str:
        with pytest.raises(ConcurrencyLimitError, match="wait for itself"):
            await inner_async()
        return await roomy_async()

    @flow
    def main() -> str:
        return (outer if kind == "sync" else outer_async).submit().result(PATIENCE)

    assert main() == "ran"
    if kind == "sync":
        assert outer() == "ran"
    else:
        assert asyncio.run(outer_async()) == "ran"
    for tag in ("db", "pair"):
        eventually(
            lambda tag=tag: not limits.read_concurrency_limit_by_tag(tag).active_slots,
            f"all slots of {tag} are free",
        )


# ---------------------------------------------------------------------- missing limits, retries, holders


def test_a_limit_that_does_not_exist(
    limits: ConcurrencyLimits, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        with limiting.concurrency(["nowhere", "two"]):
            assert slots("two") == 1
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "'nowhere'" in warnings[0]
    assert "global-concurrency-limit create" in warnings[0]
    with (
        pytest.raises(ConcurrencySlotAcquisitionError, match="nowhere"),
        limiting.concurrency(["nowhere", "two"], strict=True),
    ):
        pass
    free("two")


def test_without_any_limit_nothing_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits_of_a_test(tmp_path, monkeypatch)
    with limiting.concurrency("nothing at all"):
        limiting.rate_limit("nothing at all")
    with (
        pytest.raises(ConcurrencySlotAcquisitionError),
        limiting.concurrency("nothing at all", strict=True),
    ):
        pass
    with limiting.concurrency([]):
        pass
    assert list(tmp_path.iterdir()) == []
    assert all(thread.name != "shoal-limits" for thread in threading.enumerate())


@pytest.mark.usefixtures("limits")
def test_max_retries() -> None:
    with held_elsewhere("one"):
        for retries in (0, 1):
            with (
                pytest.raises(ConcurrencySlotAcquisitionError, match="no free slots"),
                limiting.concurrency("one", max_retries=retries),
            ):
                pass
    with limiting.concurrency("one", max_retries=0):
        pass


@pytest.mark.parametrize(
    ("holder", "label"),
    [
        ("the press", "the press"),
        ({"type": "flow_run", "id": 7}, "flow_run 7"),
        (SimpleNamespace(type="task_run", id="a"), "task_run a"),
    ],
    ids=["text", "mapping", "object"],
)
def test_the_holder_is_shown(limits: ConcurrencyLimits, holder: object, label: str) -> None:
    with limiting.concurrency("two", occupy=2, holder=holder, lease_duration=5):
        (lease,) = limits.read_global_concurrency_limit_by_name("two").holders
    assert (lease.holder.label, lease.holder.run, lease.occupy) == (label, "", 2)
    assert lease.holder.pid == os.getpid()


def test_a_disabled_limit_limits_nothing(limits: ConcurrencyLimits) -> None:
    limits.create_global_concurrency_limit(
        GlobalConcurrencyLimitCreate("off", limit=0, active=False)
    )
    with limiting.concurrency("off", occupy=7):
        assert slots("off") == 0


def test_a_limit_of_0_is_an_error(limits: ConcurrencyLimits) -> None:
    limits.upsert_global_concurrency_limit_by_name("zero", 0)
    with pytest.raises(ConcurrencySlotAcquisitionError, match="it is 0"):
        limiting.concurrency("zero").__enter__()


BAD: list[tuple[Callable[[], object], str]] = [
    (lambda: limiting.concurrency("one", occupy=0), "occupy"),
    (lambda: limiting.concurrency("one", occupy=True), "occupy"),
    (lambda: limiting.concurrency("one", occupy=1.5), "occupy"),  # type: ignore[arg-type]
    (lambda: limiting.concurrency("one", timeout_seconds=-1), "timeout_seconds"),
    (lambda: limiting.concurrency("one", timeout_seconds=float("nan")), "timeout_seconds"),
    (lambda: limiting.concurrency("one", timeout_seconds="1"), "timeout_seconds"),  # type: ignore[arg-type]
    (lambda: limiting.concurrency("one", max_retries=-1), "max_retries"),
    (lambda: limiting.concurrency("one", lease_duration=0), "lease_duration"),
    (lambda: limiting.concurrency("one", lease_duration=float("inf")), "lease_duration"),
    (lambda: limiting.concurrency(""), "names"),
    (lambda: limiting.concurrency(7), "names"),  # type: ignore[arg-type]
    (lambda: limiting.concurrency(b"one"), "names"),  # type: ignore[arg-type]
    (lambda: limiting.concurrency({"one": 1}), "names"),
    (lambda: limiting.concurrency(["one", None]), "names"),  # type: ignore[list-item]
    (lambda: limiting.rate_limit("pace", per_minute=0), "per_minute"),
    (lambda: limiting.rate_limit("pace", per_second=1.5), "per_second"),  # type: ignore[arg-type]
    (lambda: limiting.rate_limit("pace", per_second=1, per_minute=1), "per_minute"),
    (lambda: limiting_async.concurrency("one", occupy=-1), "occupy"),
    (lambda: asyncio.run(limiting_async.rate_limit("pace", per_second=0)), "per_second"),
]


@pytest.mark.parametrize(("call", "option"), BAD, ids=[str(n) for n in range(len(BAD))])
def test_what_cannot_be_asked_for(call: Callable[[], object], option: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        call()
    assert caught.value.option == option


# ---------------------------------------------------------------------- rates


def test_a_rate_is_made_on_first_use_and_stands(
    limits: ConcurrencyLimits, caplog: pytest.LogCaptureFixture
) -> None:
    limiting.rate_limit("made", per_minute=60_000)
    limit = limits.read_global_concurrency_limit_by_name("made")
    assert limit.rate is not None
    assert (limit.rate.count, limit.rate.seconds) == (60_000, 60.0)
    assert limit.slot_decay_per_second > 0
    assert not caplog.records
    for _ in range(2):
        limiting.rate_limit("made", per_second=7)
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 1
    assert "'made'" in warnings[0]
    again = limits.read_global_concurrency_limit_by_name("made")
    assert (again.id, again.rate) == (limit.id, limit.rate)


def test_a_rate_that_is_set_by_hand(limits: ConcurrencyLimits) -> None:
    limits.create_global_concurrency_limit(
        GlobalConcurrencyLimitCreate("slow", limit=2, active_slots=2, slot_decay_per_second=0.001)
    )
    with pytest.raises(AcquireConcurrencySlotTimeoutError):
        limiting.rate_limit("slow", timeout_seconds=0.01)
    with pytest.raises(ConcurrencySlotAcquisitionError, match="decay"):
        limiting.rate_limit("two")
    with pytest.raises(ConcurrencySlotAcquisitionError, match="there is no limit"):
        limiting.rate_limit("nowhere", strict=True)
    assert holders("slow") == []


# ---------------------------------------------------------------------- what ends a wait


@pytest.mark.usefixtures("limits")
def test_a_flows_time_limit_ends_the_wait() -> None:
    @flow(timeout_seconds=0.1)
    def main() -> None:
        with limiting.concurrency("one"):
            raise AssertionError("the slot was held")

    with held_elsewhere("one"):
        began = time.monotonic()
        with pytest.raises(FlowRunTimeout):
            main()
        assert time.monotonic() - began < PATIENCE / 2
        nobody_waits("one")


@pytest.mark.may_leave("threads", reason="a thread that was given up ends when the test lets it")
@pytest.mark.usefixtures("limits")
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_who_is_given_up_holds_no_slot(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """SPEC 10.2: held until the code has stopped, or its thread was given up."""
    monkeypatch.setattr(dispatcher, "GRACE", 0.05)
    began, let = threading.Event(), threading.Event()

    def stay() -> None:
        while not let.is_set():
            with contextlib.suppress(BaseException):
                let.wait(PATIENCE)

    @task
    def stubborn() -> None:
        with limiting.concurrency("one"):
            began.set()
            stay()

    @task
    async def stubborn_async() -> None:
        async with limiting_async.concurrency("one"):
            began.set()
            while not let.is_set():
                with contextlib.suppress(BaseException):
                    await anyio.sleep(0.01)

    @task
    def follows() -> str:
        with limiting.concurrency("one"):
            return "held"

    @flow(task_runner="threads:2")
    def main() -> str:
        first = (stubborn if kind == "sync" else stubborn_async).submit()
        assert began.wait(PATIENCE)
        assert first.cancel()
        held = follows.submit().result(PATIENCE)
        assert not let.is_set()
        let.set()
        return held

    try:
        assert main() == "held"
    finally:
        let.set()


SCRIPT = """
import select, sys
from shoal.concurrency.sync import concurrency
try:
    with concurrency("one", lease_duration=1000):
        print("held", flush=True)
        if sys.argv[1] == "hold":
            while not select.select([sys.stdin], [], [], 0.01)[0]:
                pass  # an interrupt just before a long wait would be told after it
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.usefixtures("limits")
@pytest.mark.parametrize("what", ["hold", "wait"])
def test_ctrl_c(what: str) -> None:
    def run() -> None:
        program = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, what],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with program:
            assert program.stdout is not None
            if what == "hold":
                assert program.stdout.readline() == "held\n"
            else:
                somebody_waits("one")
            program.send_signal(signal.SIGINT)
            assert program.stdout.readline() == "interrupted\n"
            assert program.wait(PATIENCE) == 0

    if what == "hold":
        run()
        free("one")  # it had asked for a long lease
    else:
        with held_elsewhere("one"):
            run()
            nobody_waits("one")


@pytest.mark.usefixtures("limits")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_gives_nothing_back() -> None:
    with limiting.concurrency("one"):
        child = os.fork()
        if child == 0:
            gc.collect()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert slots("one") == 1
    free("one")


DRIVER = """
import time

from shoal import flow, task
from shoal.concurrency.sync import concurrency

@task
def hold():
    with concurrency("one", lease_duration=0.5):
        print("held", flush=True)
        time.sleep(1000)  # until it is killed

@flow(task_runner="processes:1")
def main():
    hold.submit().wait()

if __name__ == "__main__":
    main()
"""


def test_when_a_driver_is_killed_the_leases_of_its_workers_run_out(
    limits: ConcurrencyLimits, tmp_path: Path
) -> None:
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    driver = subprocess.Popen(
        [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "held\n"
        (lease,) = limits.read_global_concurrency_limit_by_name("one").holders
        assert lease.holder.pid != driver.pid, "the worker's, which the driver speaks for"
        driver.kill()
        with limiting.concurrency("one", timeout_seconds=PATIENCE):
            pass


def test_a_loop_is_seen_while_another_thread_imports_asyncio(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has a module then that has nothing in it yet."""
    for name in ("asyncio", "trio"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    assert not in_event_loop()


def test_names_are_where_prefect_has_them() -> None:
    for module in ("shoal.concurrency", "shoal.concurrency.sync", "shoal.concurrency.asyncio"):
        found = importlib.import_module(module)
        for name in found.__all__:
            assert getattr(found, name) is not None
