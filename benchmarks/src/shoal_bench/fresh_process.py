"""Takes samples in a process of their own, for what a process shows only once: its start, the growth of its memory.

`@in_fresh_process` makes a sampler of this kind. The new process runs this module as a script, which finds the sampler
by its name, calls it, and prints what it gave.
"""

from __future__ import annotations

import atexit
import importlib
import inspect
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import cache, wraps

from shoal_bench.measurement import Sampler

__all__ = ["SampleFailed", "clean_environment", "first_result", "in_fresh_process", "run_python"]

#: The name to run this module by; as a script it is called `__main__`.
MODULE = "shoal_bench.fresh_process"


class SampleFailed(Exception):
    """A process that was to take a sample failed.

    Attributes:
        command: what was run.
        code: what it ended with; of a signal, its negative number.
        output: what it wrote to standard error.
    """

    def __init__(self, command: list[str], code: int, output: str) -> None:
        super().__init__(command, code, output)
        self.command = command
        self.code = code
        self.output = output

    def __str__(self) -> str:
        return f"{' '.join(self.command)}: {how_it_ended(self.code, self.output)}\n{self.output}"


def how_it_ended(code: int, output: str) -> str:
    """A line about a process that has failed: `its process was killed by SIGKILL: its last words`.

    Args:
        code: what it ended with; of a signal, its negative number.
        output: what it wrote to standard error, or the end of it.
    """
    try:
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
    except ValueError:  # a signal without a name
        how = f"was killed by signal {-code}"
    words = next((line.strip() for line in reversed(output.splitlines()) if line.strip()), "")
    return f"its process {how}" + (f": {words[:200]}" if words else "")


def run_python(*arguments: str) -> str:
    """Runs this interpreter with arguments; gives what it printed.

    Raises:
        SampleFailed: it did not end with 0.
    """
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, env=clean_environment(os.environ), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SampleFailed(command, done.returncode, done.stderr)
    return done.stdout


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in which interpreters, and those that they start, load modules like those of an installed package.

    They are compiled once. Else they would be each time where PYTHONDONTWRITEBYTECODE is set, as in many containers, and
    importing takes twice as long. And a file of the current folder, such as `random.py`, hides no module of that name.
    """
    changed = {**environment, "PYTHONPYCACHEPREFIX": _bytecode(), "PYTHONSAFEPATH": "1"}
    changed.pop("PYTHONDONTWRITEBYTECODE", None)
    return changed


@cache
def _bytecode() -> str:
    """A directory for bytecode, of this process's own: nothing is written beside the sources."""
    directory = tempfile.mkdtemp(prefix="shoal-bench-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


def in_fresh_process(sampler: Sampler) -> Sampler:
    """Makes a function of a module take each sample in a new interpreter."""
    name = f"{sampler.__module__}:{sampler.__qualname__}"

    @wraps(sampler)
    def sample(size: int) -> float:
        return float(run_python("-m", MODULE, name, str(size)))

    return sample


def first_result(code: str) -> Sampler:
    """Samples the seconds from the start of an interpreter to what this code prints: the clock, at the first result.

    The clock counts from the start of the machine, so it is the same in both processes.
    """

    def sample(count: int) -> float:
        taken = 0.0
        for _ in range(count):
            started = time.perf_counter()
            taken += float(run_python("-c", code)) - started
        return taken / count

    return sample


def main(name: str, size: str) -> None:
    """Prints one sample of the sampler `module:function`, taken in this process."""
    module, _, function = name.partition(":")
    sampler = inspect.unwrap(getattr(importlib.import_module(module), function))
    print(sampler(int(size)))


if __name__ == "__main__":
    main(*sys.argv[1:])
