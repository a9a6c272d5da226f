"""`ShoalError`, of which every error is made, and words for messages.

May import `safely`.
"""

from __future__ import annotations

import reprlib
from typing import Any, ClassVar, TypeVar, dataclass_transform

from shoal.safely import repr_of

__all__ = ["ShoalError", "names_of", "shown"]


@dataclass_transform(kw_only_default=True, eq_default=False)
class ShoalError(Exception):
    """Base of every error here: catch it to catch them all.

    Facts are instance attributes, so a pickled or copied error keeps its message, its facts and its notes.
    """

    _required: ClassVar[dict[str, bool]] = {}  # every fact of the class -> must it be given?

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        own = {name: name not in vars(cls) for name in cls.__annotations__}
        cls._required = {**cls._required, **own}

    def __init__(self, **facts: Any) -> None:
        required = self._required
        if not required.keys() >= facts.keys():
            raise TypeError(
                f"{type(self).__name__} has no {names_of(facts.keys() - required.keys())}"
            )
        missing = [name for name, needed in required.items() if needed and name not in facts]
        if missing:
            raise TypeError(f"{type(self).__name__} needs {names_of(missing)}")
        self.__setstate__(facts)
        self._prepare()
        super().__init__(self._text())

    def _prepare(self) -> None:
        """Brings the facts into the shape in which they are kept."""

    def _text(self) -> str:
        return type(self).__name__

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args), vars(self)


_E = TypeVar("_E", bound=ShoalError)


def _rebuild(cls: type[_E], args: tuple[object, ...]) -> _E:
    """Makes an error again from its message; its facts follow as state."""
    error = cls.__new__(cls, *args)
    super(ShoalError, error).__init__(*args)  # OSError and ImportError have fields of their own
    return error


_reprs = reprlib.Repr()
_reprs.maxstring = _reprs.maxother = 80


def shown(value: object) -> str:
    """A short repr, so that a large or broken value neither floods the message nor travels with the error."""
    try:
        return _reprs.repr(value)
    except BaseException:  # it catches an `Exception` only
        return repr_of(value)


def names_of(names: Any) -> str:
    return ", ".join(repr(name) for name in names) or "none"
