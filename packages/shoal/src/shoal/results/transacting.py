"""Transactions: what is done in a block of code is committed together, or rolled back together.

    with transaction() ─▶ runs of tasks, called or submitted in it ─▶ each that completes is staged (`staging`)
            └▶ the block's end ─▶ it went well: commit, in their order
                             └▶ something failed: roll back, in reverse order

    guarantees   All hooks run where the block ends, once all runs have ended that were submitted in it. When rolling back, a
                 hook that raises keeps none of the others from running.
    assumes      Who enters a transaction leaves it, in the same context.

Commits and rollbacks are generators of steps, which a thread takes one after the other, and a coroutine without holding up its
loop. May import `staging`, on use the rest of `results`, and what lies above task runners.
"""

from __future__ import annotations

import copy
import time
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any

from shoal.context import SCOPE
from shoal.engine.hooks import name_of_hook
from shoal.engine.interrupt import shielded
from shoal.exceptions import InvalidOption, MissingContextError
from shoal.futures.awaiting import settled
from shoal.futures.blocking import block
from shoal.logs import get_logger, get_run_logger, log_failure
from shoal.results.staging import CURRENT, Submitted, is_in_transaction, scope_in_transaction
from shoal.results.steps import Step, answer_of, answer_of_async

if TYPE_CHECKING:
    import logging
    import os
    from collections.abc import Sequence
    from contextvars import Token

    from shoal.results.kept import Kept
    from shoal.results.steps import Steps
    from shoal.results.storage import KeyLock, Ref, Storage
    from shoal.results.turns import Turn
    from shoal.results.within import Within
    from shoal.specs import TaskSpec
    from shoal.specs import TransactionHook as Hook

__all__ = [
    "BaseTransaction",
    "CommitMode",
    "IsolationLevel",
    "TransactionState",
    "commit_alone",
    "get_transaction",
]


class IsolationLevel(Enum):
    """How transactions of one key are kept apart.

    READ_COMMITTED: not at all; each sees what was committed when it began.
    SERIALIZABLE: one after the other, in all processes that share the storage.
    """

    READ_COMMITTED = "READ_COMMITTED"
    SERIALIZABLE = "SERIALIZABLE"


class CommitMode(Enum):
    """When what a transaction has staged is committed.

    LAZY: with the transaction around it; at its end, if there is none.
    EAGER: at its end.
    OFF: when `commit` is called, or with the transaction around it; else it is rolled back.
    """

    EAGER = "EAGER"
    LAZY = "LAZY"
    OFF = "OFF"


class TransactionState(Enum):
    """How far a transaction is."""

    PENDING = "PENDING"
    ACTIVE = "ACTIVE"
    STAGED = "STAGED"
    COMMITTED = "COMMITTED"
    ROLLED_BACK = "ROLLED_BACK"


_NOTHING = object()


def get_transaction() -> BaseTransaction | None:
    """The transaction of the caller; in a task that was called in one, that of its run. `None` if there is none."""
    found: BaseTransaction | None = CURRENT.get()
    return found


