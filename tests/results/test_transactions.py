"""Transactions: what is committed together, or rolled back together; with Prefect's published examples, imports renamed."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from shoal import flow, task
from shoal.cache_policies import INPUTS
from shoal.exceptions import InvalidOption, MissingContextError
from shoal.transactions import (
    AsyncTransaction,
    CommitMode,
    IsolationLevel,
    Transaction,
    TransactionState,
    atransaction,
    get_transaction,
    transaction,
)


@pytest.fixture
def said() -> list[Any]:
    """What hooks and tasks of a test note down."""
    return []


def noting(said: list[Any], **options: Any) -> Any:
    """A task that gives its argument, and whose hooks note down what was set in its run."""

    @task(**options)
    def step(name: str) -> str:
        txn = get_transaction()
        if txn is not None:
            txn.set("name", name)
        return name

    step.on_commit(lambda txn: said.append(("commit", txn.get("name", "?"))))
    step.on_rollback(lambda txn: said.append(("rollback", txn.get("name", "?"))))
    return step


@task
def fails() -> None:
    raise ValueError("not enough data")


# ---------------------------------------------------------------------- Prefect's examples, with imports renamed


def test_prefect_first_transaction(tmp_path: Path) -> None:
    path = tmp_path / "side-effect.txt"
    seen: list[bool] = []

    @task
    def write_file(contents: str) -> None:
        path.write_text(contents)

    @write_file.on_rollback
    def del_file(transaction: Transaction) -> None:
        path.unlink()

    @task
    def quality_test() -> None:
        seen.append(path.exists())
        if len(path.read_text().splitlines()) < 2:
            raise ValueError("Not enough data!")

    @flow
    def pipeline(contents: str) -> None:
        with transaction():
            write_file(contents)
            quality_test()

    with pytest.raises(ValueError, match="Not enough data!"):
        pipeline(contents="hello world")
    assert seen == [True]
    assert not path.exists()
    pipeline(contents="hello\nworld")
    assert path.exists()


def test_prefect_idempotency(said: list[Any]) -> None:
    @task
    def download_data() -> str:
        return "some data"

    @task
    def write_data(data: str) -> None:
        said.append(data)

    @flow
    def pipeline() -> bool:
        with transaction(key="download-and-write-data") as txn:
            if txn.is_committed():
                return True
            write_data(download_data())
        return False

    assert [pipeline(), pipeline()] == [False, True]
    assert said == ["some data"]


def test_prefect_data_within_a_transaction(tmp_path: Path) -> None:
    @task
    def write_file(filename: str, contents: str) -> None:
        Path(filename).write_text(contents)

    @write_file.on_rollback
    def del_file(txn: Transaction) -> None:
        Path(txn.get("filename")).unlink()

    @flow
    def pipeline(filename: str, contents: str) -> None:
        with transaction() as txn:
            txn.set("filename", filename)
            write_file(filename, contents)
            fails()

    path = tmp_path / "side-effect.txt"
    with pytest.raises(ValueError, match="not enough data"):
        pipeline(str(path), "hello world")
    assert not path.exists()


def test_prefect_serializable_transactions_come_one_after_the_other(said: list[Any]) -> None:
    begun = threading.Barrier(2)

    @flow
    def pipeline() -> None:
        begun.wait(30)
        with transaction(key="race", isolation_level=IsolationLevel.SERIALIZABLE) as txn:
            if not txn.is_committed():
                said.append("written")

    threads = [threading.Thread(target=pipeline) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == ["written"]


# ---------------------------------------------------------------------- commits and rollbacks


def test_hooks_are_called_at_the_end_of_the_block(said: list[Any]) -> None:
    step = noting(said)

    @flow
    def main(ends_well: bool) -> None:
        with transaction() as txn:
            step("a")
            with transaction():
                step("b")
            step.submit("c")
            step("d")
            assert txn.is_active()
            assert not said
            if not ends_well:
                raise ValueError("no")

    main(True)
    assert said == [("commit", name) for name in "ab?d"]  # a submitted run has set nothing
    said.clear()
    with pytest.raises(ValueError, match="no"):
        main(False)
    assert said == [("rollback", name) for name in "d?ba"]


def test_hooks_as_options_and_copies(said: list[Any]) -> None:
    step = task(on_commit=[said.append], on_rollback=[said.append])(lambda: None)
    with transaction():
        step.with_options(name="other")()
    assert [txn.state for txn in said] == [TransactionState.COMMITTED]
    with pytest.raises(InvalidOption, match="on_rollback"):
        task(on_rollback=3)(lambda: None)  # type: ignore[call-overload]


def test_outside_of_transactions_a_run_commits_by_itself(said: list[Any]) -> None:
    step = noting(said)

    @task
    async def later() -> None: ...

    later.on_commit(lambda txn: said.append("later"))

    @flow
    def main() -> None:
        step.submit("a").wait()
        step("b")
        later.submit().wait()

    main()
    assert said == [("commit", "?"), ("commit", "?"), "later"]


def test_a_submitted_run_that_fails(said: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    step = noting(said)

    @flow
    def main() -> None:
        with transaction() as txn:
            step.map(["a", "b"])
            failed = fails.submit()
        assert txn.is_rolled_back()
        failed.wait()

    main()
    assert said == [("rollback", "?"), ("rollback", "?")]
    assert "Transaction is rolled back: 'fails-" in caplog.text


def test_a_failure_that_is_dealt_with_fails_the_transaction(said: list[Any]) -> None:
    step = noting(said)
    with transaction() as txn:
        step("a")
        assert fails(return_state=True).is_failed()
        step("b")
    assert txn.is_rolled_back()
    assert said == [("rollback", "b"), ("rollback", "a")]


def test_a_run_that_gets_over_a_failure_does_not_fail(said: list[Any]) -> None:
    step = noting(said)
    attempts: list[int] = []

    @task(retries=1)
    def outer() -> None:
        step("inner")
        attempts.append(1)
        if len(attempts) == 1:
            fails()

    outer.on_commit(lambda txn: said.append("outer"))
    with transaction() as txn:
        outer()
    assert txn.is_committed()
    assert said == [("commit", "inner"), ("commit", "inner"), "outer"]


def test_a_hook_that_raises_when_rolling_back(
    said: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    step = noting(said)

    @step.on_rollback
    def broken(txn: Transaction) -> None:
        raise OSError("disk")

    with pytest.raises(ValueError, match="not enough data"), transaction():  # noqa: PT012 - it is in leaving the block
        step("a")
        step("b")
        fails()
    assert said == [("rollback", "b"), ("rollback", "a")]
    assert caplog.text.count("hook 'broken' raised") == 2


def test_a_hook_that_raises_when_committing(
    said: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    step = noting(said)
    other = noting(said)

    @step.on_commit
    def broken(txn: Transaction) -> None:
        raise OSError("disk")

    with transaction() as txn:
        step("a")
        other("b")
    assert said == [("commit", "a"), ("rollback", "a"), ("commit", "b")]
    assert txn.is_committed()
    assert "could not be committed, and is rolled back" in caplog.text


def test_what_a_hook_calls_is_no_part_of_the_transaction(said: list[Any]) -> None:
    step = noting(said)
    undo = noting(said)

    @step.on_rollback
    def undoing(txn: Transaction) -> None:
        assert get_transaction() is None
        undo(txn.get("name"))

    with pytest.raises(ValueError, match="not enough data"), transaction():  # noqa: PT012 - it is in leaving the block
        step("a")
        fails()
    assert said == [("commit", "?"), ("rollback", "a")]


# ---------------------------------------------------------------------- nested ones, and when they are committed


def test_commit_modes(said: list[Any]) -> None:
    step = noting(said)
    with transaction() as outer:
        with transaction(commit_mode=CommitMode.EAGER) as eager:
            step("eager")
        assert said == [("commit", "eager")]
        with transaction() as lazy:
            assert lazy.commit_mode is CommitMode.LAZY
            step("lazy")
        assert (eager.state, lazy.state) == (TransactionState.COMMITTED, TransactionState.ACTIVE)
    assert outer.is_committed()
    assert lazy.is_committed()
    assert said == [("commit", "eager"), ("commit", "lazy")]

    said.clear()
    with transaction(commit_mode=CommitMode.OFF) as off:
        step("a")
    assert off.is_rolled_back()
    with transaction(commit_mode=CommitMode.OFF) as off:
        step("b")
        assert off.commit()
    assert off.is_committed()
    assert said == [("rollback", "a"), ("commit", "b")]


def test_what_is_committed_is_not_rolled_back(said: list[Any]) -> None:
    step = noting(said)
    with pytest.raises(ValueError, match="not enough data"), transaction():  # noqa: PT012 - it is in leaving the block
        with transaction(commit_mode=CommitMode.EAGER):
            step("a")
        step("b")
        fails()
    assert said == [("commit", "a"), ("rollback", "b")]


def test_a_nested_one_that_fails(said: list[Any]) -> None:
    step = noting(said)
    with transaction() as outer:
        step("a")
        with pytest.raises(ValueError, match="not enough data"), transaction():  # noqa: PT012 - it is in leaving the block
            step("b")
            fails()
        assert said == [("rollback", "b")]
    assert outer.is_rolled_back()
    assert said == [("rollback", "b"), ("rollback", "a")]


def test_a_flow_that_is_called_in_the_block(said: list[Any]) -> None:
    step = noting(said)

    @flow
    def inner() -> None:
        step("alone")
        with transaction() as txn:
            assert txn.parent is not None
            step("within")

    @flow
    def main() -> None:
        with transaction():
            inner()
            assert said == [("commit", "?")]
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        main()
    assert said == [("commit", "?"), ("rollback", "within")]


def test_rolled_back_by_the_block(said: list[Any]) -> None:
    step = noting(said)
    with transaction() as outer:
        with transaction() as txn:
            step("a")
            assert txn.rollback()
            step("b")
        assert not txn.rollback()
    assert outer.is_rolled_back()
    assert said == [("rollback", "a"), ("rollback", "b")]


def test_hooks_and_values_of_a_transaction_itself(said: list[Any]) -> None:
    with transaction(key="one") as txn:
        assert txn.read() is None
        txn.set("rows", [1])
        txn.get("rows").append(2)
        assert txn.get("rows") == [1]
        with transaction() as inner:
            assert inner.get("rows") == [1]
            inner.set("rows", 3)
        assert txn.get("rows") == [1]
        assert txn.get("other", None) is None
        with pytest.raises(ValueError, match="'other'"):
            txn.get("other")
        txn.stage({"kept": 1}, on_commit_hooks=[said.append], on_rollback_hooks=[said.append])
        assert txn.is_staged()
    assert said == [txn]
    with transaction(key="one") as again:
        assert again.is_committed()
        kept = again.read()
        assert kept is not None
        assert kept.value == {"kept": 1}
        again.stage(None)
    with transaction(key="one", overwrite=True, write_on_commit=False) as anew:
        assert anew.is_active()


def test_a_key_of_what_failed_is_free(said: list[Any]) -> None:
    for _ in range(2):
        txn = transaction(key="k", isolation_level=IsolationLevel.SERIALIZABLE)
        with pytest.raises(ValueError, match="not enough data"), txn:
            fails()
    assert repr(txn) == "<Transaction 'k': ROLLED_BACK>"


@pytest.mark.parametrize("option", ["key", "commit_mode", "isolation_level"])
def test_options_that_cannot_be(option: str) -> None:
    with pytest.raises(InvalidOption, match=option):
        transaction(**{option: 3})  # type: ignore[arg-type]


def test_it_is_entered_once() -> None:
    txn = transaction()
    with txn:
        assert get_transaction() is txn
    assert get_transaction() is None
    with pytest.raises(RuntimeError, match="once"):
        txn.__enter__()


def test_submit_outside_of_flows() -> None:
    with pytest.raises(MissingContextError, match="fails"), transaction():
        fails.submit()


# ---------------------------------------------------------------------- kept results, and journals


def test_what_was_kept_is_removed(said: list[Any]) -> None:
    """SPEC 12: else the next run would find the result of what was undone."""

    @task(cache_policy=INPUTS)
    def write(name: str) -> str:
        said.append(name)
        return name

    write.on_rollback(lambda txn: said.append("undone"))

    @flow
    def main(*, submits: bool, ends_well: bool) -> str:
        with transaction():
            state = write.submit("a").state if submits else write("a", return_state=True)
            assert write("b") == "b"
            if not ends_well:
                fails()
            if submits:
                write.submit("c").wait()
        return str(state.name)

    for submits in (False, True):
        said.clear()
        with pytest.raises(ValueError, match="not enough data"):
            main(submits=submits, ends_well=False)
        assert said == ["a", "b", "undone", "undone"]
    said.clear()
    main(submits=False, ends_well=True)
    assert said == ["a", "b"]
    with pytest.raises(ValueError, match="not enough data"):
        main(submits=False, ends_well=False)
    assert said == ["a", "b"], "what was kept before is neither made nor undone"


def test_what_is_in_a_transaction_runs_again_when_a_flow_goes_on(said: list[Any]) -> None:
    @task
    def write(name: str) -> str:
        said.append(name)
        return name

    broken = [True]

    @flow(journal=True)
    def main() -> None:
        write("before")
        with transaction():
            write("a")
            write.submit("b").wait()
            write.map(["c"]).wait()
        if broken.pop():
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        main()
    assert said == ["before", "a", "b", "c"]
    broken.append(False)
    main.resume("last")
    assert said == ["before", "a", "b", "c", "a", "b", "c"]


def test_a_flow_that_is_drawn(home: Path, said: list[Any]) -> None:
    step = noting(said)

    @flow
    def main() -> None:
        with transaction(key="key"):
            step.submit(step("a"))

    assert "step" in str(main.visualize())
    assert not said
    assert not home.exists()


# ---------------------------------------------------------------------- coroutines and generators


def test_async(said: list[Any]) -> None:
    @task
    async def write(name: str) -> None:
        txn = get_transaction()
        assert txn is not None
        txn.set("name", name)

    @write.on_rollback
    async def undo(txn: AsyncTransaction) -> None:
        await asyncio.sleep(0)
        said.append(("rollback", txn.get("name")))

    write.on_commit(lambda txn: said.append(("commit", txn.get("name"))))

    @flow
    async def main(ends_well: bool) -> bool:
        async with atransaction(key="key", isolation_level=IsolationLevel.SERIALIZABLE) as txn:
            assert await txn.read() is None
            await write("a")
            async with atransaction():
                await asyncio.gather(write("b"), write("b"))
            if not ends_well:
                raise ValueError("no")
        assert not await txn.commit()
        assert not await txn.rollback()
        async with atransaction(key="key") as again:
            return again.is_committed()

    with pytest.raises(ValueError, match="no"):
        asyncio.run(main(False))  # type: ignore[arg-type]
    assert said == [("rollback", name) for name in "bba"]
    said.clear()
    assert asyncio.run(main(True))  # type: ignore[arg-type]
    assert said == [("commit", name) for name in "abb"]


def test_async_hooks_of_a_transaction_that_blocks(said: list[Any]) -> None:
    step = noting(said)

    @step.on_commit
    async def later(txn: Transaction) -> None:
        await asyncio.sleep(0)
        said.append("later")

    with transaction():
        step("a")
    assert said == [("commit", "a"), "later"]


def test_generators(said: list[Any]) -> None:
    @task
    def count(n: int) -> Any:
        yield from range(n)

    @task
    async def count_async(n: int) -> Any:
        for i in range(n):
            yield i

    count.on_commit(lambda txn: said.append("count"))
    count_async.on_commit(lambda txn: said.append("count_async"))

    @flow
    async def main() -> None:
        async with atransaction():
            assert list(count(3)) == [0, 1, 2]
            assert [i async for i in count_async(2)] == [0, 1]
            some = count(3)
            next(some)
            some.close()

    asyncio.run(main())  # type: ignore[arg-type]
    assert said == ["count", "count_async", "count"]


def test_a_block_that_is_stopped_waits_for_what_it_has_submitted(said: list[Any]) -> None:
    started = threading.Event()

    @task
    def slow() -> None:
        started.set()
        for _ in range(6000):  # can be interrupted between two of them
            time.sleep(0.005)

    @flow
    def main() -> None:
        with transaction():
            step("a")
            slow.submit()
            started.wait(30)
            raise KeyboardInterrupt

    step = noting(said)
    with pytest.raises(KeyboardInterrupt):
        main()
    assert said == [("rollback", "a")]


def test_it_says_why(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("mine")
    with pytest.raises(ValueError, match="not"), transaction(key="k", logger=logger):
        fails()
    assert ("mine", logging.WARNING, "Transaction 'k' is rolled back: it raised ValueError") in (
        caplog.record_tuples
    )
