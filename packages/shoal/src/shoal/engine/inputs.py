"""Inputs: finding the futures and States in arguments, and putting values in their place (SPEC 5.1, 5.4, 5.6).

    arguments ──▶ scan ──▶ leaves: the inputs ──────────────────▶ collect: what does the run wait for?
                       └─▶ containers on the way to them ───────▶ substitute: copies with values in place

*Inputs* are futures, lists of futures (which become lists of values) and States. They are looked for in containers
(see `shoal.engine.containers`) at any depth, and in annotations.

What can be relied on:

- A container is rebuilt only if something in it changed, else it is handed over itself.
- What is shared stays shared, and a cycle stays a cycle, of the copies.
- Nothing here recurses, so no nesting is too deep; time is linear in what is visited.
- Annotations are gone afterwards, wherever they were.

A container both inside and outside of `allow_failure` counts as two, because its futures may have two values.

May import `futures`, `engine.containers`, and whatever those may import.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple, TypeAlias

from shoal.annotations import Annotation, allow_failure, opaque, quote
from shoal.calls import COMPLETED, NOT_READY
from shoal.engine.containers import ATOMS, TUPLE, Container, container_of
from shoal.exceptions import UpstreamTaskError
from shoal.futures import TaskFuture, TaskFutureList, collections
from shoal.states import State, get_state_exception

__all__ = [
    "ATOMS",
    "Input",
    "collect",
    "collect_wait_for",
    "has_no_inputs",
    "replace_futures",
    "replace_returned",
    "runs_among",
    "runs_in",
    "substitute",
    "upstream_error",
    "value_of",
]


def value_of(source: TaskFuture[Any] | State[Any], allow_failure: bool) -> Any:
    """The value of an ended run, or of a State given in its place.

    Args:
        source: the run, which has ended, or the State.
        allow_failure: whether the exception is the value of one that did not complete.

    Raises:
        UpstreamTaskError: it did not complete.
    """
    if isinstance(source, TaskFuture):
        if source._phase == COMPLETED:
            return source._dispatcher.value_of(source)
        if allow_failure:
            return source._error()
    else:
        if source.is_completed():
            return source.result()
        if allow_failure:
            return get_state_exception(source)
    raise upstream_error(source)


def upstream_error(source: TaskFuture[Any] | State[Any]) -> UpstreamTaskError:
    """Why a run that needs `source` can't start: names the run that failed first."""
    if isinstance(source, TaskFuture):
        if source._phase == NOT_READY and isinstance(source._outcome, UpstreamTaskError):
            return source._outcome
        return UpstreamTaskError(
            run_name=source.name,
            task_name=source._task.name,
            state=str(source.state),
            cause=source._error(),
        )
    return UpstreamTaskError(
        run_name=None, task_name="(a State)", state=str(source), cause=get_state_exception(source)
    )


class Input(NamedTuple):
    """Something that a run needs before it can start.

    Attributes:
        future: the future, or a State passed in its place.
        allow_failure: whether the run may start if it did not complete: only if it is so wrapped wherever it occurs.
    """

    future: TaskFuture[Any] | State[Any]
    allow_failure: bool


ValueOf: TypeAlias = Callable[[Any, bool], object]
"""Gives the value in place of a future or State, told whether its failure is allowed."""


def has_no_inputs(values: Iterable[object]) -> bool:
    """Whether all of some values are atomic; a container among them gives False, whatever it holds. Hot."""
    return ATOMS.issuperset(map(type, values))


def runs_among(entries: Iterable[Input]) -> list[TaskFuture[Any]]:
    """Those of some inputs that are runs, and no states."""
    return [entry.future for entry in entries if isinstance(entry.future, TaskFuture)]


def runs_in(value: Any) -> list[TaskFuture[Any]]:
    """The runs in a value."""
    return runs_among(collect((value,), None))


