"""The journals of this machine: a folder each, found, listed and removed.

    SHOAL_HOME/journals/<UUID of the flow run>/    journal   lock   values/

Who removes one holds its lock, so nobody is at it; the lock goes last, so nobody comes to what is half removed. A folder without a
journal is what is left of that, or of a process that died in the moment in which it began: it is pruned. One that has nothing else
either, and is new, may be about to have a journal: nobody touches its lock.

May import `file`, `reading`, and what storage trusts.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from shoal.exceptions import JournalBusy, JournalError, ResultStorageError, RunNotFound
from shoal.results import settings
from shoal.results.journal.file import JOURNAL, LOCK_FILE, VALUES, lock_of
from shoal.results.journal.reading import read_facts
from shoal.results.storage.trust import distrust_of

if TYPE_CHECKING:
    from shoal.results.journal.reading import Facts
    from shoal.results.storage.locks import FileLock

__all__ = ["Found", "check_trust", "find", "folder_of", "journals", "prune", "remove_all"]

#: Seconds within which a folder of a journal has one.
_BEGUN_WITHIN = 3600.0


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
        if not (self.folder / LOCK_FILE).exists():
            return False
        try:
            self._locked().release()
        except JournalBusy:
            return True
        except FileNotFoundError:
            return False
        return False

    def _is_there(self) -> bool:
        return (self.folder / JOURNAL).exists()

    def _may_begin(self) -> bool:
        """Whether somebody may be about to lock it, and to begin its journal."""
        names = [entry.name for entry in self.folder.iterdir()]
        return set(names) <= {LOCK_FILE} and time.time() - _written(self.folder) <= _BEGUN_WITHIN

    def _locked(self) -> FileLock:
        """Its lock, taken.

        Raises:
            JournalBusy: somebody is at it.
            FileNotFoundError: it is gone.
        """
        lock = lock_of(self.folder)
        try:
            if not lock.try_acquire():
                raise JournalBusy(name=self.name)
        except ResultStorageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise error.__cause__ from None
            raise JournalError(path=str(self.folder), problem=str(error)) from error
        return lock

    def remove(self, *, unless_written: bool = False) -> bool:
        """Removes it, with its large values.

        Args:
            unless_written: leave it if it was written since it was found.

        Returns:
            Whether it was there to be removed.

        Raises:
            JournalBusy: somebody is at it.
            JournalError: it cannot be removed.
        """
        try:
            if self._may_begin():
                return False
            lock = self._locked()
        except FileNotFoundError:
            return False
        try:
            if unless_written and _written(self.folder) > self.written and self._is_there():
                return False
            (self.folder / JOURNAL).unlink(missing_ok=True)
            for entry in self.folder.iterdir():
                if entry.name == VALUES:
                    shutil.rmtree(entry)
                elif entry.name != LOCK_FILE:
                    entry.unlink()
            lock.release()
            self.folder.rmdir()
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                problem = f"it cannot be removed: {error}"
                raise JournalError(path=str(self.folder), problem=problem) from error
            # Somebody has locked what is left, and removes it, or finds that it is nothing.
        finally:
            lock.release()
        return True


def folder_of(run: str) -> Path:
    """Where the journal of a flow run is.

    Args:
        run: its UUID.
    """
    return Path(settings.journals()) / run


def journals() -> list[Found]:
    """All journals, the one begun last first."""
    found = []
    for one in _measured():
        path = one.folder / JOURNAL
        try:
            found.append(one._replace(facts=read_facts(path)))
        except FileNotFoundError:  # it is being made, or removed
            continue
        except (OSError, JournalError) as error:
            found.append(one._replace(problem=getattr(error, "problem", str(error))))
    return sorted(found, key=lambda one: -one.created)


def _measured() -> list[Found]:
    """All folders of journals, unread."""
    found = []
    for folder in _folders():
        with contextlib.suppress(FileNotFoundError):  # somebody removes it
            found.append(Found(folder, None, "", _size_of(folder), _written(folder)))
    return found


def _written(folder: Path) -> float:
    """When a journal was last written; where there is none, when that was begun or removed."""
    try:
        return (folder / JOURNAL).stat().st_mtime
    except FileNotFoundError:
        return folder.stat().st_mtime


def _folders() -> list[Path]:
    try:
        return [entry for entry in Path(settings.journals()).iterdir() if entry.is_dir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise JournalError(path=settings.journals(), problem=str(error)) from error


def _size_of(folder: Path) -> int:
    size = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(
            FileNotFoundError
        ):  # a large value that was being written has its name now
            size += file.stat().st_size if file.is_file() else 0
    return size


def find(name: str) -> Found:
    """The journal of a flow run.

    Args:
        name: the run's, of which the newest counts; or its UUID, or `last`.

    Raises:
        RunNotFound: there is none.
    """
    known = journals()
    for found in known:
        if name in (found.name, found.folder.name) or (name == "last" and found.facts is not None):
            return found
    names = tuple(one.name for one in known)
    raise RunNotFound(name=name, folder=settings.journals(), known=names)


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


def remove_all() -> tuple[int, int]:
    """Removes all journals that nobody is at.

    Returns:
        How many were removed, and how many bytes.

    Raises:
        JournalError: one cannot be removed; others may have been.
    """
    removed = [one.size for one in _measured() if _is_removed(one)]
    return len(removed), sum(removed)


def prune() -> int:
    """Removes what was not written for long, and of the rest what was written longest ago, as the settings say.

    Returns:
        How many were removed.

    Raises:
        JournalError: one cannot be removed; all others were looked at before.
    """
    now, kept, removed = time.time(), 0, 0
    most, oldest = settings.max_bytes_of_journals(), settings.max_age_of_journals()
    failed: JournalError | None = None
    for one in sorted(_measured(), key=lambda one: -one.written):
        age = now - one.written
        is_orphan = age > _BEGUN_WITHIN and not one._is_there()
        if age <= oldest and kept + one.size <= most and not is_orphan:
            kept += one.size
            continue
        try:
            removed += _is_removed(one, unless_written=True)
        except JournalError as error:
            failed = failed or error
    if failed is not None:
        raise failed
    return removed


def _is_removed(one: Found, *, unless_written: bool = False) -> bool:
    """Removes one, unless somebody is at it; gives whether it did."""
    try:
        return one.remove(unless_written=unless_written)
    except JournalBusy:
        return False
