"""Runs that wait for slots which are held by what waits for them, and slots whose holders need a worker (SPEC 10.2, 10.3)."""

from __future__ import annotations

import asyncio
import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from shoal import flow, task
from shoal.concurrency import asyncio as limiting_async
from shoal.concurrency import sync as limiting
from shoal.context import LOCK
from shoal.exceptions import (
    ConcurrencyLimitError,
    ConcurrencySlotAcquisitionError,
    UpstreamTaskError,
    WaitTimeout,
)
from shoal.futures.blocking import BEARERS
from shoal.limits import ConcurrencyLimits
from shoal.limits.opening import open_store
from shoal.limits.slots import KEEPER
from shoal.limits.stuck_askers import look
from shoal.scheduling.wait_graph import wanted_by
from shoal.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner
from shoal.testing.tools import PATIENCE, eventually

from tests.limits.tools import line, slots, wants

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shoal.limits.store import LimitStore
    from shoal.task_runners import TaskRunner

FOR_EVER = "held by what waits for this one in turn"


@pytest.fixture(
    params=[
        pytest.param(ThreadPoolTaskRunner, id="threads"),
        pytest.param(ProcessPoolTaskRunner, id="processes", marks=pytest.mark.slow),
    ]
)
def runner(request: pytest.FixtureRequest) -> TaskRunner:
    """With two workers."""
    made: TaskRunner = request.param(max_workers=2)
    return made


@pytest.fixture
def store() -> Iterator[LimitStore]:
    """The limits "one" and "two" of code, and those of the tags "one" and "two", have so many slots; nobody has any left."""
    with ConcurrencyLimits() as limits:
        for count, name in enumerate(("one", "two"), 1):
            limits.create_concurrency_limit(name, count)
            limits.upsert_global_concurrency_limit_by_name(name, count)
    store = open_store()
    yield store
    for name in ("one", "two", "tag:one", "tag:two"):
        eventually(lambda name=name: not (slots(store, name) or line(store, name)), name)
    store.close()


# ---------------------------------------------------------------------- what is run


@task(tags=["one"])
def tagged() -> str:
    return "ran"


@task(tags=["one"])
async def tagged_async() -> str:
    return "ran"


@task
def block() -> str:
    with limiting.concurrency("one"):
        return "ran"


@task
async def block_async() -> str:
    async with limiting_async.concurrency("one"):
        return "ran"


@task(tags=["one"])
def tag_around() -> str:
    return tagged.submit().result()


@task(tags=["one"])
async def tag_around_async() -> str:
    return await tagged_async.submit()


@task(tags=["one"])
def tag_around_map() -> list[str]:
    return waits_for.map([1, 2]).result()


@task
def waits_for(_: int) -> str:
    return tagged.submit().result()


@task
def block_around() -> str:
    with limiting.concurrency("one"):
        return block.submit().result()


@task
async def block_around_async() -> str:
    async with limiting_async.concurrency("one"):
        return await block_async.submit()


@task
def passes_on(value: str) -> str:
    return value


@task
def block_around_chain() -> str:
    with limiting.concurrency("one"):
        return passes_on.submit(passes_on.submit(block.submit())).result()


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    "around",
    [
        tag_around,
        tag_around_async,
        tag_around_map,
        block_around,
        block_around_async,
    ],
    ids=lambda around: around.name,
)
def test_a_run_whose_slot_is_held_by_who_waits_for_it(runner: TaskRunner, around: Any) -> None:
    @flow(task_runner=runner)
    def main() -> None:
        with pytest.raises((ConcurrencyLimitError, ConcurrencySlotAcquisitionError)) as caught:
            around.submit().result(PATIENCE)
        assert FOR_EVER in str(caught.value) or "wait for itself" in str(caught.value)
        assert tagged.submit().result(PATIENCE) == block.submit().result(PATIENCE) == "ran"

    main()


@pytest.mark.usefixtures("store")
def test_a_run_whose_slot_is_held_by_who_waits_for_what_needs_it(runner: TaskRunner) -> None:
    @flow(task_runner=runner)
    def main() -> str:
        with pytest.raises(UpstreamTaskError, match="block"):
            block_around_chain.submit().result(PATIENCE)
        return block.submit().result(PATIENCE)

    assert main() == "ran"


@pytest.mark.usefixtures("store")
def test_a_flow_whose_block_is_around_the_wait(runner: TaskRunner) -> None:
    """All that it waits for is refused, and the slots are there for what comes later."""

    @flow(task_runner=runner)
    def main() -> str:
        with limiting.concurrency("one"):
            runs = [block.submit() for _ in range(3)]
            for run in runs:
                with pytest.raises(ConcurrencySlotAcquisitionError, match=FOR_EVER):
                    run.result(raise_on_failure=True)
        return block.submit().result(PATIENCE)

    assert main() == "ran"

    @flow(task_runner=runner)
    async def main_async() -> str:
        async with limiting_async.concurrency("one"):
            with pytest.raises(ConcurrencySlotAcquisitionError, match=FOR_EVER):
                await block_async.submit()
        return await block_async.submit()

    assert asyncio.run(main_async()) == "ran"


