"""The journal of one flow run: the keys of what it submits, what has completed, and what of it is reused.

    submitted ─▶ key ─▶ does it stand in the journal, from a process before this? ─▶ its value
                    └─▶ else it runs, and its value goes to the writer

A run that may start although another failed has a key that does not tell how that one ended. So such runs, and all that take what they give,
are in doubt: they are not reused when that one runs again, and not written when it failed.

May import the other files but those that observe and list.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from shoal.calls import COMPLETED
from shoal.context import CALL, SUBMITTER
from shoal.exceptions import UnstableKeyError
from shoal.logs import library_logger
from shoal.results.journal import contents
from shoal.results.journal.contents import KEY_BYTES, KnownTask
from shoal.results.journal.places import Place, Unknown, key_of_columns, key_of_inputs, key_of_names
from shoal.results.journal.reading import MISSING
from shoal.results.journal.writer import pickled
from shoal.results.keys import function_digest, function_parts, may_read_parameters
from shoal.safely import in_words

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shoal.futures import TaskFuture
    from shoal.results.journal.file import JournalFile
    from shoal.results.journal.reading import Contents
    from shoal.results.journal.values import Values
    from shoal.results.journal.writer import Writer
    from shoal.specs import TaskSpec

__all__ = ["Journal", "MapKeys", "Resumption", "TaskKey", "parts_of", "source_of"]

#: Bytes of the digest of a part of a task's code: they are to show which has changed, and tell no runs apart.
_PART = 8


class Resumption:
    """A flow run that is to go on.

    Attributes:
        file: of the journal, locked.
        contents: of the journal.
        values: those that stand in it.
        given: whether parameters were given anew.
        kept: by its name, the index of a task that counts as what it was, whatever its code is now.
        is_done: whether all runs that it knows of have completed.
    """

    def __init__(
        self,
        file: JournalFile,
        contents: Contents,
        values: Values,
        given: bool,
        kept: Mapping[str, int],
    ) -> None:
        self.file = file
        self.contents = contents
        self.values = values
        self.given = given
        self.kept = kept
        facts = contents.facts
        self.is_done = all(
            facts.completed[index] >= count for index, count in facts.submitted.items()
        )


def source_of(function: Any, parameters: bytes) -> bytes:
    """What a task's function is, as its runs are known: its code, and the flow's parameters if that may read them.

    Args:
        function: the function.
        parameters: the key of the flow's.

    Raises:
        UnstableKeyError: it is bound to something that has no stable key.
    """
    code = function_digest(function)
    return key_of_names(code, parameters) if may_read_parameters(function) else code


def parts_of(function: Any) -> dict[str, str]:
    """By name, the beginnings of the digests of what a function's code consists of; errors as of `source_of`."""
    return {name: digest[:_PART].hex() for name, digest in function_parts(function).items()}


class TaskKey:
    """A task, as its runs are known again.

    Attributes:
        task: the task.
        index: in the journal.
        key: of its name and its code; `None` if that has none.
        names: of its parameters.
        takes: indices of tasks whose results it was given.
        told: what the journal was told of it.
        refused: whether it was said that not every run of it has a key.
    """

    __slots__ = ("index", "key", "names", "refused", "takes", "task", "told")

    def __init__(self, task: TaskSpec, index: int, source: bytes | None) -> None:
        self.task = task
        self.index = index
        self.key = key_of_names(task.name.encode(), source) if source is not None else None
        self.names = tuple(task.signature.parameters) if task.signature is not None else ()
        self.takes: set[int] = set()
        self.told: KnownTask | None = None
        self.refused = False


class MapKeys:
    """The keys of a map's runs.

    Attributes:
        task: theirs.
        reused: 1 for those whose values were there.
        pending: index and plain value of those that have completed and are to be written.
        awake: whether the writer is about to look at these.
    """

    __slots__ = ("_keys", "awake", "pending", "reused", "task")

    def __init__(self, task: TaskKey, keys: bytes) -> None:
        self.task = task
        self._keys = keys  # one after another: by itself, each would take four times the room
        self.reused = bytearray()
        self.pending: list[tuple[int, Any]] = []
        self.awake = False

    def __len__(self) -> int:
        return len(self._keys) // KEY_BYTES

    def __getitem__(self, index: int) -> bytes:
        return self._keys[index * KEY_BYTES : (index + 1) * KEY_BYTES]

    def of(self, start: int, stop: int) -> bytes:
        """Keys of consecutive runs, one after another."""
        return self._keys[start * KEY_BYTES : stop * KEY_BYTES]

    def take(self) -> tuple[int, bytes, list[Any]]:
        """See `Pending` of the writer."""
        self.awake = False  # before it looks: what comes from here on wakes it again
        count = len(self.pending)
        some = self.pending[:count]
        del self.pending[:count]  # what is appended meanwhile is behind it
        keys = b"".join([self[index] for index, _ in some])
        return self.task.index, keys, [value for _, value in some]


