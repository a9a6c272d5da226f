"""What recordings of real runs have to say, on any runner of two workers."""

from __future__ import annotations

import asyncio
import os
import time
from itertools import pairwise
from math import isnan, nan
from pathlib import Path
from typing import Any

import pytest
import shoal
from shoal.recording.record import RunRow


def of(recording: shoal.Recording, task: str) -> list[RunRow]:
    """The attempts of a task, in the order of their run numbers."""
    rows = [row for row in recording.runs() if row.task == task]
    return sorted(rows, key=lambda row: (row.number, row.attempt))


class RecordingSuite:
    """Subclasses give a runner, and say whether its runs leave this process."""

    travels = True

    @pytest.fixture
    def runner(self) -> Any:
        """A runner of two workers, by name or made."""
        raise NotImplementedError

    def test_the_timeline_is_that_of_a_schedule_that_is_known(
        self, runner: Any, tmp_path: Path
    ) -> None:
        @shoal.task
        def step(before: Any) -> tuple[float, float]:
            began = time.time()
            time.sleep(0.02)
            return began, time.time()

        @shoal.task
        def meet(own: str, other: str) -> tuple[float, float]:
            began = time.time()
            Path(own).touch()
            while not os.path.exists(other) and time.time() < began + 30:
                time.sleep(0.001)
            return began, time.time()

        @shoal.flow(task_runner=runner)
        def schedule() -> list[Any]:
            first = step.submit(None)
            second = step.submit(first)
            third = step.submit(second)
            third.wait()
            left, right = str(tmp_path / "left"), str(tmp_path / "right")
            pair = [meet.submit(left, right), meet.submit(right, left)]
            return [future.result() for future in (first, second, third, *pair)]

        with shoal.record() as recording:
            own = schedule()
        steps, pair = of(recording, "step"), of(recording, "meet")
        for row, (began, ended) in zip([*steps, *pair], own, strict=True):
            assert row.state == "Completed"
            assert row.submitted <= row.ready
            # Of a chain that travels together all have left before the later ones are ready. The clock of seconds since
            # the epoch is not that of durations.
            assert row.sent <= row.begun + 2e-3
            assert row.begun <= began + 2e-3
            assert ended <= row.ended + 2e-3
            assert row.ended - row.begun < 60
        for before, after in pairwise(steps):
            assert before.ended <= after.begun + 2e-3
            assert after.ready >= before.ended - 2e-3
        edges = [list(r) for row in steps for r in recording.record.upstreams(row.number)]
        assert edges == [[steps[0].number], [steps[1].number]]
        # They waited for each other, so they were there at once.
        assert pair[0].worker != pair[1].worker
        assert max(row.begun for row in pair) < min(row.ended for row in pair)

    def test_bytes_are_those_that_came_back(self, runner: Any) -> None:
        @shoal.task
        def make(size: int) -> bytes:
            return b"x" * size

        @shoal.task
        def number(x: int) -> int:
            return x

        @shoal.flow(task_runner=runner)
        def makes() -> None:
            make.map([10, 5_000, 300_000]).wait()
            make.submit(9_000_000).wait()
            number.map(range(5)).wait()

        with shoal.record() as recording:
            makes()
        made = sorted(row.bytes for row in of(recording, "make"))
        numbers = [row.bytes for row in of(recording, "number")]
        messages = recording.record.messages
        if not self.travels:
            assert (set(made), set(numbers), len(messages)) == ({-1}, {-1}, 0)
            return
        for told, size in zip(made, (10, 5_000, 300_000, 9_000_000), strict=True):
            assert size <= told < size + 200
        assert numbers == [8] * 5
        assert all(size > 0 for size in messages.bytes_sent)
        assert sum(messages.bytes_back) >= 5_050  # the large ones stay where they are

    def test_attempts_that_failed_say_where_and_left_no_result(
        self, runner: Any, tmp_path: Path
    ) -> None:
        def attempt(name: str, of: str) -> str:
            with Path(of, name).open("a") as tries:
                tries.write("x")
                count = tries.tell()
            if count < 3:
                raise ValueError("e" * 5_000)
            return "done"

        flaky = shoal.task(attempt, name="flaky", retries=2)

        @shoal.task(retries=2)
        async def flaky_coroutine(name: str, of: str) -> str:
            return attempt(name, of)

        @shoal.task
        def fails(of: str) -> None:
            raise ValueError(of * 100)

        @shoal.task(timeout_seconds=0.01)
        def late() -> None:
            time.sleep(0.1)

        @shoal.flow(task_runner=runner)
        def flow() -> None:
            for future in [
                flaky.submit("single", str(tmp_path)),
                flaky_coroutine.submit("coroutine", str(tmp_path)),
                fails.submit("e"),
                late.submit(),
                *flaky.map(["first", "second"], str(tmp_path)),
            ]:
                future.wait()

        with shoal.record() as recording:
            flow()
        rows = [
            row
            for task in ("flaky", "flaky_coroutine", "fails", "late")
            for row in of(recording, task)
        ]
        states = [row.state for row in rows]
        assert states == ["Retrying", "Retrying", "Completed"] * 4 + ["Failed", "TimedOut"]
        assert all(row.pid for row in rows)
        if not self.travels:
            assert all(row.thread.startswith("shoal-") for row in rows)
        assert {row.bytes for row in rows if row.state != "Completed"} == {-1}

    def test_what_never_began_has_no_beginning(self, runner: Any, tmp_path: Path) -> None:
        go = tmp_path / "go"

        @shoal.task
        def fails() -> None:
            raise ValueError

        @shoal.task
        def waits(of: str) -> None:
            while not os.path.exists(of):
                time.sleep(0.001)

        @shoal.task
        def needs(*upstreams: None) -> None: ...

        @shoal.task
        def rests(seconds: float) -> None:
            time.sleep(seconds)

        @shoal.task
        def gathers(rested: list[None]) -> None: ...

        @shoal.flow(task_runner=runner)
        def flow() -> None:
            longer = waits.submit(str(go))
            needs.submit(fails.submit(), longer).wait()  # type: ignore[arg-type]
            go.touch()
            longer.wait()
            rested = rests.map([0.02] * 300)
            gathers.submit(rested)
            rested[0].wait()
            raise KeyError

        with shoal.record() as recording, pytest.raises(KeyError):
            flow()
        (never,) = of(recording, "needs")
        assert never.state == "NotReady"
        assert (never.ready, never.begun) == pytest.approx((nan, nan), nan_ok=True)
        cancelled = [row for row in of(recording, "rests") if row.state == "Cancelled"]
        unbegun = [row for row in cancelled if row.worker < 0]
        assert unbegun
        assert all(isnan(row.begun) for row in unbegun)

    def test_what_happens_inside_runs_is_there_with_who_did_it(self, runner: Any) -> None:
        @shoal.task
        def leaf(x: int) -> int:
            return x

        @shoal.task
        def called(x: int) -> int:
            if x < 0:
                raise ValueError("below nothing")
            return x

        @shoal.flow(task_runner="threads:1")
        def below(x: int) -> int:
            return sum(leaf.map(range(x)).result())

        @shoal.task
        def outer(x: int) -> int:
            called(x)
            called(-1, return_state=True)
            leaf.submit(x).wait()
            leaf.map(range(x)).wait()
            return below(x)

        @shoal.flow(task_runner=runner)
        def above() -> int:
            return outer.submit(3).result()

        with shoal.record() as recording:
            assert above() == 3
        top, inside = recording.flow_runs()
        assert (inside.flow, inside.parent, inside.state) == ("below", top.number, "Completed")
        assert top.began <= inside.began <= (inside.ended or 0) <= (top.ended or 0)
        (row,) = of(recording, "outer")
        leaves = of(recording, "leaf")
        assert [leaf.state for leaf in leaves] == ["Completed"] * 7
        assert len({leaf.number for leaf in recording.runs()}) == 10
        assert {leaf.submitter for leaf in leaves if leaf.flow_run == top.name} == {row.number}
        nested = [leaf for leaf in leaves if leaf.flow_run == inside.name]
        assert len(nested) == 3
        assert {leaf.pid for leaf in nested} == {row.pid}
        assert {leaf.submitter for leaf in nested} == {row.number}
        waits = [event.kind for event in recording.record.events if event.number == row.number]
        assert set(waits) <= {"wait"}  # nothing here has a limit
        good, bad = of(recording, "called")
        assert (good.state, bad.state, bad.error) == ("Completed", "Failed", "below nothing")
        assert {good.submitter, bad.submitter} == {row.number}
        assert {good.pid, bad.pid} == {row.pid}
        (error,) = recording.record.errors[bad.number]
        assert "below nothing" in error.traceback

    def test_waits_of_coroutines_are_recorded(self, runner: Any, tmp_path: Path) -> None:
        @shoal.task
        def slow(path: str, asked: float) -> tuple[float, float]:
            began = time.time()
            while not os.path.exists(path) and time.time() < began + 30:
                time.sleep(0.001)
            return asked, time.time()

        def submitted(path: str) -> Any:
            # It ends when whoever submits it has begun to wait, and the loop comes to something else.
            asyncio.get_running_loop().call_soon(Path(path).touch)
            return slow.submit(path, time.time())

        @shoal.task
        async def called(path: str) -> Any:
            return await submitted(path)

        @shoal.task
        async def given(value: Any) -> Any:
            return value

        @shoal.task
        async def emits(path: str) -> Any:
            yield await submitted(path)

        @shoal.flow(task_runner="threads:1")
        async def below(path: str) -> Any:
            return await submitted(path)

        @shoal.flow(task_runner="threads:1")
        async def calls(path: str) -> Any:
            return await called(path)

        @shoal.task(max_concurrency=1)
        async def capped(path: str) -> Any:
            return await submitted(path)

        @shoal.task
        async def waits(way: str, path: str) -> Any:
            if way == "a future":
                return await submitted(path)
            if way == "a list":
                return (await shoal.futures.TaskFutureList([submitted(path)]))[0]
            if way == "what comes first":
                (first,) = [f async for f in shoal.futures.as_completed([submitted(path)])]
                return await first
            if way == "an argument":
                return await given(submitted(path))
            if way == "before a call":
                before = submitted(path)
                return await given(None, wait_for=[before]) or await before
            if way == "an item":
                (item,) = [item async for item in emits(path)]
                return item
            if way == "a call under a cap":
                return await capped(path)
            made = {"a call": called, "a flow": below, "a call in a flow": calls}[way]
            return await made(path)

        ways = ["a future", "a list", "what comes first", "an argument", "before a call", "an item"]
        ways += ["a call under a cap", "a call", "a flow", "a call in a flow"]
        times: dict[str, tuple[float, float]] = {}

        @shoal.flow(task_runner=runner)
        def flow() -> None:
            for place, way in enumerate(ways):
                times[way] = waits.submit(way, str(tmp_path / str(place))).result()

        with shoal.record() as recording:
            flow()
        events = [event for event in recording.record.events if event.kind == "wait"]
        for row, way in zip(of(recording, "waits"), ways, strict=True):
            (event,) = (event for event in events if event.number == row.number)
            assert "slow" in event.text or "1 runs" in event.text, way
            asked, ended = times[way]  # the driver may hear of both a while later
            assert row.begun <= asked + 2e-3 <= event.at + 4e-3, way
            assert ended <= event.until + 2e-3, way
            assert event.at <= event.until, way
        assert len(events) == len(ways)

    def test_waits_are_recorded(self, runner: Any, tmp_path: Path) -> None:
        @shoal.task
        def slow(folder: str) -> None:
            while not os.path.exists(os.path.join(folder, "go")):
                time.sleep(0.001)

        @shoal.task
        def asks(futures: list[Any]) -> None:
            deadline = time.time() + 30
            while futures[0].state.name != "Running" and time.time() < deadline:
                time.sleep(0.005)  # on another worker
            from threading import Timer

            Timer(0.3, Path(tmp_path, "go").touch).start()
            futures[0].wait()

        @shoal.task
        def waits() -> None:
            asks.fn([slow.submit(str(tmp_path))])

        @shoal.task(max_concurrency=1)
        def one_at_a_time(x: int) -> None:
            time.sleep(0.05)

        @shoal.flow(task_runner=runner)
        def flow() -> None:
            waits.submit().wait()
            for future in [one_at_a_time.submit(x) for x in range(3)]:
                future.wait()

        with shoal.record() as recording:
            flow()
        (row,) = of(recording, "waits")
        (event,) = [e for e in recording.record.events if e.kind == "wait"]
        assert event.number == row.number
        assert row.begun <= event.at <= event.until <= row.ended + 2e-3
        assert event.until - event.at >= 0.1
        from shoal.recording.report.figures import figures

        found = figures(recording.record)
        tasks = {task.name: task for task in found.tasks}
        assert tasks["waits"].waits["other runs"].count == 1
        capped = tasks["one_at_a_time"].waits
        assert capped["limits"].count == 2
        assert capped["limits"].most >= 0.09
        assert capped["limits"].total >= 0.13
