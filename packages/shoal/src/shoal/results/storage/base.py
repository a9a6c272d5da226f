"""What a storage does, whatever it keeps its records in.

    guarantees   A record is found whole or not at all. What does not verify is a miss, with a warning. Every error of what
                 lies beneath is a `ResultStorageError`: who has asked goes on without.
    assumes      `_put` of a name takes the place of what was there at once.

Storages have no state that a fork or another thread could break, and may be pickled: in another process, one of the same place
is opened. May import `format` and `record`.
"""

from __future__ import annotations

import hashlib
import logging
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Self

from shoal.exceptions import ResultStorageError
from shoal.results.storage.format import Damaged, pack, unpack
from shoal.results.storage.record import Pruned, Ref

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from shoal.results.storage.record import Damage, Entry, Record

__all__ = ["KeyLock", "Storage", "logger"]

logger = logging.getLogger("shoal.results")

#: Serializers whose values can be read without running anything that stands in them.
_HARMLESS = frozenset({"json", "compressed/json"})


class KeyLock(ABC):
    """The lock of a key: one computation at a time, in all threads and processes that share the storage.

    Released by `release`, and by the death of its process. Whoever has waited for it reads the key again. Not reentrant.

    Attributes:
        shortest, longest: seconds between two tries of who waits.
        holder_waits: whether who had it at the last try waits itself, for runs or slots; also where that is not known.
    """

    shortest = 0.001
    longest = 0.05
    holder_waits = True

    @abstractmethod
    def try_acquire(self) -> bool:
        """Takes it, if nobody has it; never waits.

        Raises:
            ResultStorageError: it cannot be taken at all.
        """

    @abstractmethod
    def release(self) -> None:
        """Gives it back; without having it, does nothing."""

    def tell(self, *, waits: bool) -> None:  # noqa: B027  # most cannot
        """Lets others know whether who has it waits itself; where they cannot, or it is not had, does nothing."""

    def acquire(self, timeout: float | None = None) -> bool:
        """Takes it, and waits for it in this thread.

        Args:
            timeout: for how many seconds at most; `None`: however long it takes.

        Returns:
            Whether it is taken.

        Raises:
            ResultStorageError: it cannot be taken at all.
        """
        for pause in self.pauses(timeout):
            if self.try_acquire():
                return True
            time.sleep(pause)
        return self.try_acquire()

    async def acquire_async(self, timeout: float | None = None) -> bool:
        """The same for a coroutine under asyncio or trio, whose loop goes on meanwhile."""
        from anyio import sleep

        for pause in self.pauses(timeout):
            if await self._try_async():
                return True
            await sleep(pause)
        return await self._try_async()

    async def _try_async(self) -> bool:
        return self.try_acquire()

    def pauses(self, timeout: float | None = None) -> Iterator[float]:
        """Seconds to wait between two tries: a quarter of what was waited, from `shortest` to `longest`."""
        begun = time.monotonic()
        while True:
            waited = time.monotonic() - begun
            pause = min(max(waited / 4, self.shortest), self.longest)
            if timeout is not None and waited + pause > timeout:
                if waited < timeout:
                    yield timeout - waited
                return
            yield pause

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.release()

    async def __aenter__(self) -> Self:
        await self.acquire_async()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.release()


