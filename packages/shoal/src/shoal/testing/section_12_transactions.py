"""Section 12 on any runner: transactions around runs that are submitted, and in tasks.

12.6  what runs do in a transaction is committed together, or rolled back together, where its block ends
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from shoal import flow, task
from shoal.cache_policies import INPUTS
from shoal.testing.base import SuiteBase, covers, in_flow
from shoal.testing.samples import BoomError, boom
from shoal.transactions import IsolationLevel, atransaction, transaction

if TYPE_CHECKING:
    from pathlib import Path

    from shoal import Task
    from shoal.task_runners import TaskRunner
    from shoal.testing.tools import Signals

__all__ = ["TransactionTests"]


def noting(signals: Signals, *, is_async: bool = False) -> Task[..., Any]:
    """A task whose runs note down what they do, and their hooks: what was set, and whether they are called in this process."""
    driver = os.getpid()

    def note(what: str, txn: Any) -> None:
        signals.append("said", f"{what} {txn.get('who', 'nobody')} {os.getpid() == driver}")

    async def note_async(what: str, txn: Any) -> None:
        note(what, txn)

    noted: Any = note_async if is_async else note
    hooks: Any = {f"on_{what}": [partial(noted, what)] for what in ("commit", "rollback")}

    def act(name: str) -> str:
        signals.append("said", name)
        return name

    async def act_async(name: str) -> str:
        return act(name)

    return task(name="act", **hooks)(act_async if is_async else act)


class TransactionTests(SuiteBase):
    """Section 12.6."""

    @pytest.fixture(autouse=True)
    def storage_of_a_test(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where it is kept which transactions were committed."""
        monkeypatch.setenv("SHOAL_RESULTS_STORAGE", os.fspath(tmp_path / "results"))

    @pytest.mark.parametrize("fails", [False, True], ids=["commit", "rollback"])
    @pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
    @covers("12.6")
    def test_submitted_runs_end_with_the_block(
        self, runner: TaskRunner, signals: Signals, is_async: bool, fails: bool
    ) -> None:
        act = noting(signals, is_async=is_async)

        def submit_all(txn: Any) -> None:
            txn.set("who", "me")
            act.submit(act.submit("a"))
            act.map(["b", "c"])
            if fails:
                boom.submit()

        def body() -> str:
            with transaction() as txn:
                submit_all(txn)
            return txn.state.name

        async def body_async() -> str:
            async with atransaction() as txn:
                submit_all(txn)
            return txn.state.name

        if is_async:
            name = anyio.run(flow(task_runner=runner)(body_async))
        else:
            name = in_flow(runner, body)
        assert name == ("ROLLED_BACK" if fails else "COMMITTED")
        said = signals.lines("said")
        assert sorted(said[:4]) == ["a", "a", "b", "c"]
        assert said[4:] == [f"{'rollback' if fails else 'commit'} me True"] * 4

    @pytest.mark.parametrize("fails", [False, True], ids=["commit", "rollback"])
    @pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
    @covers("12.6")
    def test_a_transaction_in_a_task(
        self, runner: TaskRunner, signals: Signals, is_async: bool, fails: bool
    ) -> None:
        act, act_async = noting(signals), noting(signals, is_async=True)
        process = "process"

        @task
        def outer() -> None:
            signals.append(process, os.getpid())
            with transaction() as txn:
                txn.set("who", "outer")
                act("called")
                act.submit("submitted").wait()
                act_async.submit("coroutine")
                if fails:
                    boom()

        @task
        async def outer_async() -> None:
            signals.append(process, os.getpid())
            async with atransaction() as txn:
                txn.set("who", "outer")
                await act_async("called")
                await act.submit("submitted")
                act_async.submit("coroutine")
                if fails:
                    boom()

        def body() -> None:
            future = (outer_async if is_async else outer).submit()
            if fails:
                with pytest.raises(BoomError):
                    future.result()
            else:
                future.result()
            act.submit("alone").wait()

        in_flow(runner, body)
        here = signals.lines(process) == [str(os.getpid())]
        said = signals.lines("said")
        assert said[:3] == ["called", "submitted", "coroutine"]
        assert said[3:6] == [f"{'rollback' if fails else 'commit'} outer {here}"] * 3
        assert said[6:] == ["alone", f"commit nobody {here}"]

    @covers("12.6")
    def test_a_flow_in_the_block_commits_by_itself(
        self, runner: TaskRunner, signals: Signals
    ) -> None:
        act = noting(signals)

        @flow(task_runner=runner.duplicate())
        def inner() -> None:
            act.submit("inner").wait()

        def body() -> None:
            with transaction() as txn:
                txn.set("who", "outer")
                act("outer")
                inner()
                boom()

        with pytest.raises(BoomError):
            in_flow(runner, body)
        outer, inner_run, commit, rollback = signals.lines("said")
        assert (outer, inner_run, rollback) == ("outer", "inner", "rollback outer True")
        assert commit.startswith("commit nobody ")

    @covers("12.6")
    def test_a_key_is_committed_once(self, runner: TaskRunner, signals: Signals) -> None:
        @task(batch=False)
        def once(number: int) -> str:
            level = IsolationLevel.SERIALIZABLE
            with transaction(key="once", isolation_level=level) as txn:
                if not txn.is_committed():
                    txn.stage(f"by {number}")
                    signals.append("done", number)
                kept = txn.read()
            return "first" if kept is None else kept.value

        def body() -> Any:
            found = once.map(range(4)).result()
            with transaction(key="once") as txn:
                assert txn.is_committed()
                kept = txn.read()
            assert kept is not None
            return found, kept.value

        found, kept = in_flow(runner, body)
        (number,) = signals.lines("done")
        assert kept == f"by {number}"
        assert sorted(found) == [kept, kept, kept, "first"]

    @covers("12.6")
    def test_what_was_kept_is_removed(self, runner: TaskRunner, signals: Signals) -> None:
        @task(cache_policy=INPUTS)
        def double(x: int) -> int:
            signals.append("calls", x)
            return x * 2

        @task
        def inside(called: int, submitted: int) -> None:
            with transaction():
                double(called)
                double.submit(submitted).wait()
                boom()

        def body() -> list[str]:
            with pytest.raises(BoomError):
                inside.submit(1, 2).result()
            with pytest.raises(BoomError):
                inside(3, 4)
            runs = double.map([1, 2, 3, 4])
            runs.wait()
            return [run.state.name for run in runs]

        assert in_flow(runner, body) == ["Completed"] * 4
        assert sorted(signals.lines("calls")) == sorted("12341234")
