"""What type checkers are told of `Task.map`, and of tasks that are methods. Never imported at run time.

A direct call and `submit` have the parameters of the task's function, as a future fits every type (`StandIn`). A map
takes iterables of them as well, and Python cannot say "each parameter, or an iterable of it". So one to three
parameters are taken off from the left, and what follows is given as the function has it, or as keywords that are
iterables, whatever their names and elements. `docs/concepts/tasks.md` tells users what that finds.

May import `futures` and `states`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from typing import (
    Any,
    Concatenate,
    Generic,
    Literal,
    ParamSpec,
    Protocol,
    TypeAlias,
    TypeVar,
    overload,
)

from shoal.futures import TaskFutureList
from shoal.states import State

P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
F_co = TypeVar("F_co", covariant=True)


class Wraps(Protocol[F_co]):
    """A task with this function. mypy takes a parameter off the function's type, but not off `Task[P, R]`."""

    @property
    def __wrapped__(self) -> F_co: ...


#: The same, with a method's function: the type of the instance (or class), and the parameters that are left.
BoundTo = Wraps[Callable[Concatenate[A, P], R]]


class TooFewArguments:
    """What a map gives that lacks an argument: nothing can be done with it."""


class Mapper(Generic[F_co]):
    """`map` of a task with this function; what that returns is the value of a run."""

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self: M1[A, P, R], a: Each[A], /, *args: P.args, **kwargs: P.kwargs
    ) -> TaskFutureList[R]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self: M2[A, B, P, R], a: Each[A], b: Each[B], /, *args: P.args, **kwargs: P.kwargs
    ) -> TaskFutureList[R]: ...
    @overload
    def __call__(
        self: M3[A, B, C, P, R],
        a: Each[A],
        b: Each[B],
        c: Each[C],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> TaskFutureList[R]: ...

    # What follows needs a keyword to make the call complete. That cannot be said either, so a call that has none is
    # met before.
    @overload
    def __call__(self, /) -> TooFewArguments: ...
    @overload
    def __call__(self: M0[P, R], /, **kwargs: Any) -> TaskFutureList[R]: ...
    @overload
    def __call__(self: M1[A, P, R], a: Each[A], /) -> TooFewArguments: ...
    @overload
    def __call__(
        self: M1[A, P, R], a: Each[A], /, **kwargs: Iterable[Any]
    ) -> TaskFutureList[R]: ...
    @overload
    def __call__(self: M2[A, B, P, R], a: Each[A], b: Each[B], /) -> TooFewArguments: ...
    @overload
    def __call__(
        self: M2[A, B, P, R], a: Each[A], b: Each[B], /, **kwargs: Iterable[Any]
    ) -> TaskFutureList[R]: ...
    @overload
    def __call__(
        self: M3[A, B, C, P, R], a: Each[A], b: Each[B], c: Each[C], /
    ) -> TooFewArguments: ...
    @overload
    def __call__(
        self: M3[A, B, C, P, R],
        a: Each[A],
        b: Each[B],
        c: Each[C],
        /,
        *args: Iterable[Any],
        **kwargs: Iterable[Any],
    ) -> TaskFutureList[R]: ...

    # A parameter of ours has no room beside those of the function.
    @overload
    def __call__(
        self, /, *args: Any, return_state: Literal[True], **kwargs: Any
    ) -> list[State[Any]]: ...
    @overload
    def __call__(
        self: M0[P, R], /, *args: Any, wait_for: Any, **kwargs: Any
    ) -> TaskFutureList[R]: ...
    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """See `Task.map`."""


Each: TypeAlias = A | Iterable[A]
M0 = Mapper[Callable[P, R]]
M1 = Mapper[Callable[Concatenate[A, P], R]]
M2 = Mapper[Callable[Concatenate[A, B, P], R]]
M3 = Mapper[Callable[Concatenate[A, B, C, P], R]]


class mapped:
    """Decorates `Task.map`: an attribute whose type follows from that of the function, as with `submit`."""

    def __init__(self, method: Callable[..., Any]) -> None: ...
    @overload
    def __get__(self, task: Wraps[Callable[P, Coroutine[Any, Any, R]]], owner: Any) -> M0[P, R]: ...
    @overload
    def __get__(self, task: Wraps[Callable[P, AsyncIterator[R]]], owner: Any) -> M0[P, list[R]]: ...
    @overload
    def __get__(self, task: Wraps[Callable[P, Iterator[R]]], owner: Any) -> M0[P, list[R]]: ...
    @overload
    def __get__(self, task: Wraps[Callable[P, R]], owner: Any) -> M0[P, R]: ...
    def __get__(self, task: Any, owner: Any) -> Any: ...
