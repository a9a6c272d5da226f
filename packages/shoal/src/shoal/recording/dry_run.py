"""A flow's body is run to see what it would do; its tasks are not: what `flow.visualize` does.

    SCOPE ─▶ DryScope: which flow run's body this is ─▶ DryRun, in the place of a dispatcher: a node for each submit, map
                                                        and direct call, links from what is in its arguments

What a task "returns" is its `viz_return_value`, or a `Placeholder`, which can be passed on and does nothing else. Where
a value came from is known by its identity: of a future, a list of futures, a placeholder, or a `viz_return_value`.

May import `drawing`, scheduling and what lies above it.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from time import time
from typing import TYPE_CHECKING, Any, NoReturn

from shoal.annotations import Annotation, opaque, quote, unmapped
from shoal.calls import COMPLETED
from shoal.context import CALL, SCOPE, TAGS, FlowRun, Scope
from shoal.engine.columns import column, common_length
from shoal.engine.containers import ATOMS, container_of
from shoal.engine.flow_run import state_of_returned
from shoal.engine.inputs import replace_returned, value_of
from shoal.exceptions import MappingMissingIterable, VisualizationError
from shoal.futures import TaskFuture, TaskFutureList
from shoal.names import flow_run_name, next_number
from shoal.recording.drawing import Drawing, DrawnFlow, DrawnTask, Link
from shoal.scheduling.answers import Answers
from shoal.states import State

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine, Generator, Iterator

    from shoal.context import FlowLabel
    from shoal.specs import FlowSpec, TaskSpec

__all__ = ["DryRun", "DryScope", "Placeholder", "draw"]


def draw(flow: FlowSpec, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Drawing:
    """The drawing of a flow called with these arguments.

    Raises:
        VisualizationError: the flow's body does something with the result of a task that has no `viz_return_value`.
        ParameterBindError: the arguments do not fit the signature.
        ParameterTypeError: one does not fit its annotation.
        Exception: what the flow's body raises.
    """
    run = DryRun()
    token = SCOPE.set(None)  # it is no part of a flow that may be around the caller
    try:
        if flow.is_async:
            # A thread of its own, as a loop may be running in this one: in a notebook there is.
            with ThreadPoolExecutor(1, thread_name_prefix="shoal-visualize") as aside:
                aside.submit(
                    copy_context().run, asyncio.run, run.exhausted_async(flow, args, kwargs)
                ).result()
        else:
            value = run.flow(flow, args, kwargs, None, False)
            if flow.is_generator:
                for _ in value:
                    pass
    finally:
        SCOPE.reset(token)
    return Drawing(run.flows, run.tasks, run.links)


class Placeholder:
    """Stands for the result of a task that was not executed: it may be passed to tasks, flows and into containers.

    Whatever else is done with it raises `VisualizationError`.
    """

    __slots__ = ("_node", "_task_name")

    def __init__(self, task_name: str, node: str) -> None:
        self._task_name = task_name
        self._node = node

    def __repr__(self) -> str:
        return f"<result of task {self._task_name!r}>"

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):  # a protocol is looked for
            raise AttributeError(f"a placeholder has no attribute {name!r}")
        raise _used(self, f".{name}")


def _used(placeholder: Placeholder, how: str) -> VisualizationError:
    name = placeholder._task_name
    return VisualizationError(
        task_name=name,
        problem=f"the flow uses the result of task {name!r} ({how}), but tasks are not executed when a flow is drawn; "
        f"give the task a value that stands for its result: @task(viz_return_value=...)",
    )


def _refusing(operation: str) -> Any:
    def method(self: Placeholder, *_: Any) -> NoReturn:
        raise _used(self, operation)

    return method


_OPERATIONS = (
    "bool len iter next aiter anext contains getitem setitem delitem call enter aenter await int float complex index round"
    " eq ne lt le gt ge add radd sub rsub mul rmul matmul rmatmul truediv rtruediv floordiv rfloordiv mod rmod divmod"
    " rdivmod pow rpow lshift rlshift rshift rrshift and rand or ror xor rxor neg pos abs invert array exit aexit fspath"
    " bytes reversed trunc floor ceil"
)
for _operation in _OPERATIONS.split():
    setattr(Placeholder, f"__{_operation}__", _refusing(_operation))
Placeholder.__hash__ = object.__hash__  # type: ignore[method-assign]  # as a key it is passed on


class DryScope(Scope):
    """The scope of a flow's body that is run to be drawn.

    Attributes:
        drawing, calls: the dry run, which `Task` and `Flow` look for.
        group: id of the flow run.
    """

    __slots__ = ("calls", "drawing", "group")

    drawing: DryRun
    calls: DryRun

    def __init__(self, run: DryRun, flow_run: FlowRun, group: str) -> None:
        super().__init__(run, flow_run)
        self.drawing = self.calls = run
        self.group = group


class DryRun(Answers):
    """Takes runs and executes none.

    Attributes:
        flows, tasks, links: what was found, see `Drawing`.
    """

    scheduler = None
    runner_name = "visualize"
    keeper = None

    def __init__(self) -> None:
        super().__init__()
        self.flows: list[DrawnFlow] = []
        self.tasks: list[DrawnTask] = []
        self.links: list[Link] = []
        self._nodes: dict[int, str] = {}  # by run number
        # By the identity of a value: where it came from, and the value, so that no other gets that identity.
        self._known: dict[int, tuple[str, object]] = {}

    # ------------------------------------------------------------------ runs

    def submit(
        self, task: Any, args: tuple[Any, ...], kwargs: Any, wait_for: Any, scope: Scope
    ) -> TaskFuture[Any]:
        """See `Submitter`."""
        value = self._node(task, (args, kwargs), wait_for, scope)
        return self._future(task, value)

    def submit_map(
        self, task: Any, positional: Any, keywords: Any, size: int, wait_for: Any, scope: Scope
    ) -> TaskFutureList[Any]:
        """See `Submitter`."""
        given = positional, keywords
        return self._mapped(task, given, size, size, wait_for, scope)

    def map(
        self,
        task: TaskSpec,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        wait_for: Any,
        return_state: bool,
    ) -> Any:
        """As `Task.map`; over what is not known before it runs, one run stands for all."""
        unknown = any(_is_unknown(value) for value in (*args, *kwargs.values()))
        columns = [(None, value) if _is_unknown(value) else column(value) for value in args]
        named = {
            name: (None, value) if _is_unknown(value) else column(value)
            for name, value in kwargs.items()
        }
        try:
            size: int | None = common_length(task, columns, named)
        except MappingMissingIterable:
            if not unknown:
                raise
            size = None
        task.bind(args, kwargs)
        scope = SCOPE.get()
        assert scope is not None  # it is ours
        futures = self._mapped(
            task, (args, kwargs), size, 1 if size is None else size, wait_for, scope
        )
        return [future.state for future in futures] if return_state else futures

    def _mapped(
        self, task: Any, given: Any, count: int | None, size: int, wait_for: Any, scope: Scope
    ) -> TaskFutureList[Any]:
        value = self._node(task, given, wait_for, scope, count, is_map=True)
        futures = TaskFutureList([self._future(task, value) for _ in range(size)])
        self._remember(futures, self.tasks[-1].id)
        return futures

    def call(
        self,
        task: TaskSpec,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        wait_for: Any,
        return_state: bool,
    ) -> Any:
        """As `Task.__call__`."""
        scope = SCOPE.get()
        assert scope is not None  # it is ours
        value = self._node(task, (args, kwargs), wait_for, scope)
        if return_state:
            value = self._future(task, value).state
        elif task.is_generator:
            items = [value] if isinstance(value, Placeholder) else value
            return _each_async(items) if task.is_async else iter(items)
        return _at_once(value) if task.is_async else value

    def _node(
        self,
        task: TaskSpec,
        given: Any,
        wait_for: Any,
        scope: Scope,
        count: int | None = 1,
        *,
        is_map: bool = False,
    ) -> Any:
        """Draws a node and the links to it; gives what stands for the result."""
        node = f"t{len(self.tasks)}"
        group = scope.group if isinstance(scope, DryScope) else self.flows[0].id
        self.tasks.append(DrawnTask(node, task.name, count, is_map, group))
        self._link(given, wait_for, node)
        value = task.viz_return_value
        if value is None:
            return Placeholder(task.name, node)
        self._remember(value, node)
        return value

    def _future(self, task: TaskSpec, value: Any) -> TaskFuture[Any]:
        number = next_number()
        self._nodes[number] = self.tasks[-1].id
        return TaskFuture(self, task, number, None, time(), COMPLETED, value)

    # ------------------------------------------------------------------ flows

    def flow(
        self,
        flow: FlowSpec,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        wait_for: Any,
        return_state: bool,
    ) -> Any:
        """As `Flow.__call__`: runs the flow's body in a frame of its own."""
        scope, args, kwargs = self._entered(flow, args, kwargs, wait_for)
        if flow.is_generator and not return_state:
            if flow.is_async:
                return _inside_async(scope, flow.fn(*args, **kwargs))
            return _inside(scope, flow.fn(*args, **kwargs))
        if flow.is_async:
            return self._returned_async(flow, scope, args, kwargs, return_state)
        with _set(scope):
            value = flow.fn(*args, **kwargs)
            if flow.is_generator:
                value = list(value)
        return _given(value, return_state)

    async def _returned_async(
        self, flow: FlowSpec, scope: Scope, args: Any, kwargs: Any, return_state: bool
    ) -> Any:
        with _set(scope):
            value = flow.fn(*args, **kwargs)
            value = [item async for item in value] if flow.is_generator else await value
        return _given(value, return_state)

    async def exhausted_async(
        self, flow: FlowSpec, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Runs an async flow to its end."""
        value = self.flow(flow, args, kwargs, None, False)
        if flow.is_generator:
            async for _ in value:
                pass
        else:
            await value

    def _entered(
        self, flow: FlowSpec, args: tuple[Any, ...], kwargs: dict[str, Any], wait_for: Any
    ) -> tuple[DryScope, tuple[Any, ...], dict[str, Any]]:
        outer = SCOPE.get()
        parent = outer.group if isinstance(outer, DryScope) else None
        group = f"f{len(self.flows)}"
        self.flows.append(DrawnFlow(group, flow.name, parent))
        self._link((), wait_for, group)
        args, kwargs = replace_returned((args, kwargs), _awaited)
        # What a placeholder stands for may fit its annotation: only what is there can be looked at.
        knows_all = not any(
            isinstance(value, Placeholder) for value in _walk((args, kwargs), self._known)
        )
        args, kwargs, parameters = flow.validated(args, kwargs, coerce=knows_all)
        record = FlowRun(
            *(flow, next_number(), flow_run_name(), parameters, TAGS.get()),
            outer.flow_run if outer is not None else None,
        )
        record.run_count = 1
        return DryScope(self, record, group), args, kwargs

    # ------------------------------------------------------------------ where values came from

    def _link(self, given: Any, wait_for: Any, target: str) -> None:
        passed = self._sources(given)
        self.links += [Link(source, target, False) for source in passed]
        self.links += [
            Link(source, target, True) for source in self._sources(wait_for) if source not in passed
        ]

    def _sources(self, value: Any) -> dict[str, None]:
        """Ids of the nodes from which something in a value came, each once, in order."""
        found: dict[str, None] = {}
        for part in _walk(value, self._known):
            if isinstance(part, Placeholder):
                found[part._node] = None
            elif isinstance(part, TaskFuture):
                node = self._nodes.get(part._number)
                if node is not None:  # it may be of a run outside
                    found[node] = None
            elif id(part) in self._known:
                found[self._known[id(part)][0]] = None
        return found

    def _remember(self, value: object, node: str) -> None:
        if type(value) not in ATOMS:  # which are the same objects everywhere
            self._known[id(value)] = node, value

    # ------------------------------------------------------------------ what futures ask

    def state_of(self, future: TaskFuture[Any]) -> State[Any]:
        """See `Owner`; where the state goes, the run's value goes."""
        state = super().state_of(future)
        self._remember(state, self._nodes[future._number])
        return state

    def works_for(self, flow_run: FlowLabel) -> None:
        """See `Answers`: there is no one flow run."""

    def leave_to_parent(self) -> None:
        """See `Answers`: a child may draw on."""

    def native(self, future: TaskFuture[Any]) -> Any:
        """See `Answers`."""
        return None

    def cancel(self, future: TaskFuture[Any]) -> bool:
        """See `Answers`: all have ended."""
        return False


def _walk(value: Any, known: dict[int, tuple[str, object]]) -> Iterator[Any]:
    """What is in a value, in order, containers and annotations opened; not what is known as a whole."""
    stack = [value]
    seen: set[int] = set()
    while stack:
        part = stack.pop()
        if type(part) in ATOMS or id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        if id(part) in known or isinstance(part, Placeholder):
            continue
        if isinstance(part, Annotation):
            if not isinstance(part, quote):
                stack.append(part.value)
        elif isinstance(part, TaskFutureList):
            stack += reversed(list(part))
        elif isinstance(part, State):
            stack.append(part.data)
        else:
            container = container_of(type(part))
            if container is not None:
                stack += reversed(container.parts(part))


def _is_unknown(value: Any) -> bool:
    """Whether an argument of a map is what a task without `viz_return_value` gave."""
    while isinstance(value, Annotation):
        if isinstance(value, (unmapped, opaque, quote)):
            return False
        value = value.value
    if isinstance(value, (TaskFuture, State)):
        value = value.result()
    return isinstance(value, Placeholder)


def _awaited(source: Any, allow_failure: bool) -> Any:
    """As `value_of`, of a run that may be going on: one outside the drawing."""
    if isinstance(source, TaskFuture):
        source.wait()
    return value_of(source, allow_failure)


def _given(value: Any, return_state: bool) -> Any:
    """What the caller of a nested flow gets."""
    return state_of_returned(value) if return_state else replace_returned(value, value_of)


@contextmanager
def _set(scope: Scope) -> Iterator[None]:
    token, call = SCOPE.set(scope), CALL.set(None)
    try:
        yield
    finally:
        CALL.reset(call)
        SCOPE.reset(token)


def _inside(scope: Scope, items: Iterator[Any]) -> Generator[Any, None, None]:
    """The items of a generator flow, each made in its scope."""
    while True:
        with _set(scope):
            try:
                item = replace_returned(next(items), value_of)
            except StopIteration:
                return
        yield item


async def _inside_async(scope: Scope, items: AsyncGenerator[Any]) -> AsyncGenerator[Any]:
    while True:
        with _set(scope):
            try:
                item = replace_returned(await anext(items), value_of)
            except StopAsyncIteration:
                return
        yield item


async def _each_async(items: Any) -> AsyncGenerator[Any]:
    for item in items:
        yield item


def _at_once(value: Any) -> Coroutine[Any, Any, Any]:
    async def given() -> Any:
        return value

    return given()
