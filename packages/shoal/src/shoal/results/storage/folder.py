"""Records in a folder: a file each.

    ab/cdef….result   the record whose key has that digest
    tmp/              files that are being written: renamed when whole
    locks/            one for each key that somebody computes now: see `locks`
    shoal-index.db    what the files' headers say, for lists: see `index`
    shoal-pruned      is touched when it is pruned by itself

A user may name a folder in which there is something else: only what has such a name in full is ever read or removed.

Only its owner may enter it, unless its owner has let others in. A file's time of modification says when it was last used: a
reader sets it, once an hour at most. May import `base`, `format`, `index`, `locks`, `trust`.
"""

from __future__ import annotations

import io
import os
import re
import stat
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from shoal.exceptions import ResultStorageError
from shoal.results.storage.base import Storage, logger, name_of
from shoal.results.storage.format import Damaged, unpack_header
from shoal.results.storage.locks import FileLock
from shoal.results.storage.record import Damage, Entry, Pruned, Record
from shoal.results.storage.trust import distrust_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from shoal.results.storage.base import KeyLock

__all__ = ["FolderStorage"]

#: Seconds after which a reader says anew that a record is used, and after which a folder is pruned again.
_HOUR = 3600.0
#: Seconds after which nobody writes a temporary file any more, or has a use for a lock's file that is not locked.
_DAY = 86400.0
_YEAR = 365 * _DAY

_FOLDER = re.compile(r"[0-9a-f]{2}")
_FILE = re.compile(r"[0-9a-f]{38}\.result")
_SUFFIX = ".result"
#: By folder, the names of what a killed process may have left there.
_LEFT = {
    "tmp": re.compile(r"[0-9a-f]{40}-[0-9a-f]{16}"),
    "locks": re.compile(r"[0-9a-f]{40}"),
}

#: By folder, when it is looked at whether it should be pruned; by `time.monotonic`.
_looks: dict[str, float] = {}


