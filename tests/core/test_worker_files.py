"""What workers write down where it outlives them: how the files are made and read, and what is made of noise."""

from __future__ import annotations

import errno
import os
import pickle
import random
import stat
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from shoal.task_runners.remote import record
from shoal.task_runners.remote.batches import BEGUN
from shoal.task_runners.remote.cluster_worker import ClusterWorker
from shoal.task_runners.remote.files import is_own, make_file, read_file, remove_file
from shoal.task_runners.remote.record import (
    ARGUMENTS,
    CAPACITY,
    Record,
    outcomes_in,
    read_record,
)

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 100_000

only_posix = pytest.mark.skipif(sys.platform == "win32", reason="there is no such thing on Windows")


def fails(number: int) -> Any:
    """What raises an error of the system."""

    def call(*args: Any) -> None:
        raise OSError(number, os.strerror(number))

    return call


# ------------------------------------------------------------------------ making and reading


@only_posix
def test_a_file_is_its_users_alone_and_takes_up_its_room(tmp_path: Path) -> None:
    path, memory = make_file(str(tmp_path / "new"), SIZE)
    status, folder = os.stat(path), os.stat(os.path.dirname(path))
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert stat.S_IMODE(folder.st_mode) == 0o700
    assert status.st_size == SIZE
    assert status.st_blocks * 512 >= SIZE, "there are no holes"
    memory[:5] = b"noted"
    content = read_file(path, SIZE)
    assert content is not None
    assert content == b"noted" + bytes(SIZE - 5)
    assert is_own(path)
    remove_file(path)
    assert os.listdir(tmp_path / "new") == []
    assert not is_own(path)
    remove_file(path)


@only_posix
@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL], ids=["EOPNOTSUPP", "EINVAL"])
def test_a_file_system_that_cannot_reserve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", fails(number))
    path, _ = make_file(str(tmp_path), SIZE)
    assert os.stat(path).st_blocks * 512 >= SIZE


@only_posix
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT], ids=["ENOSPC", "EDQUOT"])
def test_a_full_disk_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", fails(number))
    with pytest.raises(OSError, match=os.strerror(number)):
        Record(str(tmp_path))
    assert os.listdir(tmp_path) == []


