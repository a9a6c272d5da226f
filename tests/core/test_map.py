"""Maps beyond what the suite asks of every runner: odd arguments, views on demand, many elements (SPEC 4.3, 6)."""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import numpy as np
import pytest
from shoal import allow_failure, flow, opaque, quote, tags, task, unmapped
from shoal.exceptions import (
    CancelledRun,
    MappingLengthMismatch,
    MappingMissingIterable,
    MissingContextError,
    ParameterBindError,
)
from shoal.futures import TaskFutureList, as_completed, wait
from shoal.task_runners import SequentialTaskRunner, ThreadPoolTaskRunner
from shoal.testing.samples import Account, BoomError, add, boom, identity, inc
from shoal.testing.tools import PATIENCE, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# ---------------------------------------------------------------------- SPEC 6.1, 6.2: what is mapped over


def test_open_files_are_static(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("one\ntwo\n")

    @task
    def read(number: int, file: Any) -> Any:
        file.seek(0)
        return number, len(file.read())

    @flow
    def main() -> None:
        with path.open() as text, path.open("rb") as binary:
            for file in (text, binary):
                assert read.map([1, 2], file).result() == [(1, 8), (2, 8)]
                with pytest.raises(MappingMissingIterable):
                    read.map(1, file)

    main()


def test_kinds_of_iterables() -> None:
    class Old:
        """Iterable by index alone."""

        def __getitem__(self, index: int) -> int:
            if index > 2:
                raise IndexError
            return index * 10

    class Broken:
        def __iter__(self) -> Iterator[int]:
            raise BoomError("cannot be iterated over")

    class Unsized:
        def __iter__(self) -> Iterator[int]:
            return iter([5, 6])

    @flow
    def main() -> None:
        assert identity.map(Old()).result() == [0, 10, 20]
        assert identity.map(Unsized()).result() == [5, 6]
        assert identity.map(np.arange(3)).result() == [0, 1, 2]
        assert [row.tolist() for row in identity.map(np.eye(2)).result()] == [[1, 0], [0, 1]]
        assert add.map(np.arange(2), unmapped(np.arange(2))).result()[1].tolist() == [1, 2]
        assert identity.map(itertools.islice(itertools.count(), 3)).result() == [0, 1, 2]
        assert identity.map(zip("ab", [1, 2], strict=True)).result() == [("a", 1), ("b", 2)]
        assert identity.map({"a": 1}.items()).result() == [("a", 1)]
        with pytest.raises(BoomError, match="cannot be iterated over"):
            identity.map(Broken())
        for static in ("text", b"bytes", bytearray(b"x"), 5, None, object(), 1.5):
            with pytest.raises(MappingMissingIterable):
                identity.map(static)

    main()


def test_errors_name_what_there_is() -> None:
    @task
    def combine(a: Any, b: Any = 0, *rest: Any, c: Any = 0) -> None: ...

    @flow
    def main() -> None:
        with pytest.raises(MappingLengthMismatch) as mismatch:
            combine.map([1], [1, 2], [1, 2, 3], c=[1, 2, 3, 4])
        assert mismatch.value.lengths == {"a": 1, "b": 2, "*rest[0]": 3, "c": 4}
        assert mismatch.value.task_name == "combine"
        assert isinstance(mismatch.value, ValueError)
        with pytest.raises(MappingLengthMismatch):
            combine.map([], [1])
        with pytest.raises(MappingMissingIterable) as missing:
            combine.map(1, "two", c=unmapped([3]))
        assert list(missing.value.arguments) == ["a", "b", "c"]
        with pytest.raises(MappingMissingIterable):
            combine.map()
        with pytest.raises(ParameterBindError, match="colour"):
            combine.map([1], colour=[1])
        with pytest.raises(ParameterBindError, match="colour"):
            combine.map([1, 2], colour=[1])

    main()


def test_a_map_needs_a_flow() -> None:
    consumed: list[int] = []

    def numbers() -> Iterator[int]:
        consumed.append(1)
        yield 1

    with pytest.raises(MissingContextError, match="inc"):
        inc.map(numbers())
    assert consumed == [], "an iterator is not used up in vain"


def test_annotations_in_maps() -> None:
    @flow
    def main() -> None:
        one = inc.submit(1)
        assert add.map([[1], [2]], opaque([9])).result() == [[1, 9], [2, 9]]
        assert identity.map([quote([1, 2]), opaque(one), [one]]).result() == [[1, 2], 2, [2]]
        assert identity.map(unmapped_or(one)).result() == [2]
        assert add.map([1, 2], unmapped(one)).result() == [3, 4]
        failed = boom.submit()
        kinds = identity.map([allow_failure(failed), allow_failure(one)]).result()
        assert [type(kind) for kind in kinds] == [BoomError, int]
        assert identity.map(allow_failure([failed])).result()[0].text == "boom"
        given = add.map([[], []], unmapped(allow_failure([one]))).result()
        assert given == [[2], [2]]

    def unmapped_or(future: Any) -> list[Any]:
        return [future]

    main()


def test_unmapped_hands_over_the_very_object() -> None:
    big = [1, 2, 3]

    @task
    def same(number: int, thing: Any) -> bool:
        return thing is big

    @flow
    def main() -> None:
        assert same.map([1, 2], unmapped(big)).result() == [True, True]

    main()


def test_maps_of_methods() -> None:
    @flow
    def main() -> None:
        ann = Account("ann")
        assert ann.deposit.map([1, 2]).result() == ["ann +1", "ann +2"]
        assert Account.deposit.map([ann, Account("bob")], 5).result() == ["ann +5", "bob +5"]

    main()


def test_an_iterable_of_one_wait_for_serves_every_element() -> None:
    @flow
    def main() -> None:
        first = inc.submit(1)
        assert inc.map([1, 2, 3], wait_for=iter([first])).result() == [2, 3, 4]

    main()


# ---------------------------------------------------------------------- SPEC 4.3: views on demand


def test_views_are_one_future() -> None:
    go = threading.Event()

    @task
    def work(number: int) -> int:
        assert go.wait(PATIENCE)
        return number

    @flow(task_runner=ThreadPoolTaskRunner(1))
    def main() -> None:
        futures = work.map(range(100))
        early = futures[50]
        again = futures[50]
        assert early == again
        assert hash(early) == hash(again)
        assert early in futures
        assert len({*futures, *futures}) == 100
        go.set()
        futures.wait()
        late = futures[50]
        assert early == late
        assert {early: 1}[late] == 1
        assert early.result() == late.result() == 50
        assert early.name == late.name
        assert early.task_run_id == late.task_run_id
        assert early.state == late.state

    main()


def test_callbacks_and_cancels_stay_with_the_map() -> None:
    go, called = threading.Event(), []

    @task
    def work(number: int) -> int:
        assert go.wait(PATIENCE)
        return number

    @flow(task_runner=ThreadPoolTaskRunner(1))
    def main() -> None:
        futures = work.map(range(10))
        futures[5].add_done_callback(lambda done: called.append(done.result()))
        assert futures[6].cancel()
        go.set()
        futures.wait()
        assert futures[6].state.is_cancelled()
        with pytest.raises(CancelledRun):
            futures.result()
        values = futures.result(raise_on_failure=False)
        assert values[:6] == [0, 1, 2, 3, 4, 5]
        assert isinstance(values[6], CancelledRun)

    main()
    eventually(lambda: called, "the callback thread has got there")
    assert called == [5]


def test_a_view_that_is_asked_for_while_its_element_runs() -> None:
    """A worker goes through columns; a view made at any moment sees what is true then."""

    @task
    def work(number: int) -> int:
        return sum(range(number % 50)) * 0 + number

    @flow(task_runner=ThreadPoolTaskRunner(2))
    def main() -> None:
        for _ in range(20):
            futures = work.map(range(500))
            views = [futures[number] for number in range(0, 500, 7)]
            states = {view.state.name for view in views}
            assert states <= {"Pending", "Running", "Completed"}
            assert [view.result(timeout=PATIENCE) for view in views] == list(range(0, 500, 7))
            assert futures.result(timeout=PATIENCE) == list(range(500))

    main()


def test_waiting_for_parts() -> None:
    @flow
    def main() -> None:
        futures = inc.map(range(1000))
        assert futures[990:].result() == list(range(991, 1001))
        assert isinstance(futures[10:20], TaskFutureList)
        assert wait(futures[:5], timeout=PATIENCE).done == set(futures[:5])
        assert {future.result() for future in as_completed(futures[5:10])} == set(range(6, 11))
        assert futures[-1] == futures[999]
        assert futures[::-1][0] == futures[-1]
        assert futures[5000:] == []
        for index in (1000, -1001):
            with pytest.raises(IndexError):
                futures[index]

    main()


# ---------------------------------------------------------------------- many, and all kinds of ends


@pytest.mark.parametrize("runner", [ThreadPoolTaskRunner(2), SequentialTaskRunner()], ids=repr)
def test_a_hundred_thousand(runner: Any) -> None:
    @flow(task_runner=runner)
    def main() -> None:
        futures = inc.map(range(100_000))
        assert futures.result() == list(range(1, 100_001))

    main()


def test_every_kind_of_end_in_one_map() -> None:
    from shoal.states import Cancelled, Failed

    tried: list[int] = []

    @task(retries=1)
    def ends(number: int) -> Any:
        if number % 5 == 1:
            raise BoomError("always")
        if number % 5 == 2:
            return Failed("returned")
        if number % 5 == 3:
            return Cancelled()
        if number % 5 == 4:
            tried.append(number)
            if tried.count(number) == 1:
                raise BoomError("once")
            raise SystemExit(number)
        return inc.submit(number)

    @flow(task_runner=ThreadPoolTaskRunner(2))
    def main() -> None:
        futures = ends.map(range(50))
        futures.wait()
        names = [future.state.name for future in futures]
        assert names == ["Completed", "Failed", "Failed", "Cancelled", "Crashed"] * 10
        assert [futures[number].result() for number in range(0, 50, 5)] == list(range(1, 51, 5))

    main()
    assert len(tried) == 20


def test_maps_of_async_tasks() -> None:
    @task
    async def later(number: int) -> int:
        await anyio.lowlevel.checkpoint()
        if number == 7:
            raise BoomError("seven")
        return number

    @flow
    def main() -> None:
        futures = later.map(range(2000))
        values = futures.result(raise_on_failure=False)
        assert values[:7] + values[8:] == [*range(7), *range(8, 2000)]
        assert isinstance(values[7], BoomError)
        assert later.map(later.map(range(5))).result() == list(range(5))

    main()


def test_tags_and_context_of_elements() -> None:
    from shoal import runtime

    @task
    def look(number: int) -> Any:
        return runtime.task_run.tags

    @flow
    def main() -> None:
        with tags("outer"):
            futures = look.map(range(3))
        assert futures.result() == [["outer"]] * 3

    main()


def test_a_slow_element_gives_its_neighbours_away() -> None:
    """DESIGN: one that overruns its batch hands the rest of it to other workers."""
    first, others_ended = threading.Event(), threading.Event()

    @task
    def work(number: int) -> int:
        if number == 0 and first.is_set():
            others_ended.wait(PATIENCE)
        return threading.get_ident()

    @flow(task_runner=ThreadPoolTaskRunner(4))
    def main() -> None:
        work.map(range(3000)).wait()  # known as quick now, so that elements travel together
        first.set()
        futures = work.map(range(100))
        others = {future.result(timeout=PATIENCE) for future in futures[1:]}
        assert not futures[0].done()
        others_ended.set()
        assert futures[0].result() not in others

    main()