def collect(args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> list[Input]:
    """The inputs in a call's arguments. Hot.

    Args:
        args: positional arguments.
        kwargs: keyword arguments, if any.

    Returns:
        Each input once, in the order of the arguments.
    """
    if not kwargs:
        types = {*map(type, args)}
        if types <= ATOMS:
            return []
        if types <= _ATOMS_AND_FUTURES:
            return [Input(arg, False) for arg in dict.fromkeys(args) if type(arg) is TaskFuture]
    found: dict[object, Input] = {}
    for leaf in _Scan((*args, *kwargs.values()) if kwargs else args).leaves.values():
        _add(found, leaf.source, leaf.allow)
    return list(found.values())


def substitute(
    args: tuple[Any, ...], kwargs: dict[str, Any] | None, resolve: ValueOf
) -> tuple[tuple[Any, ...], dict[str, Any] | None]:
    """The arguments a task receives: values in place of inputs, annotations taken off. Hot.

    Args:
        args: positional arguments.
        kwargs: keyword arguments, if any.
        resolve: gives the values, which are not looked into.

    Returns:
        The arguments, the very same where nothing had to be replaced; `None` for no keyword arguments.

    Raises:
        Exception: whatever `resolve` raises, and copying a container raises (with a note that names its type).
    """
    if not kwargs:
        types = {*map(type, args)}
        if types <= ATOMS:
            return args, None
        if types <= _ATOMS_AND_FUTURES:
            values = [resolve(arg, False) if type(arg) is TaskFuture else arg for arg in args]
            return tuple(values), None
        return _Scan(args).rebuild(resolve), None
    old = (*args, *kwargs.values())
    new = _Scan(old).rebuild(resolve)
    if new is old:
        return args, kwargs
    return new[: len(args)], dict(zip(kwargs, new[len(args) :], strict=True))


def replace_futures(value: Any, replace: Callable[[TaskFuture[Any]], object]) -> Any:
    """A value with every future in it replaced; States in it stay, and what is quoted.

    Args:
        value: anything.
        replace: gives what is to stand in place of a future.
    """
    return replace_returned(value, lambda future, _: replace(future))


def replace_returned(value: Any, resolve: ValueOf) -> Any:
    """As `replace_futures`, for what a task or flow returned: the failure of a run may be allowed there.

    Returns:
        The value; the very same where there is no future in it.
    """
    if type(value) in ATOMS:
        return value
    scan = _Scan((value,), returned=True)
    return scan.rebuild(resolve)[0] if scan.has_leaves() else value


def collect_wait_for(wait_for: Any) -> list[Input]:
    """The inputs in a `wait_for` option.

    Args:
        wait_for: a future, a State, a list of futures, an iterator or any collection of these, nested as deep as one
            likes, each or all in `allow_failure(...)`; or `None`. Values may be among them, such as a direct call
            gives: they are there already.

    Returns:
        Each input once, in order.
    """
    if wait_for is None:
        return []
    if isinstance(
        wait_for, Iterator
    ):  # only here: further in, it is a value, and not ours to use up
        wait_for = list(wait_for)
    found: dict[object, Input] = {}
    for leaf in _Scan((wait_for,)).leaves.values():
        _add(found, leaf.source, leaf.allow)
    return list(found.values())


def _add(found: dict[object, Input], source: TaskFuture[Any] | State[Any], allow: bool) -> None:
    # Futures are one if they stand for one run. States are one only if they are one object: to compare two of them
    # would be to compare, perhaps to fetch, their data.
    key = id(source) if isinstance(source, State) else source
    if key not in found or not allow:
        found[key] = Input(source, allow)


_ATOMS_AND_FUTURES: Final = ATOMS | {TaskFuture}


# ---------------------------------------------------------------------- what to do with an object

_FUTURE: Final = "future"
_FUTURES: Final = "futures"
_STATE: Final = "state"
_ANNOTATION: Final = "annotation"

# A container, one of the four above, or None: left alone.
_Kind: TypeAlias = Container | str | None

_kinds: dict[type, _Kind] = {}
_KINDS_KEPT: Final = 4096  # the cache keeps classes alive, and some programs make them without end


def _kind_of(cls: type) -> _Kind:
    """What to do with instances of a class."""
    try:
        return _kinds[cls]
    except KeyError:
        if len(_kinds) >= _KINDS_KEPT:
            _kinds.clear()
        kind = _kinds[cls] = _classify(cls)
        return kind


def _classify(cls: type) -> _Kind:
    if issubclass(cls, TaskFuture):
        return _FUTURE
    if issubclass(cls, TaskFutureList):
        return _FUTURES
    if issubclass(cls, State):
        return _STATE
    if issubclass(cls, Annotation):
        return _ANNOTATION
    return container_of(cls)


def _peel(annotation: Annotation[Any], allow: bool) -> tuple[Any, _Kind, bool]:
    """What is inside annotations, what to do with it, and whether its failure is allowed."""
    value: Any = annotation
    shallow = False
    while isinstance(value, Annotation):
        if isinstance(value, quote):
            return value.value, None, allow
        allow = allow or isinstance(value, allow_failure)
        shallow = shallow or isinstance(value, opaque)
        value = value.value
    kind = _kind_of(type(value))
    return value, None if shallow and isinstance(kind, Container) else kind, allow


# ---------------------------------------------------------------------- scanning and rebuilding

_MISSING: Final[Any] = object()


class _Part:
    """What becomes of a part of a container: `new`, which is `_MISSING` until it is known."""

    __slots__ = ("new",)

    def __init__(self, new: Any = _MISSING) -> None:
        self.new = new


class _Leaf(_Part):
    """A future or State (`source`), and whether it is inside `allow_failure`."""

    __slots__ = ("allow", "source")

    def __init__(self, source: Any, allow: bool) -> None:
        self.new = _MISSING
        self.source = source
        self.allow = allow


class _Leaves(_Part):
    """A list of futures."""

    __slots__ = ("leaves",)

    def __init__(self, leaves: list[_Leaf]) -> None:
        self.new = _MISSING
        self.leaves = leaves


class _Node(_Part):
    """A container that holds something other than atoms.

    Attributes:
        whole: the container.
        kind: how it is taken apart and put together.
        allow: whether it is inside `allow_failure`.
        old: its parts.
        links: what becomes of those parts that may change: their index, and what takes the place.
        changed: whether it has to be rebuilt.
    """

    __slots__ = ("allow", "changed", "kind", "links", "old", "whole")

    def __init__(self, whole: Any, kind: Container, allow: bool, old: list[Any]) -> None:
        self.new = _MISSING
        self.whole = whole
        self.kind = kind
        self.allow = allow
        self.old = old
        self.links: list[tuple[int, _Part]] = []
        self.changed = False


class _Scan:
    """One walk through some values, depth first, and what was found.

    Args:
        roots: the values.
        returned: whether they are what a run returned: States and what is quoted are values then.

    Attributes:
        leaves: futures and States in the order in which they were met, by identity and `allow_failure`.
    """

    __slots__ = ("_lists", "_nodes", "_order", "_returned", "_top", "leaves")

    def __init__(self, roots: tuple[Any, ...], returned: bool = False) -> None:
        self.leaves: dict[tuple[int, bool], _Leaf] = {}
        self._returned = returned
        self._lists: list[_Leaves] = []
        self._nodes: dict[tuple[int, bool], _Node] = {}
        self._order: list[_Node] = []  # innermost first, as far as cycles allow
        self._top = _Node(roots, TUPLE, False, list(roots))
        self._walk()

    def _walk(self) -> None:
        stack = [(self._top, enumerate(self._top.old))]
        while stack:
            node, parts = stack[-1]
            for index, part in parts:
                if type(part) in ATOMS:
                    continue
                kind = _kind_of(type(part))
                if kind is None:
                    continue
                allow = node.allow
                if kind is _ANNOTATION:
                    if self._returned and isinstance(part, quote):
                        continue
                    node.changed = True
                    part, kind, allow = _peel(part, allow)
                    node.links.append(
                        (index, _Part(part))
                    )  # what is found inside it comes later and wins
                if isinstance(kind, Container):
                    child = self._nodes.get((id(part), allow))
                    if child is not None:
                        node.links.append((index, child))
                        continue
                    old = kind.parts(part)
                    if not ATOMS.issuperset(map(type, old)):
                        child = self._nodes[id(part), allow] = _Node(part, kind, allow, old)
                        node.links.append((index, child))
                        stack.append((child, enumerate(old)))
                        break  # and go on with `parts` when the child is done
                elif kind is _FUTURE or (kind is _STATE and not self._returned):
                    node.changed = True
                    node.links.append((index, self._leaf(part, allow)))
                elif kind is _FUTURES:
                    node.changed = True
                    found = _Leaves([self._leaf(future, allow) for future in part])
                    self._lists.append(found)
                    node.links.append((index, found))
            else:
                stack.pop()
                self._order.append(node)

    def _leaf(self, source: Any, allow: bool) -> _Leaf:
        key = id(source), allow
        leaf = self.leaves.get(key)
        if leaf is None:
            leaf = self.leaves[key] = _Leaf(source, allow)
        return leaf

    def has_leaves(self) -> bool:
        """Whether there is anything to replace, though it be an empty list of futures."""
        return bool(self.leaves or self._lists)

    def rebuild(self, resolve: ValueOf) -> tuple[Any, ...]:
        """The roots with values in place of leaves; the same tuple if there is nothing to do."""
        if not any(node.changed for node in self._order):
            roots: tuple[Any, ...] = self._top.whole
            return roots
        for leaf in self.leaves.values():
            leaf.new = resolve(leaf.source, leaf.allow)
        for found in self._lists:
            found.new = [leaf.new for leaf in found.leaves]
        self._spread_changes()
        node = self._top
        try:
            for node in self._order:
                if not node.changed:
                    node.new = node.whole
                elif node.kind.open:
                    node.new = node.kind.copied(node.whole)
            # A container can be finished once there is something for each of its parts: a value, another container,
            # or the copy of an open one, which is how cycles are closed. One for which there is not waits its turn.
            waiting = deque(node for node in self._order if node.changed)
            while waiting:
                node = waiting.popleft()
                if any(part.new is _MISSING for _, part in node.links):
                    waiting.append(node)
                else:
                    node.new = self._rebuilt(node)
        except Exception as error:  # copying calls the user's code, and hashes values
            kind = type(node.whole).__qualname__
            with suppress(Exception):  # not every exception takes a note
                error.add_note(
                    f"while futures in an argument of type {kind} were replaced by values"
                )
            raise
        result: tuple[Any, ...] = self._top.new
        return result

    def _spread_changes(self) -> None:
        """A container in which something changed has changed itself."""
        parents: dict[_Part, list[_Node]] = {}
        for node in self._order:
            for _, part in node.links:
                parents.setdefault(part, []).append(node)
        changed = [node for node in self._order if node.changed]
        for node in changed:
            for parent in parents.get(node, ()):
                if not parent.changed:
                    parent.changed = True
                    changed.append(parent)  # the loop gets there

    def _rebuilt(self, node: _Node) -> Any:
        parts = node.old.copy()
        for index, part in node.links:
            parts[index] = part.new
        return node.kind.rebuilt(node.whole, node.new, node.old, parts)


# `shoal.futures` offers this too, and may not import from here.
collections.replacer = replace_futures
