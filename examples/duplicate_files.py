"""Which files of a folder are the same? A checksum of each, on threads."""

from __future__ import annotations

import hashlib
import tempfile
from collections import defaultdict
from pathlib import Path

from shoal import flow, get_run_logger, task


@task(task_run_name="checksum of {path.name}")
def checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@flow(task_runner="threads")
def find_duplicates(folder: Path) -> list[list[str]]:
    """Finds the files that have the same content.

    Returns:
        Groups of their paths, relative to the folder.
    """
    paths = [path for path in folder.rglob("*") if not path.is_dir()]
    checksums = checksum.map(paths)
    checksums.wait()

    groups: defaultdict[str, list[str]] = defaultdict(list)
    for path, run in zip(paths, checksums, strict=True):
        if run.state.is_completed():
            name = path.relative_to(folder).as_posix()
            groups[run.result()].append(name)
        else:
            get_run_logger().warning("left out: %s", run.exception())
    same = [sorted(group) for group in groups.values() if len(group) > 1]
    return sorted(same)


def make_files(folder: Path) -> None:
    """Makes 100 files of 100 kB; two copies; and a broken link."""
    files = [folder / str(n // 10) / f"{n:02}.bin" for n in range(100)]
    for number, file in enumerate(files):
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(f"{number:05}".encode() * 20_000)
    (folder / "3" / "copy.bin").write_bytes(files[7].read_bytes())
    files[99].write_bytes(files[42].read_bytes())
    (folder / "5" / "broken").symlink_to("nowhere")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        make_files(Path(name))
        found = find_duplicates(Path(name))

    for group in found:
        print(" = ".join(group))
    # prints: 0/07.bin = 3/copy.bin
    # prints: 4/42.bin = 9/99.bin
    assert len(found) == 2
