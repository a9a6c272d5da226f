"""Flow runs with a journal go on where they stopped: in this process, on threads and in the caller's thread."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import shoal.names
from shoal import allow_failure, flow, quote, task, unmapped
from shoal.context import FlowRunContext
from shoal.exceptions import (
    InvalidOption,
    JournalBusy,
    JournalError,
    ParameterBindError,
    ParameterTypeError,
    RunNotFound,
)
from shoal.results.journal import find
from shoal.results.journal.file import JournalFile
from shoal.runtime import flow_run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Executed(list[Any]):
    """What tasks were executed with, in order."""

    def took(self) -> list[Any]:
        """What was executed since this was asked last, sorted."""
        taken = sorted(self, key=repr)
        self.clear()
        return taken


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SHOAL_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def executed() -> Executed:
    return Executed()


@pytest.fixture(params=["threads", "sequential"])
def runner(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


class Trouble(Exception):
    """What makes a flow fail until it is mended."""


def fails(main: Any, *args: Any) -> str:
    """Runs a flow that fails, and gives the name of its run."""
    with pytest.raises(Trouble) as caught:
        main(*args)
    name = find("last").name
    way = f"To go on where it stopped, in Python: {main.fn.__name__}.resume({name!r})"
    assert caught.value.__notes__[-1] == way  # the command finds no flow that a function makes
    return name


def test_what_completed_is_not_executed_again(runner: str, executed: Executed) -> None:
    broken = [True]

    @task
    def inc(x: int) -> int:
        executed.append(x)
        return x + 1

    @task
    def total(numbers: list[int]) -> int:
        executed.append("total")
        if broken:
            raise Trouble
        return sum(numbers)

    @flow(task_runner=runner, journal=True)
    def main(n: int) -> int:
        singles = [inc.submit(i) for i in range(n)]
        mapped = inc.map(range(100, 100 + n))
        assert inc(1000) == 1001
        return total.submit([*singles, *mapped]).result()

    name = fails(main, 3)
    assert executed.took() == ["total", 0, 1, 100, 1000, 101, 102, 2]
    broken.clear()
    assert main.resume(name) == 1 + 2 + 3 + 101 + 102 + 103
    assert executed.took() == ["total"]
    assert main.resume("last") == 312
    assert executed.took() == []


def test_states_are_cached(executed: Executed) -> None:
    broken = [True]
    states: list[Any] = []

    @task
    def inc(x: int) -> int:
        return x + 1

    @flow(journal=True)
    def main() -> None:
        one, many = inc.submit(1), inc.map([1, 2])
        states[:] = [one.state, many[1].state, inc(3, return_state=True)]
        many.wait()
        if broken:
            raise Trouble

    fails(main)
    broken.clear()
    main.resume("last")
    assert [state.name for state in states] == ["Cached"] * 3
    assert [state.result() for state in states] == [2, 3, 4]
    assert all(state.is_completed() for state in states)


def test_what_a_changed_task_gave_can_be_kept(executed: Executed) -> None:
    broken = {3}

    def version(mark: str) -> Any:
        """The flow with a task whose code is another for each mark, which is a constant of it."""

        @task
        def fetch(i: int) -> str:
            executed.append(i)
            if i in broken:
                raise Trouble
            return f"{i}{mark}"

        @task
        def fold(texts: list[str]) -> str:
            executed.append("fold")
            return " ".join(texts)

        @flow(journal=True)
        def main() -> str:
            runs = fetch.map(range(5))
            runs.wait()
            if broken:
                raise Trouble
            return fold.submit(runs).result()

        return main

    name = fails(version("a"))
    assert executed.took() == [0, 1, 2, 3, 4]
    with pytest.raises(InvalidOption, match="had no task of this name; did you mean 'fetch'"):
        version("b").resume(name, ["fetsh"])
    with pytest.raises(Trouble):
        version("b").resume(name, ["fetch"])
    assert executed.took() == [3]
    broken.clear()
    assert version("b").resume(name) == "0a 1a 2a 3b 4a"  # it was kept before
    assert executed.took() == ["fold", 3]
    assert version("b").resume(name) == "0a 1a 2a 3b 4a"
    assert executed.took() == []
    assert version("c").resume(name, "fetch") == "0a 1a 2a 3b 4a"
    assert executed.took() == []
    assert version("d").resume(name) == "0d 1d 2d 3d 4d"
    assert executed.took() == ["fold", 0, 1, 2, 3, 4]


def test_elements_of_maps_one_by_one(runner: str, executed: Executed) -> None:
    broken = [True]

    @task
    def fetch(i: int, *, scale: int) -> list[int]:
        executed.append(i)
        if i == 3 and broken:
            raise Trouble
        return [i * scale]

    @flow(task_runner=runner, journal=True)
    def main(n: int) -> list[list[int]]:
        runs = fetch.map(range(n), scale=unmapped(10))
        runs.wait()
        return runs.result()

    name = fails(main, 6)
    assert executed.took() == [0, 1, 2, 3, 4, 5]
    broken.clear()
    assert main.resume(name) == [[0], [10], [20], [30], [40], [50]]
    assert executed.took() == [3]
    assert main.resume(name, n=8)[6:] == [[60], [70]]  # what is new is executed
    assert executed.took() == [6, 7]


def test_changed_inputs_and_all_that_depends_on_them(executed: Executed) -> None:
    broken = [True]

    @task
    def load(day: int) -> int:
        executed.append(("load", day))
        return day

    @task
    def double(x: int) -> int:
        executed.append("double")
        return 2 * x

    @flow(journal=True)
    def main(day: int) -> int:
        other = load.submit(0)
        doubled = double.submit(load.submit(day))
        other.wait()
        value = doubled.result()
        if broken:
            raise Trouble
        return value

    name = fails(main, 1)
    broken.clear()
    executed.clear()
    assert main.resume(name, day=5) == 10
    assert executed.took() == ["double", ("load", 5)]


def day_of_the_flow() -> int:
    """What tasks call that read a parameter of their flow."""
    around = FlowRunContext.get()
    assert around is not None
    day: int = around.parameters["day"]
    return day


def test_what_reads_the_flows_parameters_runs_again_when_these_change(
    runner: str, executed: Executed
) -> None:
    """However it comes to them; and what takes what it gives. By the value: who says the same again changes nothing."""
    broken = [True]
    around = flow_run

    @task
    def plain(i: int) -> int:
        executed.append(("plain", i))
        return i

    @task
    def by_view(i: int) -> int:
        executed.append(("by view", i))
        return int(around.parameters["day"]) + i

    @task
    def by_helper() -> int:
        executed.append("by helper")
        return day_of_the_flow()

    @task
    def by_import() -> int:
        from shoal import runtime

        executed.append("by import")
        return int(runtime.flow_run.parameters["day"])

    @task
    def takes(x: int) -> int:
        executed.append("takes")
        return x

    @flow(task_runner=runner, journal=True)
    def main(day: int) -> list[int]:
        runs = [*by_view.map([0, 10]), by_helper.submit(), takes.submit(by_import.submit())]
        found = [run.result() for run in [*plain.map([1, 2]), *runs]]
        if broken:
            raise Trouble
        return found

    everything = ["by helper", "by import", "takes", ("by view", 0), ("by view", 10)]
    name = fails(main, 1)
    assert executed.took() == [*everything, ("plain", 1), ("plain", 2)]
    broken.clear()
    assert main.resume(name, day=2) == [1, 2, 2, 12, 2, 2]
    assert executed.took() == everything
    assert main.resume(name) == [1, 2, 2, 12, 2, 2]
    assert main.resume(name, day="2") == [1, 2, 2, 12, 2, 2]
    assert main.resume(name, day=1) == [1, 2, 1, 11, 1, 1]
    assert executed.took() == []
    assert main.resume(name, ["by_view"], day=3)[2:4] in ([1, 11], [2, 12])
    assert executed.took() == ["by helper", "by import", "takes"]


def test_the_same_run_twice_in_one_place(executed: Executed) -> None:
    broken = [True]
    count = iter(range(100))

    @task
    def draw() -> int:
        executed.append("draw")
        return next(count)

    @flow(journal=True, task_runner="sequential")
    def main() -> list[int]:
        drawn = [draw.submit() for _ in range(3)]
        values = [run.result() for run in drawn]
        if broken:
            raise Trouble
        return values

    name = fails(main)
    broken.clear()
    assert main.resume(name) == [0, 1, 2]
    assert executed.took() == ["draw"] * 3


def test_tasks_that_submit_tasks_retries_and_nested_flows(executed: Executed) -> None:
    broken = [True]

    @task
    def leaf(x: int) -> int:
        executed.append(x)
        return x

    @task(retries=1)
    def parent(x: int) -> int:
        executed.append("parent")
        value = sum(run.result() for run in [leaf.submit(x), leaf.submit(x + 1)])
        if broken:
            raise Trouble
        return value

    @flow
    def inner(x: int) -> int:
        return leaf.submit(x).result()

    @flow(journal=True)
    def main() -> int:
        first = inner(10) + inner(10) + inner(20)
        return first + parent.submit(1).result()

    name = fails(main)
    assert executed.took() == ["parent", "parent", *[1, 1, 10, 10, 2, 2, 20]]
    broken.clear()
    assert main.resume(name) == 43
    assert executed.took() == ["parent"]


def test_async_flows_and_tasks(executed: Executed) -> None:
    broken = [True]

    @task
    async def fetch(x: int) -> dict[str, int]:
        executed.append(x)
        await asyncio.sleep(0)
        return {"x": x}

    @flow(journal=True)
    async def main() -> int:
        one = await fetch(1)
        many = await fetch.map([2, 3])
        if broken:
            raise Trouble
        return one["x"] + sum(each["x"] for each in many)

    with pytest.raises(Trouble):
        asyncio.run(main())
    assert executed.took() == [1, 2, 3]
    broken.clear()
    assert asyncio.run(main.resume("last")) == 6  # type: ignore[arg-type]
    assert executed.took() == []


def test_a_generator_and_wait_for_and_quoted_arguments(executed: Executed) -> None:
    broken = [True]

    @task
    def emit(n: int) -> Iterator[int]:
        executed.append("emit")
        yield from range(n)

    @task
    def after(x: Any) -> int:
        executed.append("after")
        return len(x)

    @flow(journal=True)
    def main() -> Any:
        emitted = emit.submit(3)
        later = after.submit(quote([1, 2]), wait_for=[emitted])
        value = emitted.result(), later.result()
        if broken:
            raise Trouble
        return value

    fails(main)
    broken.clear()
    executed.clear()
    assert main.resume("last") == ([0, 1, 2], 2)
    assert executed.took() == []


def test_what_a_failure_may_have_decided_runs_again(executed: Executed) -> None:
    broken = [True]

    @task
    def maybe() -> int:
        if broken:
            raise Trouble
        return 1

    @task
    def look(x: Any) -> str:
        executed.append("look")
        return type(x).__name__

    @flow(journal=True)
    def main() -> str:
        seen = look.submit(allow_failure(maybe.submit())).result()
        if broken:
            raise Trouble
        return seen

    fails(main)
    broken.clear()
    executed.clear()
    assert main.resume("last") == "int"
    assert executed.took() == ["look"]


def test_what_takes_what_a_failure_may_have_decided_runs_again(
    runner: str, executed: Executed
) -> None:
    bad = {"look", "body"}

    @task
    def look() -> int:
        if "look" in bad:
            raise Trouble
        return 1

    @task
    def or_none(found: Any) -> int | None:
        executed.append("or_none")
        return None if isinstance(found, Exception) else found

    @task
    def tell(found: int | None) -> str:
        executed.append("tell")
        return f"{found}"

    @flow(task_runner=runner, journal=True)
    def main() -> list[str]:
        found = or_none.submit(allow_failure(look.submit()))
        found.wait()
        if "between" in bad:
            raise Trouble
        told = [tell.submit(found), *tell.map([found, found]), tell(found)]
        told[0].wait()
        if "body" in bad:
            raise Trouble
        return [one if isinstance(one, str) else one.result() for one in told]

    name = fails(main)
    executed.took()
    bad.clear()
    bad.add("between")
    with pytest.raises(Trouble):
        main.resume(name)
    assert executed.took() == ["or_none"]
    bad.clear()
    # `or_none` is reused now, and had another value at first.
    assert main.resume(name) == ["1"] * 4
    assert executed.took() == ["tell"] * 4
    assert main.resume(name) == ["1"] * 4
    assert executed.took() == []


def test_what_is_returned_may_be_changed_afterwards(executed: Executed) -> None:
    broken = [True]

    @task
    def make() -> list[int]:
        return [1]

    @flow(journal=True)
    def main() -> list[int]:
        made = make.submit().result()
        kept = list(made)
        made.append(2)
        if broken:
            raise Trouble
        return kept

    fails(main)
    broken.clear()
    assert main.resume("last") == [1]


def test_values_that_cannot_be_pickled_and_arguments_without_a_key(
    executed: Executed, caplog: pytest.LogCaptureFixture
) -> None:
    broken = [True]
    lock = asyncio.Lock  # a class has a key; a generator has none

    @task
    def unpicklable(x: int) -> Any:
        executed.append("unpicklable")
        return (i for i in range(x))

    @task
    def unstable(source: Any) -> int:
        executed.append("unstable")
        return 1

    @flow(journal=True)
    def main() -> None:
        assert lock is not None
        unpicklable.submit(1).wait()
        for _ in range(2):
            unstable.submit(quote(i for i in range(3))).wait()
        if broken:
            raise Trouble

    with caplog.at_level("WARNING"):
        fails(main)
    broken.clear()
    assert executed.took() == ["unpicklable", "unstable", "unstable"]
    main.resume("last")
    assert executed.took() == ["unpicklable", "unstable", "unstable"]
    told = [record.getMessage() for record in caplog.records]
    assert sum("'unstable'" in line and "parameters['source']" in line for line in told) == 2
    assert sum("a value cannot be pickled" in line for line in told) == 2  # once a time it ran


class Treacherous:
    """Whoever looks what it is made of gets an error that nobody expects."""

    def __reduce_ex__(self, version: Any) -> Any:
        return dict, (), None, None, [[[], 1]]  # no list can be a key


def test_arguments_that_are_no_arguments_for_keys_fail_nothing(executed: Executed) -> None:
    """A number of so many digits cannot be written in decimals; what asks the user's objects may raise anything."""
    broken, many = [True], 10**5000

    @task
    def take(x: object) -> int:
        executed.append("treacherous" if isinstance(x, Treacherous) else "number")
        return 1

    @flow(journal=True)
    def inner(x: object) -> int:
        return take(x)

    @flow(journal=True)
    def main() -> int:
        given: list[Any] = [many, Treacherous()]
        singles = [take.submit(x) for x in given]
        maps = [take.map([many, -many]), take.map([Treacherous()])]
        inner(given[1])
        done = sum(future.result() for futures in [singles, *maps] for future in futures)
        if broken:
            raise Trouble
        return done

    name = fails(main)
    assert executed.took() == ["number"] * 3 + ["treacherous"] * 3
    broken.clear()
    assert main.resume(name) == 5
    assert executed.took() == ["treacherous"] * 3