FULL = """
import sys
from shoal.task_runners.remote.record import Record
try:
    Record(sys.argv[1])
except OSError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")
def test_a_disk_that_is_full_indeed(tmp_path: Path) -> None:
    """In a process of its own, whose mounts nobody else sees: with holes it would end by SIGBUS."""
    mount = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
    mounted = 'mount -t tmpfs -o size=1m none "$1" && shift && exec "$@"'
    call = [*mount, mounted, "sh", str(tmp_path)]
    try:
        allowed = subprocess.run([*call, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        allowed = False
    if not allowed:
        pytest.skip("nothing can be mounted here")
    ended = subprocess.run(
        [*call, sys.executable, "-c", FULL, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert os.strerror(errno.ENOSPC) in ended.stdout


@only_posix
class TestWhatIsNoFileOfOurs:
    """It is read for nothing, at once, and stays where it is."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> str:
        path, _ = make_file(str(tmp_path), SIZE)
        return path

    def test_a_link(self, path: str, tmp_path: Path) -> None:
        link = tmp_path / "link"
        link.symlink_to(path)
        assert read_file(str(link), SIZE) is None
        assert link.is_symlink()

    def test_a_pipe(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        assert read_file(str(tmp_path / "pipe"), SIZE) is None

    def test_a_folder(self, tmp_path: Path) -> None:
        assert read_file(str(tmp_path), SIZE) is None

    def test_a_device(self) -> None:
        assert read_file("/dev/zero", SIZE) is None

    @pytest.mark.parametrize("size", [0, SIZE - 1, SIZE + 1, 1 << 40])
    def test_another_size(self, path: str, size: int) -> None:
        os.truncate(path, size)
        assert read_file(path, SIZE) is None

    def test_another_users(self, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
        other = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: other)
        assert read_file(path, SIZE) is None
        assert not is_own(path)

    def test_none(self, tmp_path: Path) -> None:
        assert read_file(str(tmp_path / "none"), SIZE) is None

    def test_it_is_not_removed(self, path: str) -> None:
        assert read_record(path) is None
        assert os.path.exists(path)


# ------------------------------------------------------------------------ what is made of it


def lost(key: Any) -> Any:
    return ("kept", key)


def outcomes(content: bytes | None, *expected: int) -> Any:
    return outcomes_in(content, lost, set(expected))


@pytest.fixture
def content(tmp_path: Path) -> bytes:
    """A record of batch 7: one run has begun, some have ended; and of batch 8, whose arguments are being unpickled."""
    written = Record(str(tmp_path))
    number = written.open(7, 8)
    lane = written.begin(number, 8)
    assert lane is not None
    lane.words[1] = BEGUN
    for position, value in ((2, 5), (3, None), (4, 2.5)):
        lane.ends[position] = float(position)
        assert lane.put(position, value)
    assert lane.put_pickled(5, pickle.dumps("five"))
    assert lane.put_kept(6, pickle.dumps("six"))
    written.unpickles(written.open(8, 3000), ARGUMENTS)
    content = read_record(written.path)
    assert content is not None
    assert os.listdir(tmp_path) == []
    return content


def test_a_record_tells_what_has_begun_and_how_it_ended(content: bytes) -> None:
    """SPEC 7.5."""
    found = outcomes(content, 7, 8, 9)
    assert set(found) == {7, 8}
    assert found[7].positions == [2, 3, 4, 5, 6]
    assert found[7].values == [5, None, 2.5, "five", ("kept", "six")]
    assert found[7].ends[:3] == [2.0, 3.0, 4.0]
    assert found[7].begun == [1]
    assert found[8].unpacking == ARGUMENTS


def test_what_went_unrecorded_may_have_begun(tmp_path: Path) -> None:
    written = Record(str(tmp_path))
    while written.open(7, CAPACITY) >= 0:
        pass
    content = read_record(written.path)
    found = outcomes(content, 7, 9)
    assert 0 in found[9].begun
    assert found[9].positions == ()


def test_what_makes_no_sense_tells_nothing(content: bytes) -> None:
    """Neither that something has begun nor that it has not."""
    size = len(content)
    assert outcomes(None) is None
    assert outcomes(b"") is None
    assert outcomes(content[:-1]) is None
    assert outcomes(content + b"\0") is None
    assert outcomes(bytes(size)) is None, "it was made, and not written"
    assert outcomes(b"shoal outcomes 9" + content[16:]) is None
    assert outcomes(random.Random(1).randbytes(size)) is None


def test_noise_in_a_lane_is_no_outcome(content: bytes) -> None:
    """What cannot be an outcome had begun, as far as can be known."""
    noisy = bytearray(content)
    place = content.index(pickle.dumps("five"))
    noisy[place : place + 2] = b"\xff\xff"
    found = outcomes(bytes(noisy))
    assert 5 in found[7].begun
    assert found[7].positions == [2, 3, 4, 6]


# ------------------------------------------------------------------------ a worker without one


def test_a_worker_without_room_for_a_record_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so: what it has begun is not known if it dies (SPEC 7.5)."""
    worker = ClusterWorker(channel=None, report_every=1.0)
    monkeypatch.setattr(record, "make_file", fails(errno.ENOSPC))
    monkeypatch.setattr(
        "shoal.task_runners.remote.cluster_worker._send_logs", lambda: None
    )  # as to the driver
    worker.identify(1, str(tmp_path))
    assert worker.record is None
    told = worker.hello(None)
    assert told["record"] is None
    assert os.strerror(errno.ENOSPC) in told["unrecorded"]
