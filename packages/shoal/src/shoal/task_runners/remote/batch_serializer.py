"""What a batch holds, as its worker wants it: columns where runs are alike, rows where they are not.

    ("map", task, first number, values)          consecutive elements of a map of one argument
    ("calls", task, numbers, arguments)          first attempts of one task that wait for nothing
    ("runs", rows)                               anything else; see `BatchSerializer.of`

Tasks go by keys: a worker is told each task once. Large values go by reference, and are stored once. May import
`parcels` and what lies above task runners.
"""

from __future__ import annotations

import time
import weakref
from contextvars import Context
from typing import TYPE_CHECKING, Any

from shoal.calls import COMPLETED, CRASHED, FAILED, Batch, Call, Outcome, Report
from shoal.context import TAGS, Scope
from shoal.engine.batch_run import pack_task, surroundings_of
from shoal.engine.inputs import ATOMS, value_of
from shoal.exceptions import SerializationError, WorkerDied
from shoal.futures.maps import MapRecord, Span
from shoal.futures.run import TaskFuture
from shoal.serialization import loads
from shoal.task_runners.packing import calls_of, culprit_of, follow, not_begun
from shoal.task_runners.remote.parcels import (
    HERE,
    LARGE,
    Late,
    Packed,
    Parcel,
    ResultOf,
    pack,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.scheduling.dispatchers import PushingDispatcher
    from shoal.specs import TaskSpec
    from shoal.states import State

__all__ = ["BatchSerializer", "serializer_for"]


class BatchSerializer:
    """Turns batches into what is sent, and knows tasks by their keys.

    Args:
        dispatcher: of the runner.
        keep: puts a large value to where workers can have it, given it and what it pickles to.

    Attributes:
        packed_tasks: by key, each task's pickle, or what its runs end with instead of being sent.
        scope: of the runs, once one was seen: a runner works for one flow run.
        surroundings: what workers are told of it.
    """

    def __init__(
        self, dispatcher: PushingDispatcher[Any], keep: Callable[[Any, Packed], Parcel]
    ) -> None:
        self._dispatcher = dispatcher
        self._keep = keep
        self._tasks: dict[TaskSpec, int] = {}
        self._tasks_by_key: list[TaskSpec] = []
        self._tasks_by_digest: dict[bytes, TaskSpec] = {}
        self._prepared: weakref.WeakSet[MapRecord[Any]] = weakref.WeakSet()
        self.packed_tasks: list[bytes | BaseException] = []
        self.scope: Scope | None = None
        self.surroundings: bytes | None = None

    def of(self, batch: Batch) -> tuple[Any, list[int], list[frozenset[str]], dict[int, Outcome]]:
        """What a batch holds, as the worker wants it; its tasks' keys; tags; and the ends of what cannot be sent."""
        runs = batch.runs
        failed: dict[int, Outcome] = {}
        if type(runs) is Span:
            record = runs.record
            if record not in self._prepared:
                self._prepare(record)
            self._see_scope(record.scope)
            tags = [record.context.get(TAGS, frozenset())]
            if record.single is not None and not runs.has_futures():
                try:
                    key = self._key_of(record.task)
                except (SerializationError, WorkerDied) as error:
                    return None, [], [], dict.fromkeys(range(len(runs)), _end_with(error))
                values = record.single[runs.start : runs.stop]
                return ("map", key, record.base + runs.start, values), [key], tags, failed
        else:
            plain = self._plain(batch)
            if plain is not None:
                return plain
        calls, failed = calls_of(batch, self._resolve)
        rows: list[Any] = []
        keys: dict[int, None] = {}
        all_tags: dict[frozenset[str], int] = {}
        places: dict[TaskFuture[Any], int] = {}
        for position in range(len(batch)):
            call = calls.get(position)
            args: Any
            needs: list[int] = []
            if call is None:
                if type(runs) is Span or position in failed:
                    continue
                try:
                    places = places or {future: place for place, future in enumerate(runs)}
                    linked = self._linked(batch, position, places)
                except BaseException as error:
                    failed[position] = not_begun(runs[position], error)
                    continue
                if linked is None:
                    continue
                call, args, needs = linked
            else:
                args = call.args
            self._see_scope(call.scope)
            try:
                key = self._key_of(call.task)
            except (SerializationError, WorkerDied) as error:
                failed[position] = _end_with(error)
                continue
            keys[key] = None
            tags_index = all_tags.setdefault(call.context.get(TAGS, frozenset()), len(all_tags))
            kwargs = None if isinstance(args, Late) else call.kwargs
            run = position, key, call.number, call.attempt, args, kwargs, tags_index, needs
            rows.append((*run, call.earlier()))
        return ("runs", rows) if rows else None, list(keys), list(all_tags), failed

    def _plain(
        self, batch: Batch
    ) -> tuple[Any, list[int], list[frozenset[str]], dict[int, Outcome]] | None:
        """As `of` for first attempts of one task that wait for nothing: columns; `None` for others. Hot."""
        runs = batch.runs
        task = runs[0]._task
        first = runs[0]._call
        if first is None or first.task is not task:
            return None
        tags = first.context.get(TAGS)
        numbers: list[int] = []
        arguments: list[Any] = []
        for future in runs:
            call = future._call
            detail = future._detail
            if (
                call is None
                or call.task is not task
                or call.kwargs is not None
                or call.attempt != 1
                or (detail is not None and detail.upstreams)
                or call.context.get(TAGS) != tags
            ):
                return None
            numbers.append(call.number)
            arguments.append(call.args)
        try:
            key = self._key_of(task)
        except (SerializationError, WorkerDied):
            return None
        self._see_scope(first.scope)
        return ("calls", key, numbers, arguments), [key], [tags or frozenset()], {}

    def _linked(
        self, batch: Batch, position: int, places: dict[TaskFuture[Any], int]
    ) -> tuple[Call, Late, list[int]] | None:
        """A run that waits for others of its batch: its arguments are unpickled when these are known."""
        followed = follow(
            batch, position, self._resolve, lambda upstream: ResultOf(places[upstream])
        )
        if followed is None:
            return None
        call, needed = followed
        if any(upstream not in places for upstream in needed):
            return None  # it ended only now, or was sent elsewhere: the run waits again
        try:
            packed = pack((call.args, call.kwargs), whole=True)
        except BaseException as error:
            raise culprit_in(call) or error from None
        return call, Late(packed), [places[upstream] for upstream in needed]

    def _resolve(self, source: TaskFuture[Any] | State[Any], allow_failure: bool) -> Any:
        """What an upstream is replaced by: a large value stays where it is."""
        if (
            isinstance(source, TaskFuture)
            and source._phase == COMPLETED
            and isinstance(source._outcome, Parcel)
            and source._dispatcher is self._dispatcher
        ):
            return source._outcome
        return value_of(source, allow_failure)

    def _prepare(self, record: MapRecord[Any]) -> None:
        """Large values that are the same for all elements of a map travel once."""
        self._prepared.add(record)
        record.positional = [
            (column, value if column is not None else self._kept(value))
            for column, value in record.positional
        ]
        if record.keywords:
            record.keywords = {
                name: (column, value if column is not None else self._kept(value))
                for name, (column, value) in record.keywords.items()
            }

    def _kept(self, value: Any) -> Any:
        if type(value) in ATOMS and not (isinstance(value, (str, bytes)) and len(value) > LARGE):
            return value
        try:
            packed = pack(value)
            return value if packed.size <= LARGE else self._keep(value, packed)
        except Exception:
            return value  # found again, and told, where the runs are packed
        except BaseException:
            if _packs(value):
                raise
            return value

    def _see_scope(self, scope: Scope | None) -> None:
        if self.surroundings is None:
            self.scope = scope
            observer = self._dispatcher.observer
            observed = observer is not None and observer.inside
            self.surroundings = surroundings_of(scope, observed=observed)

    def _key_of(self, task: TaskSpec) -> int:
        """What workers know a task by.

        Raises:
            SerializationError: its function cannot be pickled.
            WorkerDied: workers die of it.
        """
        key = self._tasks.get(task)
        if key is None:
            key = self._tasks[task] = len(self.packed_tasks)
            self._tasks_by_key.append(task)
            try:
                digest, data = pack_task(task)
            except SerializationError as error:
                self.packed_tasks.append(error)
            else:
                self.packed_tasks.append(data)
                self._tasks_by_digest.setdefault(digest, task)
        packed = self.packed_tasks[key]
        if not isinstance(packed, bytes):
            raise packed
        return key

    def tasks(self, keys: list[int]) -> dict[int, TaskSpec]:
        """Tasks by their keys."""
        return {key: self._tasks_by_key[key] for key in keys}

    def pack(self, content: Any, failed: dict[int, Outcome]) -> tuple[Any, Packed | None]:
        """A batch's content, without runs that cannot be pickled, which go to `failed`; and what it pickles to."""
        if content is None:
            return None, None
        problem: BaseException
        try:
            return content, pack(content)
        except BaseException as error:
            problem = error
        rows: list[Any]
        if content[0] == "map":
            rows = [
                (p, content[1], content[2] + p, 1, (value,), None, 0, [], None)
                for p, value in enumerate(content[3])
            ]
        elif content[0] == "calls":
            rows = [
                (p, content[1], number, 1, args, None, 0, [], None)
                for p, (number, args) in enumerate(zip(*content[2:], strict=True))
            ]
        else:
            rows = content[1]
        kept = []
        for row in rows:
            if isinstance(row[4], Late):
                kept.append(row)  # it is pickled already
                continue
            task = self._tasks_by_key[row[1]]
            culprit = culprit_in(Call(task, row[4], row[5], row[2], Context(), None))
            if culprit is None:
                kept.append(row)
            else:
                failed[row[0]] = Outcome(FAILED, culprit)
        if not kept:
            return None, None
        if len(kept) == len(rows) and not isinstance(problem, Exception):
            raise problem  # no object's, but Ctrl-C or its like
        content = ("runs", kept)
        return content, pack(content)

    def report_failed(self, batch: Batch, failed: dict[int, Outcome], *, last: bool) -> None:
        """Tells the dispatcher of the runs of a batch that cannot be sent.

        Args:
            batch: the batch.
            failed: their ends, by position.
            last: whether nothing is left of the batch.
        """
        ends = [time.time()] * len(failed)
        self._dispatcher.reported(
            Report(batch.number, list(failed), list(failed.values()), ends, 0.0, last=last, count=0)
        )

    def task(self, key: int | bytes, data: bytes | None) -> TaskSpec:
        """The task that a worker names.

        Args:
            key: as the driver gave it, or the digest of one that the worker has made.
            data: its pickle, the first time.
        """
        if isinstance(key, int):
            return self._tasks_by_key[key]
        task = self._tasks_by_digest.get(key)
        if task is None:
            assert data is not None  # a worker sends a pickle with the first run
            task = self._tasks_by_digest[key] = loads(data)
        return task


def _end_with(error: SerializationError | WorkerDied) -> Outcome:
    return Outcome(CRASHED if isinstance(error, WorkerDied) else FAILED, error)


def _packs(value: Any) -> bool:
    """Whether something can be pickled.

    Raises:
        BaseException: what has nothing to do with it: the user has pressed Ctrl-C, say.
    """
    try:
        pack(value)
    except Exception:
        return False
    except BaseException:
        try:
            pack(value)
        except BaseException:
            return False
        raise
    return True


def culprit_in(call: Call) -> SerializationError | None:
    """See `culprit_of`; handles can be pickled."""
    outer, HERE.packing = HERE.packing, []
    try:
        return culprit_of(call)
    finally:
        HERE.packing = outer


class _ObservedSerializer(BatchSerializer):
    """As `BatchSerializer`, and tells how large messages are: those of one batch at a time."""

    _batch: Batch

    def of(self, batch: Batch) -> tuple[Any, list[int], list[frozenset[str]], dict[int, Outcome]]:
        """See `BatchSerializer`."""
        self._batch = batch
        return super().of(batch)

    def pack(self, content: Any, failed: dict[int, Outcome]) -> tuple[Any, Packed | None]:
        """See `BatchSerializer`."""
        content, packed = super().pack(content, failed)
        observer = self._dispatcher.observer
        if packed is not None and observer is not None:
            observer.packed(self._batch, packed.size)
        return content, packed


def serializer_for(
    dispatcher: PushingDispatcher[Any], keep: Callable[[Any, Packed], Parcel]
) -> BatchSerializer:
    """The serializer of a runner; see `BatchSerializer`."""
    kind = BatchSerializer if dispatcher.observer is None else _ObservedSerializer
    return kind(dispatcher, keep)
