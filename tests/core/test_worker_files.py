"""What workers write down where it outlives them: how the files are made and read, and what is made of noise."""

from __future__ import annotations

import errno
import os
import random
import stat
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from shoal.task_runners.remote import record
from shoal.task_runners.remote.cluster_worker import ClusterWorker
from shoal.task_runners.remote.files import is_own, make_file, read_file, remove_file
from shoal.task_runners.remote.record import Record, begun_in, read_record

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


@pytest.fixture
def content(tmp_path: Path) -> bytes:
    """A record in which one run of batch 7 has begun."""
    written = Record(str(tmp_path))
    _, words = written.open(7, 3)
    words[1] = 1
    content = read_record(written.path)
    assert content is not None
    assert os.listdir(tmp_path) == []
    return content


def test_a_record_tells_what_has_begun(content: bytes) -> None:
    assert begun_in(content) == {7: [1]}


def test_what_makes_no_sense_tells_nothing(content: bytes) -> None:
    """Neither that something has begun nor that it has not."""
    size = len(content)
    assert begun_in(None) is None
    assert begun_in(b"") is None
    assert begun_in(content[:-1]) is None
    assert begun_in(content + b"\0") is None
    assert begun_in(bytes(size)) is None, "it was made, and not written"
    assert begun_in(b"shoal begun 2".ljust(16, b"\0") + content[16:]) is None
    assert begun_in(random.Random(1).randbytes(size)) is None
    assert begun_in(content[:16] + random.Random(2).randbytes(size - 16)) is None
    noisy = bytearray(content)
    noisy[-1] = 2
    assert begun_in(bytes(noisy)) is None


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
