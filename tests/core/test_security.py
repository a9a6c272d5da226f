"""What SECURITY.md promises, and what can be seen from outside."""

from __future__ import annotations

import psutil
import pytest
from shoal import flow, task
from shoal.task_runners import ProcessPoolTaskRunner
from shoal.task_runners.processes.spawning import default_method

pytestmark = pytest.mark.skipif(default_method() != "forkserver", reason="only tested there")


@task
def inc(x: int) -> int:
    return x + 1


def ways_in() -> set[str]:
    """Where somebody else could connect to this process or those below it: ports, and sockets that have a name."""
    here = psutil.Process()
    return {
        f"{connection.laddr} of {process.name()}"
        for process in [here, *here.children(recursive=True)]
        for connection in process.net_connections(kind="all")
        if connection.laddr and (connection.status == psutil.CONN_LISTEN or not connection.raddr)
    }


def test_nobody_else_can_connect_to_a_process_pool() -> None:
    @flow(task_runner=ProcessPoolTaskRunner(max_workers=2))
    def with_workers() -> set[str]:
        assert inc.map(range(10)).result()[-1] == 10
        assert psutil.Process().children(recursive=True)
        return ways_in()

    before = ways_in()
    assert with_workers() - before == set()