def test_goes_on_within_another_flow(executed: Executed) -> None:
    broken = [True]

    @task
    def inc(x: int) -> int:
        executed.append(x)
        return x + 1

    @flow
    def beneath() -> int:
        return inc.submit(2).result()

    @flow(journal=True)
    def main() -> int:
        value = inc.submit(1).result() + beneath()
        if broken:
            raise Trouble
        return value

    name = fails(main)
    assert executed.took() == [1, 2]
    broken.clear()

    @flow(journal=True)
    def outer() -> int:
        return main.resume(name) + inc.submit(3).result()

    @flow
    def without() -> int:
        return main.resume(name)

    assert outer() == 9
    assert without() == 5
    assert executed.took() == [3]


def test_large_values_have_files_of_their_own(executed: Executed) -> None:
    broken = [True]

    @task
    def large(n: int) -> bytes:
        executed.append(n)
        return bytes(n)

    @flow(journal=True)
    def main() -> list[int]:
        values = large.map([10, 1_000_000]).result()
        if broken:
            raise Trouble
        return [len(value) for value in values]

    fails(main)
    broken.clear()
    executed.clear()
    found = find("last")
    assert (found.folder / "journal").stat().st_size < 10_000
    assert main.resume("last") == [10, 1_000_000]
    assert executed.took() == []
    for file in (found.folder / "values").rglob("*"):
        if file.is_file():
            file.unlink()
    assert main.resume("last") == [10, 1_000_000]
    assert executed.took() == [1_000_000]