@task
def both(first: str, second: str) -> str:
    with limiting.concurrency(first):
        meet()
        return take.submit(second).result()


@task
def take(name: str) -> str:
    with limiting.concurrency(name):
        return "ran"


def meet() -> None:
    """Waits until both have their slots."""
    store = open_store()
    try:
        eventually(lambda: slots(store, "one") and slots(store, "other"), "both hold theirs")
    finally:
        store.close()


def test_a_circle_through_two_limits(runner: TaskRunner, store: LimitStore) -> None:
    """One of those in it is refused, and the other goes on."""
    store.upsert("other", 1)

    @flow(task_runner=runner)
    def main() -> list[str]:
        runs = [both.submit("one", "other"), both.submit("other", "one")]
        return [str(run.result(PATIENCE, raise_on_failure=False)) for run in runs]

    ended = sorted(main(), key=lambda text: text != "ran")
    assert ended[0] == "ran"
    assert FOR_EVER in ended[1]


# ---------------------------------------------------------------------- what is waited for as before


def test_what_another_process_holds_is_waited_for(runner: TaskRunner, store: LimitStore) -> None:
    """Of two slots a run has one and somebody elsewhere the other, which comes back."""
    elsewhere = wants(["two"], "elsewhere")
    store.try_acquire(elsewhere)

    @task
    def inner() -> str:
        with limiting.concurrency("two"):
            return "ran"

    @task
    def outer() -> str:
        with limiting.concurrency("two"):
            return inner.submit().result()

    @flow(task_runner=runner)
    def main() -> str:
        run = outer.submit()
        eventually(lambda: len(line(store, "two")) == 1, "the inner one waits")
        with pytest.raises(WaitTimeout):
            run.result(0.5)
        store.release(["elsewhere"])
        return run.result(PATIENCE)

    assert main() == "ran"


@pytest.mark.usefixtures("store")
def test_a_wait_with_a_time_limit_is_no_circle(runner: TaskRunner) -> None:
    """The holder goes on when it is over, and gives back."""

    @task
    def outer() -> Any:
        with limiting.concurrency("one"):
            run = block.submit()
            with pytest.raises(WaitTimeout):
                run.result(0.4)
        return run.result()

    @flow(task_runner=runner)
    def main() -> str:
        return outer.submit().result(PATIENCE)

    assert main() == "ran"


@contextmanager
def slot_of(name: str) -> Iterator[None]:
    with limiting.concurrency(name):
        yield


class Own:
    """A context manager that enters a block by itself."""

    def __init__(self) -> None:
        self._block = limiting.concurrency("one")

    def __enter__(self) -> None:
        self._block.__enter__()

    def __exit__(self, *error: object) -> None:
        self._block.__exit__(*error)


def looked_at(store: LimitStore) -> dict[Any, Any]:
    """Who would be refused now."""
    limit = store.read("one")
    assert limit is not None
    with LOCK:
        return look(KEEPER._register, {"one": limit}).refusals


@pytest.mark.parametrize("by", ["a stack", "a stack of one's own", "a call", "another's call"])
def test_a_block_that_another_thread_leaves_is_no_circle(
    runner: TaskRunner, store: LimitStore, by: str
) -> None:
    """SPEC 10.3. Who has entered it waits for a run that asks for the slot, and has it once the other thread is so far."""
    leaves: list[Any] = []

    def enter() -> None:
        if by == "a stack":
            stack = ExitStack()
            stack.enter_context(limiting.concurrency("one"))
        elif by == "a stack of one's own":
            stack = ExitStack()
            stack.enter_context(slot_of("one"))
        else:
            entered = limiting.concurrency("one") if by == "a call" else Own()
            entered.__enter__()
            leaves.append(lambda: entered.__exit__(None, None, None))
            return
        leaves.append(stack.close)

    def leave(run: Any) -> None:
        eventually(lambda: wanted_by(run), "the run waits for it")
        eventually(lambda: BEARERS[entered_by].waits, "the flow waits for the run")
        found.append(looked_at(store))
        leaves[0]()

    found: list[Any] = []
    entered_by = threading.current_thread()

    @flow(task_runner=runner)
    def main() -> str:
        enter()
        run = block.submit()
        other = threading.Thread(target=leave, args=(run,))
        other.start()
        try:
            return run.result(PATIENCE)
        finally:
            other.join()

    assert main() == "ran"
    assert found == [{}]


