"""Workers share the cores: what numerical libraries are told, and how many cores there are (SPEC 11.1)."""

from __future__ import annotations

import os

import pytest
from shoal import flow, task
from shoal.task_runners import ProcessPoolTaskRunner
from shoal.task_runners.processes import cores

GROUPS = cores.CGROUPS
NAMES = [cores.OPENMP, *cores.FOLLOW_OPENMP, *cores.OF_THEIR_OWN]


@pytest.fixture(autouse=True)
def _no_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


@task(batch=False)
def told() -> dict[str, str]:
    return {name: os.environ[name] for name in NAMES if name in os.environ}


def told_on(runner: ProcessPoolTaskRunner) -> dict[str, str]:
    @flow(task_runner=runner)
    def main() -> dict[str, str]:
        return told.submit().result()

    return main()


def test_each_pool_gives_its_workers_their_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though workers of all are forked from one server."""
    monkeypatch.setattr(cores, "cores", lambda: 12)
    for workers, share in (3, "4"), (5, "2"), (100, "1"), (1, "12"):
        assert told_on(ProcessPoolTaskRunner(workers)) == dict.fromkeys(NAMES, share)


def test_what_the_user_has_set_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "cores", lambda: 12)
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    env = {"NUMBA_NUM_THREADS": "5"}
    shares = dict.fromkeys(NAMES, "4")
    given = {"MKL_NUM_THREADS": "7", "NUMBA_NUM_THREADS": "5"}
    assert told_on(ProcessPoolTaskRunner(3, env=env)) == shares | given
    # Those who read this one where theirs is not set have their number by it.
    monkeypatch.setenv("OMP_NUM_THREADS", "9")
    given["OMP_NUM_THREADS"] = "9"
    own = dict.fromkeys(cores.OF_THEIR_OWN, "4")
    assert told_on(ProcessPoolTaskRunner(3, env=env)) == own | given


@pytest.mark.parametrize(
    ("files", "count"),
    [
        ({}, 8),
        ({"/proc/self/cgroup": "0::/", f"{GROUPS}/cpu.max": "max 100000"}, 8),
        ({"/proc/self/cgroup": "0::/", f"{GROUPS}/cpu.max": "250000 100000"}, 3),
        ({"/proc/self/cgroup": "0::/", f"{GROUPS}/cpu.max": "2500000 100000"}, 8),
        ({"/proc/self/cgroup": "0::/", f"{GROUPS}/cpu.max": "10000 100000"}, 1),
        (
            {
                "/proc/self/cgroup": "1:cpu:/\n0::/user.slice/job",
                f"{GROUPS}/user.slice/job/cpu.max": "600000 100000",
                f"{GROUPS}/user.slice/cpu.max": "200000 100000",
            },
            2,
        ),
        (
            {
                f"{GROUPS}/cpu/cpu.cfs_quota_us": "400000",
                f"{GROUPS}/cpu/cpu.cfs_period_us": "100000",
            },
            4,
        ),
        (
            {f"{GROUPS}/cpu/cpu.cfs_quota_us": "-1", f"{GROUPS}/cpu/cpu.cfs_period_us": "100000"},
            8,
        ),
    ],
    ids=["none", "unlimited", "a part", "plenty", "little", "nested", "v1", "v1 unlimited"],
)
def test_how_many_cores_there_are(
    files: dict[str, str], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(cores, "_read", lambda path: files.get(path, "").splitlines())
    assert cores.cores() == count