def test_it_keeps_its_name_and_its_id() -> None:
    broken = [True]
    seen: list[tuple[str, str]] = []

    @flow(journal=True, flow_run_name="day {day}")
    def main(day: str) -> None:
        from shoal.runtime import flow_run

        seen.append((flow_run.id, flow_run.name))
        if broken:
            raise Trouble

    name = fails(main, "{monday}")
    broken.clear()
    main.resume(name)
    assert seen == [(seen[0][0], "day {monday}")] * 2


def test_another_process_takes_over_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    run = shoal.names.run_uuid(5)
    for name in ("_entropy", "_singles", "_next_range"):
        monkeypatch.setattr(shoal.names, name, getattr(shoal.names, name))
    shoal.names._entropy = None
    assert shoal.names.go_on_as(run, 1) == 5
    assert shoal.names.run_uuid(5) == run
    assert shoal.names.next_number() >> 40 == 2
    assert (shoal.names.reserve(10) - (1 << 47)) >> 40 == 2
    assert shoal.names.go_on_as("0" * 8 + run[8:], 1) is None


def test_who_asks_for_no_journal_has_none(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @flow
    def plain() -> None: ...

    @flow(journal=False)
    def never() -> None: ...

    plain()
    assert not home.exists()
    monkeypatch.setenv("SHOAL_JOURNAL", "1")
    never()
    plain()
    assert find("last").facts.header.flow == "plain"  # type: ignore[union-attr]
    with pytest.raises(RunNotFound, match="no flow run 'x' is remembered"):
        plain.resume("x")
    with pytest.raises(JournalError, match="of the flow 'plain', and not of 'never'"):
        never.resume("last")


def test_what_cannot_be_resumed_leaves_the_journal_as_it_was(home: Path) -> None:
    broken = [True]

    @task
    def inc(x: int) -> int:
        return x + 1

    @flow(journal=True)
    def main(*days: int, scale: int = 1, **more: int) -> int:
        value = sum(inc.map(list(days)).result()) * scale + sum(more.values())
        if broken:
            raise Trouble
        return value

    @flow(journal=True, name="main")
    def strict(day: int) -> None:
        raise Trouble

    name = fails(main, 1, 2)
    broken.clear()
    assert main.resume(name) == 5
    assert main.resume(name, scale=2, extra=3) == 13
    with pytest.raises(ParameterBindError, match="nope"):
        strict.resume(name, nope=1)
    with pytest.raises(ParameterTypeError):
        strict.resume(name, day="no day")
    folder = find(name).folder
    (folder / "journal").chmod(0o666)
    with pytest.raises(JournalError, match="may be written by everybody"):
        main.resume(name)
    (folder / "journal").chmod(0o600)
    with JournalFileHeld(folder), pytest.raises(JournalBusy, match="is under way"):
        main.resume(name)
    assert main.resume(name) == 13


class JournalFileHeld:
    """Somebody is at a journal."""

    def __init__(self, folder: Path) -> None:
        self._file = JournalFile(folder, "somebody")

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self._file.close()


def test_a_folder_that_cannot_be_made_is_said_before_the_flow_begins(home: Path) -> None:
    home.write_text("a file")
    ran = []

    @flow(journal=True)
    def main() -> None:
        ran.append(True)

    with pytest.raises(JournalError, match="name another folder by SHOAL_HOME"):
        main()
    assert not ran