@task
def handed_over() -> str:
    """Enters a block that another thread leaves, and waits for a run that asks for the slot, perhaps in its own thread."""
    stack = ExitStack()
    stack.enter_context(limiting.concurrency("one"))
    run = block.submit()
    store = open_store()

    def leave() -> None:
        eventually(lambda: line(store, "one"), "the run asks for it")
        stack.close()
        store.close()

    other = threading.Thread(target=leave)
    other.start()
    try:
        return run.result()
    finally:
        other.join()


@pytest.mark.usefixtures("store")
def test_a_block_of_a_run_that_another_thread_leaves_is_no_circle(runner: TaskRunner) -> None:
    @flow(task_runner=runner)
    def main() -> str:
        return handed_over.submit().result(PATIENCE)

    assert main() == "ran"


@pytest.mark.parametrize("by", ["a with", "a generator", "a decorator"])
def test_a_block_that_ends_where_it_began_is_waited_for_in_vain(
    runner: TaskRunner, store: LimitStore, by: str
) -> None:
    @limiting.concurrency("one")
    def within() -> str:
        return block.submit().result()

    @flow(task_runner=runner)
    def main() -> str:
        if by == "a decorator":
            return within()
        with limiting.concurrency("one") if by == "a with" else slot_of("one"):
            return block.submit().result()

    with pytest.raises(ConcurrencySlotAcquisitionError, match=FOR_EVER):
        main()


# ---------------------------------------------------------------------- holders that need a worker


@task
def work(number: int) -> int:
    return number


@task
def chained(number: int) -> int:
    return work.submit(work.submit(number)).result()


@task
def holds_until(go: Path) -> int:
    with limiting.concurrency("one"):
        eventually(go.exists, "it is told")
        return needs("runs")


@task
async def holds_until_async(go: Path) -> int:
    async with limiting_async.concurrency("one"):
        await asyncio.to_thread(eventually, go.exists, "it is told")
        return sum([await work.submit(number) for number in range(3)])


def needs(kind: str) -> int:
    """What a holder waits for that no worker has begun."""
    if kind == "map":
        return sum(work.map(range(3)).result())
    if kind == "chain":
        return chained.submit(3).result()
    return sum(work.submit(number).result() for number in range(3))


def crowded() -> None:
    """Waits until both workers, and both that they lend, wait for a slot."""
    eventually(lambda: len(KEEPER._register.waiting) == 4, "all wait")


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    "kind", ["runs", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("map", "chain"))]
)
def test_what_a_flow_needs_that_holds_a_slot_for_which_all_workers_wait(
    runner: TaskRunner, kind: str
) -> None:
    """A worker that waits for a slot lends its place to what the holder waits for, whatever else is lent."""

    @flow(task_runner=runner)
    def main() -> int:
        with limiting.concurrency("one"):
            blocks = [block.submit() for _ in range(8)]
            crowded()
            found = needs(kind)
        assert [run.result(PATIENCE) for run in blocks] == 8 * ["ran"]
        return found

    assert main() == 3


@pytest.mark.slow
@pytest.mark.parametrize("around", [holds_until, holds_until_async], ids=["sync", "async"])
def test_what_a_run_needs_that_holds_a_slot_for_which_all_workers_wait(
    runner: TaskRunner, around: Any, store: LimitStore, tmp_path: Path
) -> None:
    go = tmp_path / "go"

    @flow(task_runner=runner)
    def main() -> int:
        run = around.submit(go)
        eventually(lambda: slots(store, "one"), "it holds its slot")
        blocks = [block.submit() for _ in range(8)]
        # Its own thread, and one that is lent, have no place for others.
        least = 4 if around is holds_until_async else 2
        eventually(lambda: len(KEEPER._register.waiting) >= least, "all wait")
        go.touch()
        found: int = run.result(PATIENCE)
        assert [run.result(PATIENCE) for run in blocks] == 8 * ["ran"]
        return found

    assert main() == 3


@pytest.mark.slow
@pytest.mark.usefixtures("store")
def test_threads_that_helped_out_have_gone() -> None:
    def workers() -> int:
        return sum(thread.name.startswith("shoal-worker") for thread in threading.enumerate())

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=2))
    def main() -> None:
        with limiting.concurrency("one"):
            blocks = [block.submit() for _ in range(8)]
            crowded()
            assert needs("runs") == 3
        for run in blocks:
            run.result(PATIENCE)
        assert [run.result(PATIENCE) for run in [work.submit(n) for n in range(4)]] == [0, 1, 2, 3]
        eventually(lambda: workers() <= 2, "the others have gone")

    main()
