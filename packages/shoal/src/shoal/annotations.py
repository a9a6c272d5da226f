"""Annotations: what a caller says about one argument of a task or flow, wrapped around it.

    unmapped(x)         map: the same x for every run, though it could be iterated over
    allow_failure(x)    run even if an upstream in x did not complete: its exception is the value
    quote(x)            hand x over as it is: not searched for futures, nothing in it replaced
    opaque(x)           if x is a future, wait for it; but do not search inside it or inside its value

The task never sees the wrapper. Annotations nest, `unmapped(allow_failure(x))`, and are plain objects rather than
tuples or lists, so that no execution system takes one for a container and rebuilds it as something else on the way.

May import the standard library only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

__all__ = ["Annotation", "StandIn", "allow_failure", "opaque", "quote", "unmapped"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

if TYPE_CHECKING:

    class StandIn(Any):  # type: ignore[misc]  # which is the point
        """What stands where a value will be, and therefore fits every type."""

else:
    StandIn = object


class Annotation(Generic[T_co], StandIn):  # noqa: PYI059  # that one is `object`
    """Base of all annotations: a value, and by its class something said about it.

    Annotations are equal if they say the same of equal values.

    Attributes:
        value: what is wrapped.
    """

    __slots__ = ("value",)

    value: T_co

    def __init__(self, value: T_co) -> None:
        self.value = value

    def unwrap(self) -> T_co:
        """The value."""
        return self.value

    def rewrap(self, value: T) -> Annotation[T]:
        """The same annotation around another value."""
        return type(self)(value)  # type: ignore[arg-type]  # Self cannot take another parameter

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.value is other.value or bool(self.value == other.value)

    def __hash__(self) -> int:
        return hash((type(self), self.value))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.value!r})"


class unmapped(Annotation[T_co]):
    """Gives `map` one value for all runs: it is neither iterated over nor copied.

    Examples:
        >>> unmapped([1, 2]).unwrap()
        [1, 2]
    """

    __slots__ = ()


class allow_failure(Annotation[T_co]):
    """Lets a run start although an upstream in the value failed, crashed or was cancelled.

    The task receives the upstream's exception in place of its result.
    """

    __slots__ = ()


class quote(Annotation[T_co]):
    """Hands a value over untouched, without looking for futures in it. For large or unusual data."""

    __slots__ = ()


class opaque(Annotation[T_co]):
    """Resolves the value if it is a future or a State itself, without looking for others inside it."""

    __slots__ = ()
