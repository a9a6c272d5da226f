"""Records behind a URL of fsspec: an object each, in a bucket or wherever fsspec reaches.

    URL/ab/cdef….result   the record whose key has that digest
    URL/locks/            the leases of keys that somebody computes now: see `leases`

Object stores put a whole object in the place of another at once; what of fsspec's does not is caught by the record's checksum. Who may
write there is the store's to say, and is not looked at. An object's time of modification says when it was written, not when it was
read. May import `base`, `format`, `leases`, `record`.
"""

from __future__ import annotations

import os
import re
from datetime import datetime
from typing import TYPE_CHECKING, Any

from shoal.exceptions import InvalidOption, MissingExtraError, ResultStorageError
from shoal.limits.settings import without_password
from shoal.results.storage.base import Storage, name_of
from shoal.results.storage.format import HEAD_BYTES, Damaged, unpack_header
from shoal.results.storage.leases import Lease
from shoal.results.storage.record import Damage, Entry, Record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shoal.results.storage.base import KeyLock

__all__ = ["RemoteStorage"]

_NAME = re.compile(r"/([0-9a-f]{2})/([0-9a-f]{38})\.result$")

#: Bytes that are fetched of an object for its header.
_HEAD = 4096

#: What fsspec needs for the protocols that people use most, and does not bring.
_PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
}

#: What file systems call the time when an object was written.
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "created")


class RemoteStorage(Storage):
    """See `Storage`.

    Args:
        place: the URL.

    Raises:
        InvalidOption: fsspec knows no such protocol.
        MissingExtraError: fsspec, or what it needs for that protocol, is not installed.
    """

    def __init__(self, place: str) -> None:
        super().__init__(place)
        self._pid = 0
        self._fs: Any = None
        self._root = ""
        _check(place)

    def lock(self, key: str) -> KeyLock:
        """See `Storage`."""
        try:
            files = self._files()
        except Exception as error:
            raise self._failed("reached", error) from error
        return Lease(files, f"{self._root}/locks/{name_of(key)}", str(self))

    def peek(self, key: str) -> Record | None:
        """See `Storage`."""
        name = name_of(key)
        try:
            self._files().invalidate_cache()  # of what was there when it was last listed
            found = self._files().info(path := self._path(name))
        except FileNotFoundError:
            return None
        except Exception as error:
            raise self._failed("read", error) from error
        try:
            return self._header(path, found["size"], self._range(path, _HEAD))
        except Damaged as damage:
            self._warn(name, str(damage))
            return None

    def _survey(self) -> tuple[Sequence[Entry], Sequence[Damage]]:
        entries: list[Entry] = []
        damages: list[Damage] = []
        try:
            files = self._files()
            files.invalidate_cache()
            found = {
                path: facts
                for path, facts in files.find(self._root, detail=True).items()
                if _NAME.search(path)
            }
            # A range of an empty object is an error.
            asked = [path for path, facts in found.items() if facts["size"] >= HEAD_BYTES]
            got = files.cat_ranges(asked, 0, _HEAD, on_error="return") if asked else []
            heads = dict(zip(asked, got, strict=True))
        except FileNotFoundError:
            return [], []
        except Exception as error:
            raise self._failed("read", error) from error
        for path, facts in found.items():
            head = heads.get(path, b"")
            if isinstance(head, FileNotFoundError):
                continue  # removed just now
            if isinstance(head, Exception):
                raise self._failed("read", head) from head
            name, size = "".join(_NAME.findall(path)[0]), facts["size"]
            try:
                record = self._header(path, size, head)
            except Damaged as damage:
                damages.append(Damage(name, size, str(damage)))
            else:
                used = _time_in(facts) or record.created
                entries.append(Entry(record=record, size=size, used=used, name=name))
        return entries, damages

    def _header(self, path: str, size: int, head: bytes) -> Record:
        found = unpack_header(head, size)
        if isinstance(found, int):
            found = unpack_header(self._range(path, found), size)
        if isinstance(found, int):
            raise Damaged("it is cut off")
        return found

    # ------------------------------------------------------------------ objects

    def __str__(self) -> str:
        return without_password(self.place)

    def _files(self) -> Any:
        """The file system; opened on first use, as that may connect. Its errors are of any kind."""
        if self._pid != os.getpid():  # what fsspec has opened must not be used in a fork
            from fsspec.core import url_to_fs

            self._fs, root = url_to_fs(self.place)
            self._root = root.rstrip("/")
            self._pid = os.getpid()
        return self._fs

    def _path(self, name: str) -> str:
        return f"{self._root}/{name[:2]}/{name[2:]}.result"

    def _range(self, path: str, end: int) -> bytes:
        try:
            data: bytes = self._files().cat_file(path, start=0, end=end)
        except Exception as error:
            raise self._failed("read", error) from error
        return data

    def _get(self, name: str) -> tuple[bytes, None] | None:
        try:
            files = self._files()
            return files.cat_file(self._path(name)), None
        except FileNotFoundError:
            return None
        except Exception as error:
            raise self._failed("read", error) from error

    def _put(self, name: str, pieces: Sequence[bytes | memoryview]) -> None:
        data = b"".join(pieces)
        try:
            files, path = self._files(), self._path(name)
            with_folder(files, path, lambda: files.pipe_file(path, data))
        except Exception as error:
            raise self._failed("written", error) from error

    def _delete(self, name: str) -> bool:
        try:
            files, path = self._files(), self._path(name)
            files.invalidate_cache()
            files.info(path)  # some stores do not say that there was none
            files.rm_file(path)
        except FileNotFoundError:
            return False
        except Exception as error:
            raise self._failed("written", error) from error
        return True

    def _failed(self, what: str, error: Exception) -> ResultStorageError:
        # Each file system has errors of its own.
        return self._error(f"it cannot be {what}: {type(error).__name__}: {error}")


def with_folder(files: Any, path: str, write: Callable[[], Any]) -> None:
    """Writes; where there have to be folders, and there is none for it, makes that first."""
    try:
        write()
    except FileNotFoundError:
        files.makedirs(path.rpartition("/")[0], exist_ok=True)
        write()


def _check(url: str) -> None:
    """Checks that there is what a URL needs; does not connect. Errors as for `RemoteStorage`."""
    told = without_password(url)
    try:
        from fsspec import get_filesystem_class
    except ImportError as error:
        raise MissingExtraError(
            feature=f"The result storage {told}", requirement="shoal[fsspec]"
        ) from error
    for part in url.split("::"):
        protocol = part.partition("://")[0]
        try:
            get_filesystem_class(protocol)
        except ImportError as error:
            package = _PACKAGES.get(protocol)
            if package is None:
                raise ResultStorageError(place=told, problem=str(error)) from error
            raise MissingExtraError(
                feature=f"The result storage {told}", requirement=package
            ) from error
        except ValueError as error:
            raise InvalidOption(
                option="result_storage", value=told, problem=f"fsspec says: {error}"
            ) from error


def _time_in(facts: dict[str, Any]) -> float | None:
    """When an object was written, in seconds since the epoch; `None` if the file system does not say."""
    for name in _TIMES:
        found = facts.get(name)
        if isinstance(found, str):
            try:
                found = datetime.fromisoformat(found)
            except ValueError:
                continue
        if isinstance(found, datetime):
            return found.timestamp()
        if isinstance(found, int | float):
            return float(found)
    return None
