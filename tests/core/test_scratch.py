"""Folders of drivers: what a driver that was killed has left is swept by the next, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from shoal.task_runners.remote import scratch
from shoal.task_runners.remote.scratch import Scratch, sweep

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="nothing is swept on Windows")

OWNER = """
import sys, time
from pathlib import Path
from shoal.task_runners.remote.scratch import Scratch
folder = Scratch("dask", sys.argv[1])
Path(folder.path, "below").mkdir()
Path(folder.path, "below", "record").write_bytes(bytes(1000))
Path(folder.path, "link").symlink_to(sys.argv[2])
print(folder.path, flush=True)
time.sleep(600)
"""


class Owner:
    """A driver with a folder, as a process of its own.

    Attributes:
        path: of its folder.
    """

    def __init__(self, within: Path, link: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(within), str(link)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.path = self.process.stdout.readline().strip()

    def kill(self) -> None:
        """Kills it; more than once does nothing."""
        if self.process.returncode is None:
            self.process.kill()
            self.process.communicate()


@pytest.fixture
def within(tmp_path: Path) -> Path:
    """Where drivers have their folders."""
    folder = tmp_path / "within"
    folder.mkdir()
    return folder


@pytest.fixture
def owner(within: Path, tmp_path: Path) -> Iterator[Owner]:
    """A driver; a link in its folder leads to one with a file."""
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    owner = Owner(within, tmp_path / "kept")
    yield owner
    owner.kill()


def names(within: Path) -> set[str]:
    return set(os.listdir(within))


def test_the_next_driver_sweeps_what_a_killed_one_has_left(
    owner: Owner, within: Path, tmp_path: Path
) -> None:
    assert os.path.exists(owner.path)
    first = Scratch("ray", str(within))
    assert names(within) == {os.path.basename(owner.path), os.path.basename(first.path)}, "it lives"
    owner.kill()
    second = Scratch("fork", str(within))
    assert names(within) == {os.path.basename(first.path), os.path.basename(second.path)}
    assert (tmp_path / "kept" / "file").exists(), "what a link points to"
    first.remove()
    second.remove()
    assert names(within) == set()
    second.remove()


def test_it_is_its_users_alone(within: Path) -> None:
    folder = Scratch("dask", str(within))
    assert os.stat(folder.path).st_mode & 0o777 == 0o700
    folder.remove()


def test_a_forked_child_removes_nothing_and_holds_it(within: Path) -> None:
    folder = Scratch("dask", str(within))
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        folder.remove()
        os.write(tell, b"1")
        signal.pause()
    try:
        os.read(told, 1)
        assert os.path.exists(folder.path)
        os.close(folder._owner)  # as at the end of this process
        sweep(str(within))
        assert os.path.exists(folder.path)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(told)
        os.close(tell)
    sweep(str(within))
    assert names(within) == set()


class TestWhatStays:
    """Whatever is in doubt."""

    @pytest.fixture
    def left(self, owner: Owner) -> str:
        """What a killed driver has left."""
        owner.kill()
        return owner.path

    def test_another_users(self, left: str, within: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        me = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: me + 1)
        sweep(str(within))
        assert os.path.exists(left)

    def test_that_of_another_machine(self, left: str, within: Path) -> None:
        with open(os.path.join(left, "owner"), "w") as file:
            file.write("another")
        sweep(str(within))
        assert os.path.exists(os.path.join(left, "below", "record"))

    def test_a_link(self, left: str, within: Path, tmp_path: Path) -> None:
        os.rename(left, tmp_path / "moved")
        os.symlink(tmp_path / "moved", left)
        sweep(str(within))
        assert os.path.islink(left)
        assert os.path.exists(tmp_path / "moved" / "below" / "record")

    def test_an_owner_that_is_a_link(self, left: str, within: Path, tmp_path: Path) -> None:
        os.rename(os.path.join(left, "owner"), tmp_path / "owner")
        os.symlink(tmp_path / "owner", os.path.join(left, "owner"))
        sweep(str(within))
        assert os.path.exists(os.path.join(left, "below", "record"))

    def test_an_owner_that_is_a_pipe(self, left: str, within: Path) -> None:
        os.unlink(os.path.join(left, "owner"))
        os.mkfifo(os.path.join(left, "owner"))
        sweep(str(within))
        assert os.path.exists(os.path.join(left, "below", "record"))

    def test_other_names(self, left: str, within: Path) -> None:
        for name in ("shoal-demo-abcdefgh", "shoal-123-abcdefgh", "shoal-dask-abcdefghi"):
            os.mkdir(within / name)
            with open(within / name / "owner", "w"):
                pass
        os.rename(left, within / "shoal-dask")
        before = names(within)
        sweep(str(within))
        assert names(within) == before

    def test_where_nothing_can_be_locked(
        self, left: str, within: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(scratch, "_lock", lambda file: None)
        sweep(str(within))
        assert os.path.exists(left)
        folder = Scratch("dask", str(within))
        folder.remove()
        assert not os.path.exists(folder.path)


def test_it_takes_no_longer_than_it_may(
    owner: Owner, within: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Owner(within, within)
    other.kill()
    owner.kill()
    monkeypatch.setattr(scratch, "SWEEPS_FOR", -1.0)
    sweep(str(within))
    assert len(names(within)) == 1
    sweep(str(within))
    assert names(within) == set()


def test_an_empty_one_that_nobody_has_come_to_lock(within: Path) -> None:
    os.mkdir(within / "shoal-dask-abcdefgh")
    sweep(str(within))
    assert names(within) == set()


@pytest.mark.parametrize("moment", ["before it is owned", "before it is locked"])
def test_one_that_is_swept_as_it_is_made_is_made_anew(
    within: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    swept: list[bool] = []

    def sweep_once(function: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            made = function(*args, **options) if function is not scratch._lock else None
            if not swept:
                swept.append(True)
                sweep(str(within))
            return made if made is not None else function(*args, **options)

        return call

    if moment == "before it is owned":
        monkeypatch.setattr(scratch.tempfile, "mkdtemp", sweep_once(scratch.tempfile.mkdtemp))
    else:
        monkeypatch.setattr(scratch, "_lock", sweep_once(scratch._lock))
    folder = Scratch("dask", str(within))
    assert swept
    assert os.path.exists(os.path.join(folder.path, "owner"))
    assert names(within) == {os.path.basename(folder.path)}
    folder.remove()


def test_drivers_that_make_and_sweep_at_once(within: Path) -> None:
    """None sweeps what another has, all that was left is gone, and no error comes of it."""
    for _ in range(20):
        os.mkdir(within / f"shoal-dask-{os.urandom(4).hex()}")
    errors: list[BaseException] = []

    def drive() -> None:
        try:
            for _ in range(50):
                folder = Scratch("dask", str(within))
                assert os.path.exists(os.path.join(folder.path, "owner"))
                folder.remove()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=drive) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert names(within) == set()
