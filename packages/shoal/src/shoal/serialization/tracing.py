"""A pickler that writes down what it visits. Importing it loads cloudpickle. May import `by_value`."""

from __future__ import annotations

import io
from types import FunctionType
from typing import Any

from shoal.serialization.by_value import Pickler

__all__ = ["Tracer"]


class Tracer(Pickler):
    """Pickles into nowhere.

    Attributes:
        last: the object visited last, at which it fails.
        reduced: by id, objects and what they were reduced to; kept, so that ids stay theirs.
    """

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), 5)
        self.last: Any = None
        self.reduced: dict[int, tuple[Any, Any]] = {}

    def persistent_id(self, obj: Any) -> None:
        """Called for every object, first of all."""
        self.last = obj

    def reducer_override(self, obj: Any) -> Any:
        """See `Pickler`."""
        reduced = super().reducer_override(obj)
        if reduced is NotImplemented:
            kind = type(obj)
            if kind is FunctionType or issubclass(kind, type):
                return reduced  # by its name
            reduce = self.dispatch_table.get(kind)
            reduced = reduce(obj) if reduce is not None else obj.__reduce_ex__(5)
        if isinstance(reduced, tuple) and len(reduced) > 3:
            # Iterators may raise: here, where it is the object's fault.
            items, pairs = (*reduced[3:5], None)[:2]
            held = [list(each) if each is not None else None for each in (items, pairs)]
            self.reduced[id(obj)] = obj, (*reduced[:3], *held)
            given = [iter(each) if each is not None else None for each in held]
            return (*reduced[:3], *given, *reduced[5:])
        self.reduced[id(obj)] = obj, reduced
        return reduced
