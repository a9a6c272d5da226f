"""Flow runs go on, on every runner, after a failure and after their driver was killed; and as a new user does it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.results.killed import TOTAL, fail_and_resume, kill_and_resume

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize(
    ("runner", "then"),
    [
        ("threads", "processes:2"),
        ("processes:2", "sequential"),
        ("dask", "processes:2"),
        ("ray", "threads"),
    ],
)
def test_what_completed_is_not_executed_again(runner: str, then: str, tmp_path: Path) -> None:
    before, after, right = fail_and_resume(runner, then, tmp_path)
    assert len(before) == 549
    assert after == {TOTAL}
    assert right


@pytest.mark.parametrize("runner", ["threads", "processes:2"])
@pytest.mark.parametrize("ended", [0, 300])
def test_a_killed_driver(runner: str, ended: int, tmp_path: Path) -> None:
    found = kill_and_resume(runner, tmp_path, ended)
    assert found.value
    assert found.amid
    assert found.again == 0
    assert found.oldest < 1.0  # 0.1 where nobody else is on the machine
    assert found.after < 0.5


LARGE = """
import os, sys
from shoal import flow, task


@task
def large(i):
    with open(os.environ["TRACE"], "a") as trace:
        trace.write(f"{i}\\n")
    return os.urandom(20_000_000)


@flow(journal=True, flow_run_name="large")
def main():
    runs = [large.submit(i) for i in range(6)]
    for run in runs:
        run.wait()
    if "FAILS" in os.environ:
        raise ValueError("large")
    return sum(len(run.result()) for run in runs)


if __name__ == "__main__":
    main = main.with_options(task_runner=sys.argv[1])
    print(main() if len(sys.argv) < 3 else main.resume("large"))
"""


@pytest.mark.parametrize("runner", ["processes:2", "dask", "ray"])
def test_large_values_that_the_runner_keeps_outlive_it(runner: str, tmp_path: Path) -> None:
    """A flow run that fails leaves its runner, and what has completed stands in the journal, however large."""
    script, trace = tmp_path / "large_flow.py", tmp_path / "trace"
    script.write_text(LARGE, encoding="utf-8")

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: PLW1510  # the first one fails
            [sys.executable, str(script), *arguments],
            env={**os.environ, "TRACE": str(trace), **more},
            capture_output=True,
            text=True,
            timeout=200,
        )

    failed = run(runner, FAILS="1")
    assert failed.stderr.rstrip().endswith("shoal resume large"), failed.stderr
    done = run("threads", "large")
    assert done.stdout.split() == ["120000000"], done.stderr
    assert sorted(trace.read_text().split()) == ["0", "1", "2", "3", "4", "5"]


LATE = """
import ray
from shoal import flow, task


@task
def inc(x):
    return x + 1


@flow(journal=True, flow_run_name="late", task_runner="ray")
def main(fails=False, more=False):
    values = inc.map(range(3)).result()
    before = ray.is_initialized()
    if fails:
        raise ValueError("mended later")
    if more:
        values.append(inc.submit(9).result())
    return before, ray.is_initialized(), values


print(main())
print(main.resume("late"))
try:
    main.resume("late", fails=True)
except ValueError as error:
    print(error)
print(main.resume("late", fails=False, more=True))
print(ray.is_initialized())
"""


def test_ray_starts_when_a_run_is_to_be_executed(tmp_path: Path) -> None:
    script = tmp_path / "late.py"
    script.write_text(LATE)
    done = subprocess.run(
        [sys.executable, str(script)], check=True, capture_output=True, text=True, timeout=100
    )
    assert done.stdout.splitlines() == [
        "(True, True, [1, 2, 3])",
        "(False, False, [1, 2, 3])",
        "mended later",
        "(False, True, [1, 2, 3, 10])",
        "False",
    ]


FLOW = """
import time
from pathlib import Path
from shoal import flow, task


@task
def read(path):
    time.sleep(0.001)
    text = Path(path).read_text()
    return int(text)


@task
def fold(numbers):
    return sum(numbers)


@flow(task_runner="processes:2")
def main(folder: Path):
    paths = sorted(folder.glob("*.txt"))
    return fold.submit(read.map([str(path) for path in paths])).result()
"""


def test_as_a_new_user_does_it(tmp_path: Path) -> None:
    files, code = tmp_path / "files", tmp_path / "etl.py"
    files.mkdir()
    for number in range(1000):
        (files / f"{number:04}.txt").write_text("" if number == 990 else str(number))
    code.write_text(FLOW)

    def shoal(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: PLW1510  # looked at below
            [sys.executable, "-m", "shoal", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )

    begin = [
        sys.executable,
        "-m",
        "shoal",
        "run",
        "etl.py:main",
        "--journal",
        "-p",
        f"folder={files}",
    ]
    with subprocess.Popen(begin, cwd=tmp_path, stderr=subprocess.DEVNULL) as driver:
        deadline = time.monotonic() + 60
        while "read" not in shoal("runs", "ls", "--json").stdout and time.monotonic() < deadline:
            pass
        os.kill(driver.pid, signal.SIGKILL)
    listed = shoal("runs", "ls").stdout
    assert "Killed" in listed or "Failed" in listed
    failed = shoal("resume", "last")
    assert failed.returncode == 1
    name = listed.splitlines()[1].split()[0]
    assert failed.stderr.splitlines()[-1] == f"To go on where it stopped: shoal resume {name}"
    code.write_text(FLOW.replace("return sum(numbers)", "return sum(n or 0 for n in numbers)"))
    (files / "0990.txt").write_text("990")
    done = shoal("resume", name)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(sum(range(1000)))
    (said,) = [line for line in done.stderr.splitlines() if "goes on" in line]
    reused = int(
        said.partition("goes on: ")[2].partition(" of 1,000 runs of `read` can be reused")[0]
    )
    assert 900 < reused < 1000  # those behind the file that failed were cancelled
    assert said.endswith("`fold` runs again: its code changed")
    listed = shoal("runs", "ls").stdout
    assert "Completed" in listed
    assert "1,001 of 1,001" in listed
    assert shoal("runs", "rm", name).stdout.startswith(f"Removed: {name}, ")
    assert shoal("resume", name).returncode == 2