class FolderStorage(Storage):
    """See `Storage`.

    Args:
        place: its absolute path; it is made when something is written.
        max_bytes: of the records in it, where those are removed by themselves that are too many;
        max_age: for how many seconds they are kept without being used. By default, none is removed.
    """

    is_near = True

    def __init__(
        self, place: str, max_bytes: float = float("inf"), max_age: float = float("inf")
    ) -> None:
        super().__init__(place)
        self._limits = max_bytes, max_age
        self._is_limited = self._limits != (float("inf"), float("inf"))

    def __reduce__(self) -> Any:
        return type(self), (self.place, *self._limits)

    def lock(self, key: str) -> KeyLock:
        """See `Storage`."""
        return FileLock(f"{self.place}/locks/{name_of(key)}", self.place, self._mode())

    # ------------------------------------------------------------------ what there is

    def peek(self, key: str) -> Record | None:
        """See `Storage`."""
        name = name_of(key)
        damages: list[Damage] = []
        record = self._header(name, damages)
        for damage in damages:
            self._warn(name, damage.problem)
        return record

    def _survey(self) -> tuple[Sequence[Entry], Sequence[Damage]]:
        files = dict(self._files())
        damages: list[Damage] = []

        def header(name: str) -> Record | None:
            return self._header(name, damages)

        if not files:
            return [], []
        if self._distrust() is None:
            from shoal.results.storage.index import indexed

            # Who replaces a file gives it another number.
            stamps = {
                name: f"{facts.st_ino} {facts.st_size} {facts.st_mtime_ns}"
                for name, facts in files.items()
            }
            records = indexed(self.place, stamps, header)
        else:
            found = ((name, header(name)) for name in files)
            records = {name: record for name, record in found if record is not None}
        entries = [
            Entry(record=record, size=files[name].st_size, used=files[name].st_mtime, name=name)
            for name, record in records.items()
        ]
        return entries, damages

    def _files(self) -> Iterator[tuple[str, os.stat_result]]:
        """Each file of a record by name, and what the system says of it."""
        try:
            for folder in os.listdir(self.place):
                if not _FOLDER.fullmatch(folder):
                    continue
                with os.scandir(os.path.join(self.place, folder)) as files:
                    for file in files:
                        if _FILE.fullmatch(file.name):
                            name = folder + file.name.removesuffix(_SUFFIX)
                            with suppress(FileNotFoundError):  # removed just now
                                yield name, file.stat(follow_symlinks=False)
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._error(f"it cannot be read: {error}") from error

    def _header(self, name: str, damages: list[Damage]) -> Record | None:
        """What the header of a file says; `None` if it is gone, or does not verify: that is added to the damages."""
        size = 0
        try:
            with io.FileIO(self._path(name)) as file:
                size = os.fstat(file.fileno()).st_size
                head = file.read(4096)
                found = unpack_header(head, size)
                if isinstance(found, int):
                    found = unpack_header(head + file.read(found - len(head)), size)
            if isinstance(found, int):
                raise Damaged("it is cut off")
        except FileNotFoundError:
            return None
        except Damaged as damage:
            damages.append(Damage(name, size, str(damage)))
            return None
        except OSError as error:
            raise self._error(f"a result cannot be read: {error}") from error
        return found

    # ------------------------------------------------------------------ pruning

    def prune(self, max_bytes: float = float("inf"), max_age: float = float("inf")) -> Pruned:
        """See `Storage`. What killed processes have left goes, too."""
        pruned = super().prune(max_bytes, max_age)
        try:
            self._sweep()
        except OSError as error:
            raise self._error(f"it cannot be swept: {error}") from error
        return pruned

    def _sweep(self) -> None:
        for kind, names in _LEFT.items():
            with suppress(FileNotFoundError), os.scandir(os.path.join(self.place, kind)) as files:
                for file in files:
                    if not names.fullmatch(file.name):
                        continue
                    if abs(time.time() - file.stat(follow_symlinks=False).st_mtime) < _DAY:
                        continue
                    if kind == "tmp":
                        os.unlink(file.path)
                    elif (lock := FileLock(file.path, self.place)).try_acquire():
                        lock.release()

    def _prune_now_and_then(self) -> None:
        """Prunes once an hour, in whatever process writes then; each looks every ten minutes whether it is to.

        In a thread of its own: to remove ten thousand files may take seconds, and no run should wait for that.
        """
        now = time.monotonic()
        if now < _looks.get(self.place, now):
            return
        _looks[self.place] = now + 600
        stamp = os.path.join(self.place, "shoal-pruned")
        since = 0.0
        try:
            with suppress(FileNotFoundError):
                since = abs(time.time() - os.stat(stamp).st_mtime)
                if since < _HOUR:
                    return
            with open(stamp, "wb"):
                pass
        except OSError as error:
            logger.warning("Results in %s could not be pruned: %s", self.place, error)
        if since:  # else it is new
            threading.Thread(
                target=self._prune_by_itself, args=(since,), name="shoal-prune", daemon=True
            ).start()

    def _prune_by_itself(self, since: float) -> None:
        max_bytes, max_age = self._limits
        try:
            # After a year, or that long before the last time, it may be the clock that is wrong.
            self.prune(max_bytes, max_age if since < _YEAR else float("inf"))
        except ResultStorageError as error:
            logger.warning("%s. Nothing more is pruned now", error)

    # ------------------------------------------------------------------ files

    def _distrust(self) -> str | None:
        try:
            return distrust_of("the folder", os.stat(self.place))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._error(f"it cannot be looked at: {error}") from error

    def _mode(self) -> int:
        """The permissions of what is made in it, as those of the folder: others are let in where its owner lets them."""
        try:
            return stat.S_IMODE(os.stat(self.place).st_mode) & 0o777
        except OSError:
            return 0o700

    def _path(self, name: str) -> str:
        return f"{self.place}/{name[:2]}/{name[2:]}{_SUFFIX}"

    def _get(self, name: str) -> tuple[bytes, str | None] | None:
        try:
            with io.FileIO(self._path(name)) as file:
                facts = os.fstat(file.fileno())
                data = file.readall()
                if abs(time.time() - facts.st_mtime) > _HOUR:
                    with suppress(OSError):  # the folder may be for reading only
                        os.utime(file.fileno() if os.utime in os.supports_fd else self._path(name))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._error(f"it cannot be read: {error}") from error
        return data, distrust_of("a file in it", facts) or self._distrust()

    def _put(self, name: str, pieces: Sequence[bytes | memoryview]) -> None:
        temporary = f"{self.place}/tmp/{name}-{os.urandom(8).hex()}"
        try:
            file = self._created(temporary)
            try:
                try:
                    _write(file, pieces)
                finally:
                    os.close(file)
                self._rename(temporary, self._path(name))
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary)
                raise
        except OSError as error:
            raise self._error(f"it cannot be written: {error}") from error
        if self._is_limited:
            self._prune_now_and_then()

    def _created(self, path: str) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
        flags |= getattr(os, "O_BINARY", 0)
        try:
            return os.open(path, flags, self._mode() & 0o666)
        except FileNotFoundError:
            os.makedirs(self.place, mode=0o700, exist_ok=True)
            os.makedirs(os.path.dirname(path), mode=self._mode(), exist_ok=True)
            return os.open(path, flags, self._mode() & 0o666)

    def _rename(self, temporary: str, path: str) -> None:
        try:
            os.replace(temporary, path)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), mode=self._mode(), exist_ok=True)
            os.replace(temporary, path)

    def _delete(self, name: str) -> bool:
        try:
            os.unlink(self._path(name))
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._error(f"a result cannot be removed: {error}") from error
        return True


def _write(file: int, pieces: Sequence[bytes | memoryview]) -> None:
    """Writes all: one call of the system writes 2 GB at most, or fewer where the disk is about to be full."""
    for piece in pieces:
        rest = memoryview(piece)
        while rest:
            rest = rest[os.write(file, rest) :]
