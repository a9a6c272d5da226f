"""What surrounds the function of a run for which others wait: nobody beneath it waits long for anybody.

    the run that has the lock ─▶ code that it calls, here: by a context variable
                              └▶ runs that it submits, anywhere: of tasks for which `ResultOptions.within` is said

May import `options` and what lies above task runners.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from shoal.context import SCOPE, Scope

if TYPE_CHECKING:
    from contextvars import Token

    from shoal.results.options import ResultOptions
    from shoal.results.storage import Ref

__all__ = ["A_WHILE", "NOTED", "Within", "locked_around"]

#: Seconds that such a one waits for another's computation, which may be waiting for what it is part of.
A_WHILE = 5.0

#: The keys whose locks the runs have that led to the code around; with an empty one for those that are not known here.
_LOCKED: ContextVar[frozenset[str]] = ContextVar("shoal_locked", default=frozenset())

#: Where it is noted down what runs keep that are part of a transaction; `None` elsewhere.
NOTED: ContextVar[list[Ref] | None] = ContextVar("shoal_noted", default=None)


def locked_around() -> frozenset[str]:
    """The keys whose locks the runs have that led to the code around, as far as they are of this process."""
    return _LOCKED.get()


class Within:
    """Surrounds a function.

    Args:
        options: what was said about the run.
        locked: the key whose lock it has, if it has one.
    """

    # No generator: `contextlib` sets attributes of the exception that passes, which some refuse.

    def __init__(self, options: ResultOptions, locked: str | None) -> None:
        self._options = options
        self._locked = locked
        self._tokens: tuple[Token[Any], Token[Any]] | None = None

    def __enter__(self) -> None:
        locked = self._locked
        if locked is not None or self._options.within:
            scope = SCOPE.get()
            inner = scope if scope is None else _ScopeWithin(scope, self._options)
            self._tokens = _LOCKED.set(_LOCKED.get() | {locked or ""}), SCOPE.set(inner)

    def __exit__(self, *_: object) -> None:
        if self._tokens is not None:
            _LOCKED.reset(self._tokens[0])
            SCOPE.reset(self._tokens[1])


class _ScopeWithin(Scope):
    """A scope whose submitted runs are told that they are within."""

    __slots__ = ("_around", "_options", "_taker")

    def __init__(self, around: Scope, options: ResultOptions) -> None:
        self.flow_run = around.flow_run
        self._around = around
        self._options = options
        self._taker: Any = None

    @property
    def dispatcher(self) -> Any:  # type: ignore[override]  # nobody assigns it
        """As around, but for that; made on first use, as that may be."""
        if self._taker is None:
            said = self._options.within_of(self.flow_run)
            self._taker = said.taker(self._around.dispatcher)
        return self._taker

    @property
    def calls(self) -> Any:
        """See `Scope`."""
        return self._around.calls

    @property
    def keeper(self) -> Any:
        """See `Scope`."""
        return self._around.keeper

    @property
    def limited(self) -> bool:
        """See `Scope`."""
        return self._around.limited
