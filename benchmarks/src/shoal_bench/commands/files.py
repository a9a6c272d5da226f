"""Files that are named on the command line: checked before hours of measuring, and written after them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Self

__all__ = ["INTERRUPTED", "REFUSED", "Kept", "Refused", "check_target", "write"]

#: Exit codes: what was asked for cannot be done; Ctrl-C.
REFUSED, INTERRUPTED = 2, 130


class Refused(Exception):
    """What was asked for cannot be done; the message says why, and what can."""


def check_target(path: Path) -> None:
    """Makes sure that a file can be written, as far as can be known before.

    Raises:
        Refused: it cannot.
    """
    folder = path.absolute().parent
    if path.is_dir():
        raise Refused(f"{path} is a folder; name a file in it")
    if folder.exists() and not folder.is_dir():
        raise Refused(f"{folder} is a file, where the folder of {path.name} should be")
    if not folder.exists():
        raise Refused(f"there is no folder {folder}; make it first")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise Refused(f"{path} may not be written")


def write(path: Path, content: str | bytes) -> None:
    """Writes a file, whole or not at all where it is a regular one. Text is written in UTF-8.

    Raises:
        Refused: that failed, for example because the disk is full.
    """
    is_special = path.exists() and not path.is_file()
    part = path if is_special else path.with_name(path.name + ".part")
    try:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
        if not is_special:
            part.replace(path)
    except OSError as error:
        if not is_special:
            part.unlink(missing_ok=True)
        raise Refused(f"{path} could not be written: {error.strerror}") from error


class Kept:
    """Writes what was measured to a file when the block that measures is left, however that is.

    That is before anything is shown: whoever reads what is shown may have gone, and end the program.

    Args:
        path: of the file; none, if nothing is to be written.
        text: gives what there is.

    Attributes:
        problem: why the file could not be written, if so. An exception that leaves the block has it as a note.
    """

    def __init__(self, path: Path | None, text: Callable[[], str]) -> None:
        self._path = path
        self._text = text
        self.problem: Refused | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if self._path is None:
            return
        try:
            write(self._path, self._text())
        except Refused as refused:
            self.problem = refused
            if error is not None:
                error.add_note(str(refused))