class BaseTransaction:
    """What `Transaction` and `AsyncTransaction` have in common. Arguments are those of `transaction`.

    Attributes:
        key, store, commit_mode, isolation_level, overwrite, write_on_commit, logger: as given; modes are those of the
            transaction around it where nothing was said.
        state: how far it is.
        parent: the transaction around it, if there is one.
        children: what was staged in it, in order, and is neither committed nor rolled back yet.
        on_commit_hooks, on_rollback_hooks: functions of the transaction, which are called for it.
        kept: results that its run has kept.
    """

    def __init__(
        self,
        *,
        key: str | None = None,
        store: str | os.PathLike[str] | Storage | None = None,
        commit_mode: CommitMode | None = None,
        isolation_level: IsolationLevel | None = None,
        overwrite: bool = False,
        write_on_commit: bool = True,
        logger: logging.Logger | logging.LoggerAdapter[Any] | None = None,
    ) -> None:
        for option, value, kind, problem in (
            ("key", key, str, "a text is needed"),
            ("commit_mode", commit_mode, CommitMode, "a CommitMode is needed"),
            ("isolation_level", isolation_level, IsolationLevel, "an IsolationLevel is needed"),
        ):
            if not isinstance(value, kind | None):
                raise InvalidOption(
                    where="a transaction", option=option, value=value, problem=problem
                )
        self.key = key
        self.store = store
        self.commit_mode = commit_mode
        self.isolation_level = isolation_level
        self.overwrite = overwrite
        self.write_on_commit = write_on_commit
        self.logger = logger if logger is not None else _logger()
        self.state = TransactionState.PENDING
        self.parent: BaseTransaction | None = None
        self.children: list[BaseTransaction] = []
        self.on_commit_hooks: list[Hook] = []
        self.on_rollback_hooks: list[Hook] = []
        self._task: TaskSpec | None = None
        self._label = "Transaction" if key is None else f"Transaction {key!r}"
        self._values: dict[str, Any] = {}
        self._staged: Any = None
        self._failure: str | None = None
        self._submitted: list[Submitted] = []
        self.kept: list[Ref] = []
        self._storage: Storage | None = None
        self._lock: KeyLock | None = None
        self._within: Within | None = None
        self._tokens: tuple[Token[Any], Token[Any]] | None = None

    def __repr__(self) -> str:
        of = "" if self.key is None else f" {self.key!r}"
        return f"<{type(self).__name__}{of}: {self.state.name}>"

    def set(self, name: str, value: Any) -> None:
        """Keeps a value under a name, for hooks and for what is called in the transaction."""
        self._values[name] = value

    def get(self, name: str, default: Any = _NOTHING) -> Any:
        """A copy of the value that was set under a name, here or in a transaction around.

        Args:
            name: the name.
            default: what to give if there is none.

        Raises:
            ValueError: there is none, and no default.
        """
        holder: BaseTransaction | None = self
        while holder is not None:
            if name in holder._values:
                return copy.deepcopy(holder._values[name])
            holder = holder.parent
        if default is _NOTHING:
            raise ValueError(f"nothing was set in the transaction under the name {name!r}")
        return default

    def is_pending(self) -> bool:
        """Whether it was not entered yet."""
        return self.state is TransactionState.PENDING

    def is_active(self) -> bool:
        """Whether it was entered, and nothing was staged for itself."""
        return self.state is TransactionState.ACTIVE

    def is_staged(self) -> bool:
        """Whether something was staged for itself."""
        return self.state is TransactionState.STAGED

    def is_committed(self) -> bool:
        """Whether it is committed, or one of its key was when it was entered."""
        return self.state is TransactionState.COMMITTED

    def is_rolled_back(self) -> bool:
        """Whether it is rolled back."""
        return self.state is TransactionState.ROLLED_BACK

    def stage(
        self,
        value: Any,
        on_rollback_hooks: Sequence[Hook] | None = None,
        on_commit_hooks: Sequence[Hook] | None = None,
    ) -> None:
        """Stages a value, which is kept under the transaction's key when that is committed; nothing if it is already.

        Args:
            value: the value; it takes the place of one that was staged before.
            on_rollback_hooks: functions of the transaction, which are called when it is rolled back.
            on_commit_hooks: likewise, when it is committed.
        """
        if self.state is TransactionState.COMMITTED:
            return
        self._staged = value
        self.on_rollback_hooks += on_rollback_hooks or ()
        self.on_commit_hooks += on_commit_hooks or ()
        self.state = TransactionState.STAGED

    # ------------------------------------------------------------------ its beginning

    def _prepare(self) -> None:
        """What it is, where it stands."""
        if self.state is not TransactionState.PENDING:
            raise RuntimeError("a transaction can be entered once only: make another")
        parent = self.parent = get_transaction()
        if self.commit_mode is None:
            self.commit_mode = parent.commit_mode if parent is not None else CommitMode.LAZY
        if self.isolation_level is None:
            self.isolation_level = (
                parent.isolation_level if parent is not None else IsolationLevel.READ_COMMITTED
            )
        self.state = TransactionState.ACTIVE

    def _turn(self) -> Turn | None:
        """Opens the storage; who has to wait for the lock of the key is given a place in line."""
        scope = SCOPE.get()
        if self.key is None or (scope is not None and scope.drawing is not None):
            return None
        from shoal.results.options import ResultOptions, storage_of
        from shoal.results.turns import Turn
        from shoal.results.within import locked_around

        said: Any = None
        if scope is not None and scope.flow_run is not None:
            said = scope.flow_run.keeping
        if self.store is not None:
            self._storage = storage_of(self.store)
        else:
            self._storage = ResultOptions().over(said).open_storage()
        if self.isolation_level is not IsolationLevel.SERIALIZABLE or self.key in locked_around():
            return None
        lock = self._storage.lock(self.key)
        if not lock.try_acquire():
            return Turn((self._storage.place, self.key), lock)
        self._lock = lock
        return None

    def _has_waited(self, turn: Turn) -> None:
        """The turn has come."""
        if turn.decision.answer is not None:
            raise turn.decision.answer
        self._lock = turn.lock

    def _beginning(self) -> Steps:
        """Looks whether it was committed before."""
        if self._storage is not None and self.key is not None and not self.overwrite:
            try:
                found = yield Step(partial(self._storage.read, self.key), self._storage)
            except BaseException:
                self._give_back()
                raise
            if found is not None:
                self.state = TransactionState.COMMITTED
        return True

    def _enter(self) -> None:
        """Surrounds what comes."""
        if self._lock is not None:
            from shoal.results.options import ResultOptions
            from shoal.results.within import Within

            self._within = Within(ResultOptions(), self.key)
            self._within.__enter__()
        self._tokens = SCOPE.set(scope_in_transaction()), CURRENT.set(self)

    # ------------------------------------------------------------------ its end

    def child_of(self, task: TaskSpec) -> BaseTransaction:
        """The transaction of a run of a task in this one; it is staged, or has failed, when the run has ended."""
        child = BaseTransaction(logger=self.logger)
        child.parent = self
        child.commit_mode, child.isolation_level = self.commit_mode, self.isolation_level
        child.state = TransactionState.ACTIVE
        child._label = f"A run of task {task.name!r}"
        child._task = task
        return child

    def submitted(self, task: TaskSpec, futures: Any) -> None:
        """Runs of a task were submitted in it."""
        self._submitted.append(Submitted(task, futures, len(self.children)))

    def _awaited(self, error: BaseException | None) -> list[Any]:
        """What was submitted in it, and has to end first; it is stopped if the block is."""
        if error is not None and not isinstance(error, Exception):
            for submitted in self._submitted:
                for future in submitted.futures:
                    future.cancel()
        return [submitted.futures for submitted in self._submitted]

    def _staging(self) -> Steps:
        """Each submitted run that has completed is staged, where it was submitted."""
        for submitted in reversed(self._submitted):
            staged: list[BaseTransaction] = []
            for future in submitted.futures:
                if not future.state.is_completed():
                    self._failure = f"{future.name!r} did not complete"
                    continue
                child = self.child_of(submitted.task)
                child._stage_run()
                if self.commit_mode is CommitMode.EAGER:
                    yield from child._committing()
                staged.append(child)
            self.children[submitted.position : submitted.position] = staged
        self._submitted.clear()
        return True

    def _stage_run(self) -> None:
        assert self._task is not None
        self.stage(None, self._task.on_rollback_hooks, self._task.on_commit_hooks)

    def _ending(self, error: BaseException | None, *, counts: bool = True) -> Steps:
        """What its end leads to.

        Args:
            error: why it has failed; `None` if it has not.
            counts: of a run: whether it was executed; what was there before cannot be undone.
        """
        yield from self._staging()
        mode, parent = self.commit_mode, self.parent
        if error is not None:
            self._failure = f"it raised {type(error).__name__}"
        elif self._task is not None:
            self._failure = None  # a run that has completed has got over what failed in it
            if counts:
                self._stage_run()
        if self._failure is not None or self.is_rolled_back():
            if self._task is None:
                why = self._failure or "by its block"
                self.logger.warning("%s is rolled back: %s", self._label, why)
            yield from self._rolling_back()
        elif mode is CommitMode.EAGER or (mode is CommitMode.LAZY and parent is None):
            yield from self._committing()
        elif parent is None:
            yield from self._rolling_back()
        else:
            parent.children.append(self)
        if parent is not None and self.is_rolled_back():
            parent._failure = f"{self._label[0].lower()}{self._label[1:]} in it failed"
        return True

    def end(self, error: BaseException | None, *, counts: bool = True) -> None:
        """Commits, rolls back, or leaves that to the transaction around; arguments as for `_ending`."""
        try:
            for futures in self._awaited(error):
                block(futures)
        except BaseException as problem:
            with shielded():
                answer_of(self._ending(problem))
            raise
        with shielded():
            answer_of(self._ending(error, counts=counts))

    async def end_async(self, error: BaseException | None, *, counts: bool = True) -> None:
        """As `end`, on a loop; that is not interrupted."""
        import anyio

        with anyio.CancelScope(shield=True):
            for futures in self._awaited(error):
                await settled(futures)
            await answer_of_async(self._ending(error, counts=counts))

    def _leave(self) -> None:
        if self._tokens is not None:
            SCOPE.reset(self._tokens[0])
            CURRENT.reset(self._tokens[1])
            self._tokens = None
        if self._within is not None:
            self._within.__exit__()
            self._within = None

    def _committing(self) -> Steps:
        if self.state is TransactionState.ROLLED_BACK:
            return False
        children, self.children = self.children, []
        for child in children:
            yield from child._committing()
        was_committed = self.state is TransactionState.COMMITTED
        if not was_committed:
            try:
                for hook in self.on_commit_hooks:
                    yield Step(partial(hook, self))
                if self._storage is not None and self.write_on_commit:
                    yield Step(self._write, self._storage)
            except Exception as error:
                text = "%s could not be committed, and is rolled back"
                log_failure(error, text, self._label, logger=self.logger)
                yield from self._rolling_back()
                return False
            self.state = TransactionState.COMMITTED
        self._give_back()
        return not was_committed

    def _rolling_back(self) -> Steps:
        from shoal.results.storage import open_storage

        is_due = self.state not in (TransactionState.COMMITTED, TransactionState.ROLLED_BACK)
        try:
            if is_due:
                self.state = TransactionState.ROLLED_BACK
                for ref in reversed(self.kept):
                    storage = open_storage(ref.place)
                    removal = Step(partial(storage.remove, ref.key), storage)
                    yield from self._undoing(removal, "what its run kept cannot be removed")
                for hook in reversed(self.on_rollback_hooks):
                    what = f"hook {name_of_hook(hook)} raised"
                    yield from self._undoing(Step(partial(hook, self)), what)
            while self.children:
                yield from self.children.pop()._rolling_back()
        finally:
            self._give_back()
        return is_due

    def _undoing(self, step: Step, what: str) -> Steps:
        try:
            yield step
        except Exception as error:
            text = "%s is not wholly rolled back: %s"
            log_failure(error, text, self._label, what, logger=self.logger)
        return True

    def _write(self) -> None:
        from shoal.results.kept import keep
        from shoal.results.serializers import serializer_of

        assert self._storage is not None
        assert self.key is not None
        scope = SCOPE.get()
        flow_run = scope.flow_run if scope is not None else None
        keep(
            self._storage,
            self.key,
            self._staged,
            serializer_of(None),
            created=time.time(),
            flow_run_name=flow_run.name if flow_run is not None else "",
        )

    def _read(self) -> Kept | None:
        from shoal.results.kept import recall
        from shoal.results.serializers import serializer_of

        if self._storage is None or self.key is None:
            return None
        return recall(self._storage, self.key, serializer_of(None))

    def _give_back(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            from shoal.results.turns import TURNS

            lock.release()
            TURNS.ring()


def _logger() -> logging.Logger | logging.LoggerAdapter[Any]:
    try:
        return get_run_logger()
    except MissingContextError:
        return get_logger("transactions")


def commit_alone(task: TaskSpec) -> Any:
    """A run of a task has completed here: commits it, unless it is part of a transaction.

    Args:
        task: the task.

    Returns:
        Of a coroutine function: what is to be awaited.
    """
    if is_in_transaction():
        return None
    run = BaseTransaction(commit_mode=CommitMode.EAGER).child_of(task)
    run.parent = None
    return run.end_async(None) if task.is_async else run.end(None)
