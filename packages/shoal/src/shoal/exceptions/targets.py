"""A target of the command line cannot be run.

May import `base`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoal.exceptions.base import ShoalError, names_of

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "FlowNotFound",
    "ScriptError",
]


class ScriptError(ShoalError):
    """A target of the command line cannot be loaded.

    Attributes:
        target: the target as typed, say "etl.py:nightly".
        problem: what went wrong.
    """

    target: str
    problem: str

    def _text(self) -> str:
        return f"Cannot load {self.target!r}: {self.problem}"


class FlowNotFound(ShoalError):
    """A target of the command line was loaded but holds no such flow, or no single one.

    Attributes:
        target: the target as typed.
        flow_name: the flow asked for, `None` if none was named.
        found: names of the flows that it holds.
    """

    target: str
    flow_name: str | None = None
    found: Sequence[str] = ()

    def _text(self) -> str:
        wanted = "a single flow" if self.flow_name is None else f"a flow {self.flow_name!r}"
        return f"{self.target!r} does not hold {wanted}. Flows there: {names_of(self.found)}."
