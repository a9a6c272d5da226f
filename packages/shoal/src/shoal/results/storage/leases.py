"""Locks of keys where there is no kernel: an object each, which its holder renews.

    try_acquire   make the object, unless it is there ─▶ is it mine? ─▶ taken
                  it is there, and has not changed for `LEASE` seconds: its holder is dead ─▶ write mine over it
                                                                       ─▶ next time: is it still mine? ─▶ taken
    release       remove the object, if it is mine

    guarantees   While its holder lives and reaches the store, nobody else takes it. Its death is noticed after `LEASE` seconds. No
                 clocks are compared: each who waits measures by its own how long an object has not changed.
    assumes      Making an object fails where it is there, as S3 and Google's store do it. Where a store does not know how, two that
                 come in the same instant may both have it, and compute the same twice.

One thread of a process renews what it holds, a third of the lease apart; it ends when nothing is held. A forked child holds nothing.
May import `base`.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from typing import Any

from shoal.exceptions import ResultStorageError
from shoal.results.storage.base import KeyLock, logger

__all__ = ["LEASE", "Lease"]

#: Seconds after which a lease that was not renewed is over.
LEASE = 30.0


class Lease(KeyLock):
    """See `KeyLock`.

    Args:
        files: the file system of fsspec.
        path: of the object there.
        place: of the storage, for errors.
    """

    # Each try is a request.
    shortest = 0.05
    longest = 1.0

    def __init__(self, files: Any, path: str, place: str) -> None:
        self._files = files
        self._path = path
        self._place = place
        self._owner = uuid.uuid4().hex.encode()
        self._renewed = 0
        self._io = threading.Lock()  # so that it is not renewed after its end
        self._seen: tuple[bytes, float] | None = None  # what somebody else's was, and since when

    def try_acquire(self) -> bool:
        """See `KeyLock`. It asks the store, which takes its time."""
        try:
            found = self._read() or self._make()
            if not found.startswith(self._owner):
                self._wait_for(found)
                return False
        except Exception as error:  # each file system has errors of its own
            raise ResultStorageError(
                place=self._place,
                problem=f"a key cannot be locked: {type(error).__name__}: {error}",
            ) from error
        _keeper.add(self)
        return True

    async def _try_async(self) -> bool:
        from anyio.to_thread import run_sync

        return await run_sync(self.try_acquire)

    def release(self) -> None:
        """See `KeyLock`."""
        if not _keeper.remove(self):
            return
        try:
            with self._io:
                if (self._read() or b"").startswith(self._owner):
                    self._files.rm_file(self._path)
        except Exception as error:
            logger.warning(
                "Results in %s: the lease of a key could not be given back, and ends in %g s: %s",
                *(self._place, LEASE, error),
            )

    def renew(self) -> None:
        """Says that its holder lives; if somebody else has it, that one keeps it."""
        with self._io:
            if _keeper.has(self) and (self._read() or self._owner).startswith(self._owner):
                self._write()

    # ------------------------------------------------------------------ the object

    def _wait_for(self, found: bytes) -> None:
        """Takes note of somebody else's; writes this one's over one that has not changed for too long."""
        now = time.monotonic()
        if self._seen is None or self._seen[0] != found:
            self._seen = found, now
        elif now - self._seen[1] > LEASE:
            self._seen = None
            self._write()

    def _read(self) -> bytes | None:
        try:
            data: bytes = self._files.cat_file(self._path)
        except FileNotFoundError:
            return None
        return data

    def _make(self) -> bytes:
        """Makes the object, unless it is there; what it is then."""
        try:
            self._write(mode="create")
        except FileExistsError:
            pass
        except TypeError:  # its file system does not know how: it was not there a moment ago
            self._write()
        return self._read() or b""

    def _write(self, **how: Any) -> None:
        self._renewed += 1
        data = self._owner + b" %d" % self._renewed
        try:
            self._files.pipe_file(self._path, data, **how)
        except FileNotFoundError:  # there have to be folders
            self._files.makedirs(self._path.rpartition("/")[0], exist_ok=True)
            self._files.pipe_file(self._path, data, **how)


class _Keeper:
    """Renews the leases that this process holds."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._held: set[Lease] = set()
        self._thread: threading.Thread | None = None

    def add(self, lease: Lease) -> None:
        with self._changed:
            self._held.add(lease)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._renew_all, name="shoal-leases", daemon=True
                )
                self._thread.start()

    def remove(self, lease: Lease) -> bool:
        """Lets go of one, and says whether it was held."""
        with self._changed:
            held = lease in self._held
            self._held.discard(lease)
            self._changed.notify_all()
            return held

    def has(self, lease: Lease) -> bool:
        """Whether one is held."""
        with self._changed:
            return lease in self._held

    def _renew_all(self) -> None:
        due = time.monotonic() + LEASE / 3
        while True:
            with self._changed:
                while self._held and (left := due - time.monotonic()) > 0:
                    self._changed.wait(left)
                if not self._held:
                    self._thread = None
                    return
                held = list(self._held)
            for lease in held:
                try:
                    lease.renew()
                except Exception as error:
                    logger.warning("The lease of a result's key could not be renewed: %s", error)
            due = time.monotonic() + LEASE / 3


_keeper = _Keeper()


def _after_fork_in_child() -> None:
    _keeper.__init__()  # type: ignore[misc]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
