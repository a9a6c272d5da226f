"""The journals of this machine: a folder each, found, listed and removed.

    SHOAL_HOME/journals/<UUID of the flow run>/    journal   lock   values/

May import `file`, `reading`, and what storage trusts.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from shoal.exceptions import JournalBusy, JournalError, RunNotFound
from shoal.results import settings
from shoal.results.journal.file import JOURNAL, LOCK_FILE
from shoal.results.journal.reading import read_facts
from shoal.results.storage.locks import FileLock
from shoal.results.storage.trust import distrust_of

if TYPE_CHECKING:
    from shoal.results.journal.reading import Facts

__all__ = ["Found", "check_trust", "find", "folder_of", "journals", "prune", "remove"]


class Found(NamedTuple):
    """A journal that was found.

    Attributes:
        folder: its own.
        facts: what it says; `None` if it cannot be read.
        problem: why it cannot.
        size: of all its files, in bytes.
        written: when it was last written, in seconds since the epoch.
    """

    folder: Path
    facts: Facts | None
    problem: str
    size: int
    written: float

    @property
    def name(self) -> str:
        """The flow run's name, or the folder's if it cannot be read."""
        return self.facts.header.name if self.facts is not None else self.folder.name

    @property
    def created(self) -> float:
        """When it was begun, in seconds since the epoch."""
        return self.facts.header.created if self.facts is not None else self.written

    def is_busy(self) -> bool:
        """Whether somebody is at it."""
        lock = FileLock(str(self.folder / LOCK_FILE), str(self.folder))
        if not lock.try_acquire():
            return True
        lock.release()
        return False


def folder_of(run: str) -> Path:
    """Where the journal of a flow run is.

    Args:
        run: its UUID.
    """
    return Path(settings.journals()) / run


def journals() -> list[Found]:
    """All journals, the one begun last first."""
    found = []
    for folder in _folders():
        path = folder / JOURNAL
        try:
            written, size = path.stat().st_mtime, _size_of(folder)
        except OSError:  # it is being made, or removed
            continue
        try:
            found.append(Found(folder, read_facts(path), "", size, written))
        except (OSError, JournalError) as error:
            found.append(Found(folder, None, getattr(error, "problem", str(error)), size, written))
    return sorted(found, key=lambda one: -one.created)


def _folders() -> list[Path]:
    try:
        return [entry for entry in Path(settings.journals()).iterdir() if entry.is_dir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise JournalError(path=settings.journals(), problem=str(error)) from error


def _size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def find(name: str) -> Found:
    """The journal of a flow run.

    Args:
        name: the run's, of which the newest counts; or its UUID, or `last`.

    Raises:
        RunNotFound: there is none.
    """
    for found in journals():
        if name in (found.name, found.folder.name) or (name == "last" and found.facts is not None):
            return found
    raise RunNotFound(name=name, folder=settings.journals())


def check_trust(folder: Path) -> None:
    """Sees that a journal may be read: it holds pickles, and these run code.

    Raises:
        JournalError: others may have written it.
    """
    for path in (folder, folder / JOURNAL):
        distrust = distrust_of("it", path.stat())
        if distrust is not None:
            raise JournalError(
                path=str(path),
                problem=f"{distrust}, and who can write a pickle there can run code as you, so it is not read",
            )


def remove(found: Found) -> None:
    """Removes a journal, with its large values.

    Raises:
        JournalBusy: somebody is at it.
        JournalError: it cannot be removed.
    """
    lock = FileLock(str(found.folder / LOCK_FILE), str(found.folder))
    if not lock.try_acquire():
        raise JournalBusy(name=found.name)
    try:
        shutil.rmtree(found.folder)
    except OSError as error:
        raise JournalError(
            path=str(found.folder), problem=f"it cannot be removed: {error}"
        ) from error
    finally:
        lock.release()


def prune() -> int:
    """Removes what was not written for long, and of the rest what was written longest ago, as the settings say.

    Returns:
        How many were removed.
    """
    now, kept, removed = time.time(), 0, 0
    most, oldest = settings.max_bytes_of_journals(), settings.max_age_of_journals()
    found = []
    for folder in _folders():
        with contextlib.suppress(FileNotFoundError):  # somebody else removes it
            written = (folder / JOURNAL).stat().st_mtime
            found.append(Found(folder, None, "", _size_of(folder), written))
    for one in sorted(found, key=lambda one: -one.written):
        if now - one.written <= oldest and kept + one.size <= most:
            kept += one.size
            continue
        with contextlib.suppress(JournalBusy):
            remove(one)
            removed += 1
    return removed