class Storage(ABC):
    """Records by key.

    Args:
        place: where it is: `open_storage` opens it again.

    Attributes:
        is_near: whether it answers at once, so that a coroutine may ask it.
    """

    is_near = False

    def __init__(self, place: str) -> None:
        self.place = place

    def read(self, key: str) -> Record | None:
        """The record of a key; `None` if there is none that counts: it has expired, or does not verify.

        Raises:
            ResultStorageError: the storage cannot be read, or must not be trusted with what it has.
        """
        name = name_of(key)
        found = self._get(name)
        if found is None:
            return None
        data, distrust = found
        try:
            record = unpack(data, key)
        except Damaged as damage:
            self._warn(name, f"{damage}; what it was is computed again")
            return None
        if not record.is_current(time.time()):
            return None
        self._check(record, distrust)
        return record

    def write(self, record: Record) -> Ref:
        """Keeps a record, in the place of the one that had its key.

        Raises:
            ResultStorageError: the storage cannot be written, is full, or must not have a record of this kind.
            TypeError: the record's parts are not JSON.
        """
        self._check(record, self._distrust())
        self._put(name_of(record.key), pack(record))
        return Ref(self.place, record.key, len(record.value))

    @abstractmethod
    def lock(self, key: str) -> KeyLock:
        """The lock of a key, not yet taken."""

    @abstractmethod
    def peek(self, key: str) -> Record | None:
        """The record of a key without its value, also one that has expired; `None` if there is none.

        Raises:
            ResultStorageError: the storage cannot be read.
        """

    def list(self) -> list[Entry]:
        """All records, expired ones too, in no order. What does not verify is left out, with a warning.

        Raises:
            ResultStorageError: the storage cannot be read.
        """
        entries, damages = self._survey()
        if damages:
            logger.warning(
                "Results in %s: %d do not verify, say %s: %s. `shoal cache prune` removes them.",
                *(self, len(damages), damages[0].name, damages[0].problem),
            )
        return [*entries]

    def remove(self, key: str) -> bool:
        """Removes the record of a key, and says whether there was one.

        Raises:
            ResultStorageError: it cannot be removed.
        """
        return self._delete(name_of(key))

    def prune(self, max_bytes: float = float("inf"), max_age: float = float("inf")) -> Pruned:
        """Removes what has expired or does not verify, what nobody uses, and of the rest what was used longest ago.

        Args:
            max_bytes: how many bytes all records may take afterwards.
            max_age: how many seconds ago a record may have been used last.

        Raises:
            ResultStorageError: the storage cannot be read, or something not be removed.
        """
        now = time.time()
        entries, damages = self._survey()
        removed = [damage.size for damage in damages if self._delete(damage.name)]
        kept = 0
        for entry in sorted(entries, key=lambda entry: entry.used, reverse=True):
            if (
                entry.record.is_current(now)
                and now - entry.used <= max_age
                and kept + entry.size <= max_bytes
            ):
                kept += entry.size
            elif self._delete(entry.name):
                removed.append(entry.size)
        return Pruned(len(removed), sum(removed))

    def __reduce__(self) -> Any:
        return type(self), (self.place,)

    def __str__(self) -> str:
        return self.place

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self}>"

    # ------------------------------------------------------------------ what each kind of storage does

    def _distrust(self) -> str | None:
        """Why what stands here must not run code when it is read; `None` where it may."""
        return None

    @abstractmethod
    def _get(self, name: str) -> tuple[bytes, str | None] | None:
        """The bytes of a name, if there are any, and why they must not run code."""

    @abstractmethod
    def _survey(self) -> tuple[Sequence[Entry], Sequence[Damage]]:
        """All records, and what does not verify."""

    @abstractmethod
    def _put(self, name: str, pieces: Sequence[bytes | memoryview]) -> None: ...

    @abstractmethod
    def _delete(self, name: str) -> bool: ...

    # ------------------------------------------------------------------ words

    def _check(self, record: Record, distrust: str | None) -> None:
        if distrust is not None and record.serializer not in _HARMLESS:
            raise self._error(
                f"{distrust}, and who can write a pickle there can run code as you: no value is read from it or written to"
                ' it but by result_serializer="json". Name a folder of your own, or take the permission away'
                " (chmod go-w)"
            )

    def _error(self, problem: str) -> ResultStorageError:
        return ResultStorageError(place=str(self), problem=problem)

    def _warn(self, name: str, problem: str) -> None:
        # A run asks twice, before and after it has the key's lock.
        subject = f"{self.place}\0{name}\0{problem}"
        text = "Results in %s: the file %s is not used: %s."
        logger.warning(text, self, name, problem, extra={"subject": subject})


def name_of(key: str) -> str:
    """The name of a key's file: 40 hexadecimal digits."""
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=20).hexdigest()
