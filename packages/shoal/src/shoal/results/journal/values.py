"""Values that stand in a journal are made again.

What was written by `python etl.py` names its classes `__main__`, what `shoal run etl.py` wrote names them `etl`: both are looked for in the module of the flow
that goes on.

May import `reading` and storage.
"""

from __future__ import annotations

import io
import pickle
from typing import TYPE_CHECKING, Any

from shoal.logs import library_logger
from shoal.results.journal.contents import PICKLED, PLAIN
from shoal.results.journal.reading import MISSING
from shoal.safely import in_words

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shoal.results.journal.reading import Contents
    from shoal.results.storage import Storage

__all__ = ["Values", "loads_beside"]


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes | memoryview, module: str, names: Mapping[str, Any]) -> None:
        super().__init__(io.BytesIO(data))
        self._modules = ("__main__", module)
        self._names = names

    def find_class(self, module: str, name: str) -> Any:
        if module in self._modules:
            first, *rest = name.split(".")
            if first in self._names:
                found = self._names[first]
                for attribute in rest:
                    found = getattr(found, attribute)
                return found
        return super().find_class(module, name)


def loads_beside(data: bytes | memoryview, module: str, names: Mapping[str, Any]) -> Any:
    """What a pickle in a journal holds.

    Args:
        data: the pickle.
        module: what the flow's module was called when it was written.
        names: what is in that module now.

    Raises:
        Exception: whatever unpickling raises.
    """
    return _Unpickler(data, module, names).load()


class Values:
    """The values that stand in a journal.

    Args:
        contents: of the journal.
        storage: of its large values.
        names: what is in the flow's module.
        run: the flow run's name, for messages.
    """

    def __init__(
        self, contents: Contents, storage: Storage, names: Mapping[str, Any], run: str
    ) -> None:
        self._contents = contents
        self._storage = storage
        self._names = names
        self._run = run
        self._told = False

    def __contains__(self, key: bytes) -> bool:
        return key in self._contents

    def get(self, key: bytes) -> Any:
        """The value of a run; `MISSING` if it does not stand here, or cannot be had any more: then the run runs again."""
        try:
            found = self._contents.find(key)
            if found is None:
                return MISSING
            kind, value = found
            if kind == PLAIN:
                return value
            data = value
            if kind != PICKLED:
                record = self._storage.read(value)
                if record is None:
                    raise LookupError("its file is gone, or damaged")
                data = record.value
            return loads_beside(data, self._contents.facts.header.module, self._names)
        except Exception as error:
            self._contents.forget(key)
            if not self._told:
                self._told = True
                library_logger().warning(
                    "Not every run of flow run %r can be reused: a value cannot be read any more (%s). Such runs run again",
                    self._run,
                    in_words(error),
                )
            return MISSING
