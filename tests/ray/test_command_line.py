"""`shoal demo` and `shoal run`, on Ray: on an instance of its own, and on a cluster that runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.ray.alone import without_ray

if TYPE_CHECKING:
    from tests.ray.clusters import Head

pytestmark = pytest.mark.slow

SHOAL = str(Path(sys.executable).with_name("shoal"))

FLOWS = """
from helpers import double
from shoal import flow, task

@task
def doubled(number):
    return double(number)

@flow
def total(count: int):
    print(sum(doubled.map(range(count)).result()))
"""

HELPERS = """
def double(number):
    return 2 * number
"""


def shoal(*arguments: str, folder: Path, address: str | None = None) -> tuple[str, str]:
    """Runs the command in a folder; gives what it writes to standard output and to standard error."""
    environment = {
        key: value for key, value in without_ray(os.environ).items() if not key.startswith("SHOAL_")
    }
    # Under `uv run` Ray would send the folder to a cluster that is joined, and set up an environment there.
    environment["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    if address is not None:
        environment["RAY_ADDRESS"] = address
    environment["PYTHONFAULTHANDLER"] = "1"
    process = subprocess.Popen(
        [SHOAL, *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, err = process.communicate(timeout=150)  # the limit of a test is 240
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)  # for the stacks of its threads
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    return out, err


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a program is whose module the cluster does not have."""
    (tmp_path / "flows.py").write_text(FLOWS)
    (tmp_path / "helpers.py").write_text(HELPERS)
    return tmp_path


def test_the_demo_on_an_instance_of_its_own(tmp_path: Path) -> None:
    out, err = shoal("demo", "--limit", "30", "--runner", "ray:2", folder=tmp_path)
    assert err.splitlines()[-1] == "measured 30 of 30 files"
    assert "30 files, " in out
    assert " s on RayTaskRunner(address='local', init_kwargs={'num_cpus': 2}): " in out


@pytest.mark.may_leave("processes", reason="a cluster keeps its workers for later")
class TestOnACluster:
    def test_the_demo(self, tmp_path: Path, ray_cluster: Head) -> None:
        arguments = ("demo", "--limit", "30", "--runner", "ray")
        out, err = shoal(*arguments, folder=tmp_path, address=ray_cluster.address)
        assert err.splitlines()[-1] == "measured 30 of 30 files"
        assert " s on RayTaskRunner(): " in out

    def test_a_flow_with_a_module_beside_it(self, folder: Path, ray_cluster: Head) -> None:
        arguments = ("run", "flows.py:total", "--param", "count=10", "--runner")
        for runner in (f"ray:{ray_cluster.address}", ray_cluster.client):
            out, _ = shoal(*arguments, runner, folder=folder)
            assert out.split() == ["90"]
