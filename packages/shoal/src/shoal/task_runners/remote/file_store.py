"""Large values in files, in a folder that driver and workers share.

    write ─▶ a path ─▶ `FileValue`: in the driver, where the file goes with the last one that has it; lent to workers

May import `parcels` and what lies above task runners.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary, finalize

from shoal.exceptions import ResultLost
from shoal.serialization import loads
from shoal.task_runners.remote.parcels import Parcel, pack

if TYPE_CHECKING:
    from shoal.task_runners.remote.parcels import Packed

__all__ = ["FileStore", "FileValue"]


class FileValue(Parcel):
    """A value in a file.

    Args:
        path: of the file, which identifies it.
    """

    __slots__ = ("number",)

    def __init__(self, path: str) -> None:
        self.number = path

    def value(self, run_name: str | None = None) -> Any:
        """See `Handle`: read anew each time."""
        try:
            return loads(Path(self.number).read_bytes())
        except OSError as error:
            raise ResultLost(run_name=run_name, holder=f"the file {self.number}") from error


class FileStore:
    """The values of one side.

    Args:
        folder: where the files are.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._owned: WeakValueDictionary[str, FileValue] = WeakValueDictionary()

    def write(self, value: Any) -> str:
        """Writes a value to a new file, and gives its path.

        Raises:
            OSError: there is no room for it, or no such folder.
        """
        data = pack(value, whole=True).data
        descriptor, path = tempfile.mkstemp(prefix="shoal-value-", dir=self._folder)
        try:
            with open(descriptor, "wb") as file:
                file.write(data)
        except BaseException:
            _remove(path, os.getpid())
            raise
        return path

    def own(self, path: str) -> FileValue:
        """What stands in the driver for the value in a file, which is removed when nobody there has that any more."""
        known = self._owned.get(path)
        if known is None:
            known = self._owned[path] = FileValue(path)
            finalize(known, _remove, path, os.getpid())
        return known

    def keep(self, value: Any, packed: Packed) -> FileValue:
        """Keeps a large argument (see `BatchSerializer`).

        Raises:
            ValueError: there are handles in it.
        """
        if packed.stored:
            raise ValueError("there are handles in it")
        return self.own(self.write(value))


def _remove(path: str, owner: int) -> None:
    if os.getpid() == owner:  # a forked child has copies of all handles
        Path(path).unlink(missing_ok=True)
