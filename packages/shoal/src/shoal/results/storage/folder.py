"""Records in a folder: a file each.

    ab/cdef…   the record whose key has that digest
    tmp/       files that are being written: renamed when whole
    locks/     one for each key that somebody computes now: see `locks`

Only its owner may enter it. A file's time of modification says when it was last used: a reader sets it, once an hour at most.
May import `base`, `format`, `locks`.
"""

from __future__ import annotations

import io
import os
import stat
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from shoal.results.storage.base import Storage, name_of
from shoal.results.storage.format import Damaged, unpack_header
from shoal.results.storage.locks import FileLock
from shoal.results.storage.record import Entry, Record
from shoal.results.storage.trust import distrust_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from shoal.results.storage.base import KeyLock

__all__ = ["FolderStorage"]

#: Seconds after which a reader says anew that a record is used.
_USED_EVERY = 3600.0


class FolderStorage(Storage):
    """See `Storage`.

    Args:
        folder: its absolute path; it is made when something is written.
    """

    def lock(self, key: str) -> KeyLock:
        """See `Storage`."""
        return FileLock(f"{self.place}/locks/{name_of(key)}", self.place, self._mode())

    def list(self) -> list[Entry]:
        """See `Storage`."""
        return list(self._entries())

    def _entries(self) -> Iterator[Entry]:
        for name, path, size, used in self._files():
            try:
                record = self._header(path, size)
            except FileNotFoundError:
                continue  # removed meanwhile
            except (Damaged, OSError) as problem:
                self._warn(name, str(problem))
                continue
            yield Entry(record=record, size=size, used=used, name=name)

    def _files(self) -> Iterator[tuple[str, str, int, float]]:
        """Name, path, size, and when it was last used, of each file."""
        try:
            for shard in os.listdir(self.place):
                if len(shard) != 2:
                    continue
                with os.scandir(os.path.join(self.place, shard)) as files:
                    for file in files:
                        facts = file.stat(follow_symlinks=False)
                        yield shard + file.name, file.path, facts.st_size, facts.st_mtime
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._error(f"it cannot be read: {error}") from error

    def _header(self, path: str, size: int) -> Record:
        with io.FileIO(path) as file:
            found = unpack_header(file.read(4096), size)
            if isinstance(found, int):
                file.seek(0)
                found = unpack_header(file.read(found), size)
        if isinstance(found, int):
            raise Damaged(f"it is cut off before {found} bytes")
        return found

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
        return f"{self.place}/{name[:2]}/{name[2:]}"

    def _get(self, name: str) -> tuple[bytes, str | None] | None:
        try:
            with io.FileIO(self._path(name)) as file:
                facts = os.fstat(file.fileno())
                data = file.readall()
                if abs(time.time() - facts.st_mtime) > _USED_EVERY:
                    with suppress(OSError):  # the folder may be for reading only
                        os.utime(file.fileno() if os.utime in os.supports_fd else file.name)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._error(f"it cannot be read: {error}") from error
        return data, distrust_of("the record", facts) or self._distrust()

    def _put(self, name: str, pieces: Sequence[bytes | memoryview]) -> None:
        temporary = f"{self.place}/tmp/{name}-{os.urandom(8).hex()}"
        try:
            try:
                file = _create(temporary, self._mode())
            except FileNotFoundError:
                os.makedirs(self.place, mode=0o700, exist_ok=True)
                os.makedirs(f"{self.place}/tmp", mode=self._mode(), exist_ok=True)
                file = _create(temporary, self._mode())
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
            raise self._error(f"a record cannot be removed: {error}") from error
        return True


def _create(path: str, mode: int) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
    return os.open(path, flags | getattr(os, "O_BINARY", 0), mode & 0o666)


def _write(file: int, pieces: Sequence[bytes | memoryview]) -> None:
    """Writes all: one call of the system writes 2 GB at most, or fewer where the disk is about to be full."""
    for piece in pieces:
        rest = memoryview(piece)
        while rest:
            rest = rest[os.write(file, rest) :]
