"""Transactions: what is done in a block of code is committed together, or rolled back together. Under Prefect's names.

May import `results.transacting` and what lies above it.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

from shoal.futures.awaiting import settled
from shoal.futures.blocking import block
from shoal.results.steps import answer_of, answer_of_async
from shoal.results.transacting import (
    BaseTransaction,
    CommitMode,
    IsolationLevel,
    TransactionState,
    get_transaction,
)

if TYPE_CHECKING:
    import logging
    import os
    from collections.abc import Iterator

    from shoal.results.kept import Kept
    from shoal.results.storage import Storage
    from shoal.results.turns import Turn

__all__ = [
    "AsyncTransaction",
    "BaseTransaction",
    "CommitMode",
    "IsolationLevel",
    "Transaction",
    "TransactionState",
    "atransaction",
    "get_transaction",
    "transaction",
]


class Transaction(BaseTransaction):
    """A transaction that is entered by `with`: see `transaction`."""

    def __enter__(self) -> Self:
        self._prepare()
        turn = self._turn()
        if turn is not None:
            with _in_line(turn):
                block((turn.decision,))
            self._has_waited(turn)
        answer_of(self._beginning())
        self._enter()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        try:
            self.end(error)
        finally:
            self._leave()

    def commit(self) -> bool:
        """Commits now what is staged, and says whether it did."""
        return answer_of(self._committing())

    def rollback(self) -> bool:
        """Rolls back now what is staged, and says whether it did."""
        return answer_of(self._rolling_back())

    def read(self) -> Kept | None:
        """What is kept under its key, with the staged value as `value`; `None` if nothing is."""
        return self._read()


class AsyncTransaction(BaseTransaction):
    """A transaction that is entered by `async with`: see `atransaction`."""

    async def __aenter__(self) -> Self:
        self._prepare()
        turn = self._turn()
        if turn is not None:
            with _in_line(turn):
                await settled((turn.decision,))
            self._has_waited(turn)
        await answer_of_async(self._beginning())
        self._enter()
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        try:
            await self.end_async(error)
        finally:
            self._leave()

    async def commit(self) -> bool:
        """Commits now what is staged, and says whether it did."""
        return await answer_of_async(self._committing())

    async def rollback(self) -> bool:
        """Rolls back now what is staged, and says whether it did."""
        return await answer_of_async(self._rolling_back())

    async def read(self) -> Kept | None:
        """What is kept under its key, with the staged value as `value`; `None` if nothing is."""
        from anyio import to_thread

        return await to_thread.run_sync(self._read)


@contextmanager
def _in_line(turn: Turn) -> Iterator[None]:
    """Waits for the lock of a key; who gives up has nothing."""
    from shoal.results.turns import TURNS

    TURNS.ask(turn)
    try:
        yield
    except BaseException:
        TURNS.leave(turn)
        raise


def transaction(
    key: str | None = None,
    store: str | os.PathLike[str] | Storage | None = None,
    commit_mode: CommitMode | None = None,
    isolation_level: IsolationLevel | None = None,
    overwrite: bool = False,
    write_on_commit: bool = True,
    logger: logging.Logger | logging.LoggerAdapter[Any] | None = None,
) -> Transaction:
    """A block of code that is committed as a whole, or rolled back.

    Runs of tasks that are called or submitted in the block are staged as they complete. If the block ends well and none of
    them has failed, they are committed at its end: their `on_commit` hooks are called, in order. Else they are rolled back, in
    reverse order: what they have kept is removed, and their `on_rollback` hooks are called.

    Args:
        key: under which it is kept that the transaction was committed, so that the next of this key finds it:
            `is_committed()`.
        store: where that is kept: a folder or a URL; by default where results of the flow are.
        commit_mode: when it is committed; by default as the transaction around it says, or LAZY.
        isolation_level: how transactions of one key are kept apart; by default as the transaction around it says, or
            READ_COMMITTED.
        overwrite: whether not to look if the key was committed before.
        write_on_commit: whether anything is kept under the key.
        logger: whom to tell; by default the run's logger.

    Returns:
        The transaction, to be entered by `with`.

    Raises:
        InvalidOption: one of these cannot be.
        ResultStorageError: on entering: the storage cannot be read.

    Examples:
        >>> with transaction(key="load-orders") as txn:
        ...     if not txn.is_committed():
        ...         load("orders")
    """
    return Transaction(
        key=key,
        store=store,
        commit_mode=commit_mode,
        isolation_level=isolation_level,
        overwrite=overwrite,
        write_on_commit=write_on_commit,
        logger=logger,
    )


def atransaction(
    key: str | None = None,
    store: str | os.PathLike[str] | Storage | None = None,
    commit_mode: CommitMode | None = None,
    isolation_level: IsolationLevel | None = None,
    overwrite: bool = False,
    write_on_commit: bool = True,
    logger: logging.Logger | logging.LoggerAdapter[Any] | None = None,
) -> AsyncTransaction:
    """As `transaction`, for coroutines: entered by `async with`; its `commit`, `rollback` and `read` are awaited.

    Args:
        key, store, commit_mode, isolation_level, overwrite, write_on_commit, logger: see `transaction`.

    Returns:
        The transaction, to be entered by `async with`.

    Raises:
        InvalidOption: one of these cannot be.
        ResultStorageError: on entering: the storage cannot be read.
    """
    return AsyncTransaction(
        key=key,
        store=store,
        commit_mode=commit_mode,
        isolation_level=isolation_level,
        overwrite=overwrite,
        write_on_commit=write_on_commit,
        logger=logger,
    )
