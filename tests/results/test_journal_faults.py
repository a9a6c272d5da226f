"""A file system that fails at the n-th operation, for each n: the flow goes on, says so once, and what it left can be used."""

from __future__ import annotations

import os
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any

import pytest
from shoal import flow, task
from shoal.exceptions import JournalError
from shoal.results.journal import journals
from shoal.results.journal.writer import LARGE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Disk:
    """Counts what is done in a folder, and fails at the n-th, or from then on.

    Attributes:
        failed: how often it did.
    """

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self._folder = str(folder)
        self._files: set[int] = set()
        self._left: int | None = None
        self._stays = False
        self.failed = 0
        real_open, real_close = os.open, os.close

        def opened(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
            inside = str(path).startswith(self._folder)
            if inside and flags & (os.O_WRONLY | os.O_RDWR):
                self._count()
            file = real_open(path, flags, *args, **kwargs)
            if inside:
                self._files.add(file)
            return file

        def closed(file: int) -> None:
            self._files.discard(file)
            real_close(file)

        patch.setattr(os, "open", opened)
        patch.setattr(os, "close", closed)
        for name in ("write", "mkdir", "replace", "link", "ftruncate"):
            patch.setattr(os, name, self._failing(getattr(os, name)))

    def _failing(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(what: Any, *args: Any, **kwargs: Any) -> Any:
            if what in self._files or str(what).startswith(self._folder):
                self._count()
            return real(what, *args, **kwargs)

        return operation

    def _count(self) -> None:
        if self._left is None:
            return
        self._left -= 1
        if self._left == 0 or (self._left < 0 and self._stays):
            self.failed += 1
            raise OSError(28, "No space left on device")

    def fails_at(self, number: int, stays: bool) -> None:
        """From now on, the operation of this number fails; and all behind it, if that stays."""
        self._left, self._stays, self.failed = number, stays, 0

    def is_well(self) -> None:
        """No operation fails any more."""
        self._left = None


@pytest.mark.parametrize("stays", [True, False], ids=["from the n-th on", "the n-th"])
@pytest.mark.parametrize("resumed", [False, True], ids=["new", "resumed"])
def test_the_flow_goes_on_whatever_operation_fails(
    resumed: bool,
    stays: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("SHOAL_HOME", str(home))
    (home / "journals").mkdir(parents=True)
    disk = Disk(home, monkeypatch)
    tenfold = [10]

    @task
    def times(x: int) -> int:
        return x * tenfold[0]

    @task
    def large(size: int) -> bytes:
        return bytes(size)

    @flow(journal=True, flow_run_name="run")
    def main(first: int) -> int:
        return sum(times.map(range(first, 5)).result()) + len(large(LARGE)) + times(first)

    number, failed = 0, 1
    while failed:
        number += 1
        if resumed:
            main(3)
        caplog.clear()
        disk.fails_at(number, stays)
        # Where a run goes on, it may say so before anything has run.
        with suppress(JournalError) if resumed else nullcontext():
            value = main.resume("run", first=1) if resumed else main(1)
            assert value == 110 + LARGE
        failed = disk.failed
        disk.is_well()
        told = [r.getMessage() for r in caplog.records if "remembered" in r.getMessage()]
        assert len(told) <= 1
        for found in journals():
            if found.facts is not None:
                assert main.resume("run", first=1) == 110 + LARGE
            found.remove()
    assert number > 6
