"""A simulation in a process of its own: the memory that it takes is nobody else's.

The new process runs this module as a script, is given what to simulate, and prints what came out.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

from shoal_bench.fresh_process import run_python
from shoal_bench.simulation.costs import measure_costs
from shoal_bench.simulation.model import BadSimulation, Cluster, Work
from shoal_bench.simulation.run import Simulated, simulate

__all__ = ["simulate_apart"]


def simulate_apart(work: Work, cluster: Cluster, job: float = 0.0) -> Simulated:
    """Simulates in a new interpreter, with the costs of messages as it measures them, and its peak of memory.

    Args:
        work: the tasks.
        cluster: the workers.
        job: seconds that the system's own client takes for a batch.

    Raises:
        BadSimulation: it comes to no end.
        SampleFailed: that process failed; the error has what it wrote.
    """
    described = json.dumps({"work": asdict(work), "cluster": asdict(cluster), "job": job})
    found = json.loads(run_python("-m", __name__, described))
    if "refused" in found:
        raise BadSimulation(*found["refused"])
    return Simulated(**found)


def peak_memory() -> int:
    """Bytes of memory that this process has had at most."""
    if sys.platform == "linux":
        # `getrusage` would tell of the parent's too, from before the interpreter was started.
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    from resource import RUSAGE_SELF, getrusage

    return getrusage(RUSAGE_SELF).ru_maxrss  # in bytes on macOS


def main(described: str) -> None:
    """Prints what comes out of one simulation, or why nothing does."""
    given = json.loads(described)
    costs = measure_costs(given["job"])
    try:
        result = simulate(Work(**given["work"]), Cluster(**given["cluster"]), costs)
    except BadSimulation as error:
        print(json.dumps({"refused": [error.option, error.value, error.problem]}))
        return
    print(json.dumps(asdict(replace(result, memory=peak_memory()))))


if __name__ == "__main__":
    main(*sys.argv[1:])
