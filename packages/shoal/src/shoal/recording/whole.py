"""Files that are written whole or not at all: on a full disk, what was there before stays.

May import nothing of recording.
"""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["written_whole"]


@contextmanager
def written_whole(path: str) -> Iterator[str]:
    """Gives the path of a file to write, which takes the place of `path` at the end, and is removed if anything was raised.

    What is no plain file, such as a pipe, and what is in a folder that takes no other file, is written in place.
    """
    target = os.path.realpath(path)
    folder, name = os.path.split(target)
    is_there = os.path.exists(path)
    # Where `path` is /dev/stdout, `target` may be /proc/7/fd/pipe:[8], which is no file.
    if (is_there and not os.path.isfile(target)) or not os.access(folder, os.W_OK):
        yield path
        return
    part = os.path.join(folder, f".{name[:50]}.{os.getpid()}")
    try:
        yield part
        if is_there:
            shutil.copymode(target, part)
        os.replace(part, target)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(part)
        raise
