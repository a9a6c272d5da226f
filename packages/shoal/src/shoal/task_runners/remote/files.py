"""Files that outlive the worker that writes them, in folders where others may write, too.

Nobody else can put something in their place, read them, or have them be read for something that they are not; and once
there, they do not need any more room. May import the standard library only: who reads them has not loaded anything else.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import stat
import tempfile

__all__ = ["is_own", "make_file", "read_file", "remove_file"]

_NO_LINKS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
#: Bytes that are written at once where a file system cannot reserve.
_CHUNK = 1 << 20


def make_file(folder: str, size: int) -> tuple[str, mmap.mmap]:
    """A new file, mapped into memory: in a folder of its own, which only this user can enter.

    Args:
        folder: where that is; made if there is none.
        size: in bytes, which are reserved. In a file with holes a full disk is no error but a SIGBUS, the process's end.

    Returns:
        Its path, and its content.

    Raises:
        OSError: there is no room for it, or no such place.
    """
    os.makedirs(folder, exist_ok=True)
    own = tempfile.mkdtemp(prefix=f"shoal-{os.getpid()}-", dir=folder)
    path = os.path.join(own, "record")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_LINKS, 0o600)
        try:
            _reserve(descriptor, size)
            return path, mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
    except BaseException:
        remove_file(path)
        raise


def _reserve(descriptor: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
            return
        except OSError as error:  # not on every file system
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
    done = 0
    while done < size:
        done += os.write(descriptor, bytes(min(_CHUNK, size - done)))


def is_own(path: str) -> bool:
    """Whether there is such a file, and it is this user's."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return _is_ours(status)


def _is_ours(status: os.stat_result) -> bool:
    return not hasattr(os, "geteuid") or status.st_uid == os.geteuid()


def read_file(path: str, size: int) -> bytes | None:
    """What such a file holds; `None` if there is none, or something else: a link, a pipe, another's, of another size."""
    try:
        # Without O_NONBLOCK, whoever opens a pipe waits for somebody to write to it.
        descriptor = os.open(path, os.O_RDONLY | _NO_LINKS | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return None
    try:
        status = os.fstat(descriptor)
        if not (stat.S_ISREG(status.st_mode) and _is_ours(status) and status.st_size == size):
            return None
        content = b""
        while len(content) < size and (more := os.read(descriptor, size - len(content))):
            content += more
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return content if len(content) == size else None


def remove_file(path: str) -> None:
    """Removes such a file with its folder, if it is there."""
    with contextlib.suppress(OSError):
        os.unlink(path)
    with contextlib.suppress(OSError):
        os.rmdir(os.path.dirname(path))