class Journal:
    """What is known of the runs of a flow run.

    Args:
        known: tasks that stand in the journal.
        values: what has completed before; `None` at first.
        kept: by name, the index of a known task that counts as what it was, whatever its code is now.
        parameters: the key of the flow's.

    Attributes:
        writer: what is added is told to it.
        reused: by the task's index, how many runs ended with values that were there.
    """

    def __init__(
        self,
        known: dict[int, KnownTask],
        values: Values | None,
        kept: Mapping[str, int],
        parameters: bytes,
    ) -> None:
        self.values = values
        self._parameters = parameters
        self._kept = kept
        self.writer: Writer = None  # type: ignore[assignment]  # follows at once
        self.reused: Counter[int] = Counter()
        self._submitted: Counter[int] = Counter()
        self._tasks: dict[TaskSpec, TaskKey] = {}
        self._known = dict(known)
        self._keys: dict[int, tuple[TaskKey, bytes]] = {}  # by the run's number
        self._reused: set[int] = set()
        #: By the number of a run in doubt, what is allowed to fail and had not completed when it was asked last.
        self._doubts: dict[int, tuple[TaskFuture[Any], ...]] = {}
        self._maps: dict[int, MapKeys] = {}  # by the first run's number
        #: The keys of a map by the number of its first run.
        self.map_keys = self._maps.get
        self._bases: list[int] = []
        self._places: dict[tuple[int, int], Place] = {}
        self._lock = threading.Lock()

    # ------------------------------------------------------------------ tasks

    def counts(self) -> dict[int, int]:
        """How many runs of each task were submitted so far."""
        # Without the lock, which is held while code is hashed, and a million keys: what has completed does not wait for that.
        return dict(self._submitted)

    def task(self, task: TaskSpec) -> TaskKey:
        """What is known of a task."""
        known = self._tasks.get(task)
        if known is None:
            with self._lock:
                known = self._tasks.get(task)
                if known is None:
                    known = self._tasks[task] = self._new_task(task)
            self._tell_task(known)
        return known

    def _new_task(self, task: TaskSpec) -> TaskKey:
        try:
            source: bytes | None = source_of(task.fn, self._parameters)
            parts = parts_of(task.fn)
        except Exception as error:  # of the user's objects, too
            source, parts = None, {}
            self._refuse_code(task, error)
        text = source.hex() if source is not None else ""
        kept = self._kept.get(task.name)
        for index, known in self._known.items():
            if (known.name, known.source) == (task.name, text) if kept is None else index == kept:
                key = TaskKey(task, index, bytes.fromhex(known.known_by) or source)
                key.takes.update(known.takes)
                if known.source != text:
                    self._known[index] = replace(
                        known, source=text, kept=known.known_by, parts=parts
                    )
                return key
        index = max(self._known, default=-1) + 1
        function = task.fn
        self._known[index] = KnownTask(
            index=index,
            name=task.name,
            module=str(getattr(function, "__module__", "")),
            qualname=str(getattr(function, "__qualname__", "")),
            source=text,
            takes=[],
            parts=parts,
        )
        return TaskKey(task, index, source)

    def _refuse_code(self, task: TaskSpec, error: Exception) -> None:
        library_logger().warning(
            "Runs of %r are not remembered: its code has no stable key (%s)",
            task.name,
            in_words(error),
        )

    def _tell_task(self, task: TaskKey) -> None:
        known = self._known[task.index]
        said = replace(known, takes=sorted(task.takes))
        if said != task.told:
            task.told = said
            self.writer.frame(contents.TASK, contents.to_json(said))

    def name_of(self, index: int) -> str:
        """The name of a task."""
        return self._known[index].name

    # ------------------------------------------------------------------ keys

    def place(self, body: Place) -> Place | None:
        """Where the caller submits runs; `None` if nobody will know that again.

        Args:
            body: of the flow run's body, if the caller is in no task.
        """
        call = CALL.get()
        which = SUBMITTER.get() if call is None else (call.number, call.attempt)
        if which is None:
            return body
        place = self._places.get(which)
        if place is None:
            known = self.key_of(which[0])
            if known is None:
                return None
            place = self._places.setdefault(which, Place(known[1]))
        return place

    def key_of(self, number: int) -> tuple[TaskKey, bytes] | None:
        """The task and the key of a run that was submitted; `None` if it has none."""
        known = self._keys.get(number)
        if known is not None:
            return known
        element = self._element(number)
        return None if element is None else (element[0].task, element[0][element[1]])

    def _element(self, number: int) -> tuple[MapKeys, int] | None:
        """Of which map a run is an element, and which; `None` if of none."""
        # Others append to it, or make a new list: what it has stays where it is.
        bases = self._bases
        place = bisect_right(bases, number) - 1
        if place < 0:
            return None
        keys, index = self._maps[bases[place]], number - bases[place]
        return (keys, index) if index < len(keys) else None

    def key_for(
        self,
        body: Place,
        task: TaskSpec,
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        wait_for: Any,
    ) -> tuple[TaskKey, bytes, tuple[TaskFuture[Any], ...] | None] | None:
        """The key of a run that is about to be submitted.

        Args:
            body: see `place`.
            task: the task.
            args: positional arguments.
            kwargs: keyword arguments.
            wait_for: what it waits for.

        Returns:
            The task, the key, and for a run in doubt those that are allowed to fail, which `submits` is to be told; no value of such a
            run may be reused. `None` if the run has no key.
        """
        known = self.task(task)
        with self._lock:
            self._submitted[known.index] += 1
        place = self.place(body)
        if known.key is None or place is None:
            return None
        doubts: tuple[TaskFuture[Any], ...] | None = None

        def run_key(run: TaskFuture[Any], allow_failure: bool) -> bytes:
            nonlocal doubts
            upstream = self.key_of(run._number)
            if upstream is None:
                raise Unknown
            if run._number in self._doubts:
                doubts = (*(doubts or ()), *self._doubts[run._number])
            if allow_failure and not self.is_reused(run._number):
                doubts = (*(doubts or ()), run)  # it may end otherwise than it did
            if upstream[0].index not in known.takes:
                known.takes.add(upstream[0].index)
                self._tell_task(known)
            return upstream[1]

        try:
            given = key_of_inputs(known.names, args, kwargs, wait_for, run_key)
        except Unknown:
            return None
        except Exception as error:  # containers that cannot be copied, too: the run will say so
            self._refuse(known, error)
            return None
        with self._lock:
            return known, place.key_for(known.key, given), doubts

    def keys_for(
        self,
        body: Place,
        task: TaskSpec,
        positional: list[tuple[list[Any] | None, Any]],
        keywords: dict[str, tuple[list[Any] | None, Any]],
        size: int,
    ) -> MapKeys | None:
        """As `key_for` for a map without futures."""
        known = self.task(task)
        with self._lock:
            self._submitted[known.index] += size
        place = self.place(body)
        if known.key is None or place is None:
            return None
        try:
            given = key_of_columns(known.names, positional, keywords, size)
        except Exception as error:  # of the user's objects, too
            self._refuse(known, error)
            return None
        with self._lock:
            return MapKeys(known, place.keys_for(known.key, given))

    def _refuse(self, task: TaskKey, error: Exception) -> None:
        if not task.refused:
            task.refused = True
            why = in_words(error)
            if isinstance(error, UnstableKeyError):
                why = f"{error.path} ({error.type_name}) has no stable key: {error.problem}"
            library_logger().warning("Not every run of %r is remembered: %s", task.task.name, why)

    # ------------------------------------------------------------------ what was, and what is now

    def value(self, key: bytes) -> Any:
        """The value of a run that completed before; `MISSING` if none did."""
        return MISSING if self.values is None else self.values.get(key)

    def submits(
        self,
        number: int,
        task: TaskKey,
        key: bytes,
        doubts: tuple[TaskFuture[Any], ...] | None = None,
    ) -> None:
        """A run is about to be submitted; `doubts` as `key_for` gave them."""
        self._keys[number] = task, key
        if doubts is not None:
            self._doubts[number] = doubts

    def reuses(self, number: int, task: TaskKey, key: bytes) -> None:
        """A run ends with a value that was there."""
        self._keys[number] = task, key
        self._reused.add(number)
        with self._lock:
            self.reused[task.index] += 1

    def maps(self, base: int, keys: MapKeys) -> None:
        """A map is about to be submitted; `keys.reused` says which of its values were there."""
        with self._lock:
            self._maps[base] = keys
            if not self._bases or self._bases[-1] < base:  # nearly always
                self._bases.append(base)
            else:
                self._bases = sorted((*self._bases, base))
            if keys.reused:
                self.reused[keys.task.index] += sum(keys.reused)

    def is_reused(self, number: int) -> bool:
        """Whether a run ended with a value that was there."""
        if number in self._reused:
            return True
        element = self._element(number)
        return (
            element is not None and bool(element[0].reused) and bool(element[0].reused[element[1]])
        )

    def completed(self, number: int, value: Any) -> None:
        """A run has completed. What is mutable of its value is pickled here."""
        known = self.key_of(number)
        if known is None:
            return
        doubts = self._doubts.get(number)
        if doubts:  # what has completed is forgotten: a future keeps its value
            doubts = tuple([run for run in doubts if run._phase != COMPLETED])
            self._doubts[number] = doubts
            if doubts:
                return
        task, key = known
        try:
            self.writer.run(task.index, key, pickled(value))
        except Exception as error:
            self.writer.refuse(task.index, error)

    def all_completed(self, keys: MapKeys, start: int, values: list[Any]) -> None:
        """As `completed` for consecutive runs of a map."""
        task = keys.task.index
        if contents.PLAIN_TYPES.issuperset(map(type, values)):
            self.writer.runs(task, keys.of(start, start + len(values)), list(values))
            return
        for index, value in enumerate(values, start):
            try:
                self.writer.run(task, keys[index], pickled(value))
            except Exception as error:
                self.writer.refuse(task, error)
