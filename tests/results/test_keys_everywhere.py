"""Keys are the same in other processes: with other hash seeds, of other Pythons, where values come as pickles."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
import pytest
import shoal
from hypothesis import HealthCheck, given, settings
from shoal.results.keys import digest

from tests.results.keys_elsewhere import FUNCTIONS, Colour, Plain, Point
from tests.results.test_keys import HASHABLE, LEAVES

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def pythons() -> list[str]:
    """The interpreters of supported versions that are found and start."""
    found = [sys.executable]
    for name in ("python3.11", "python3.12", "python3.13"):
        path = shutil.which(name)
        if (
            path is not None
            and subprocess.run([path, "-c", ""], check=False, capture_output=True).returncode == 0
        ):
            found.append(path)
    return found


class Elsewhere:
    """A process that makes keys."""

    def __init__(self, python: str, seed: str) -> None:
        sources = Path(shoal.__file__).parents[1]
        self.process = subprocess.Popen(
            [python, "-c", "from tests.results.keys_elsewhere import main; main()"],
            env={
                **os.environ,
                "PYTHONHASHSEED": seed,
                "PYTHONPATH": f"{ROOT}{os.pathsep}{sources}",
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def digest(self, value: Any) -> bytes:
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        data = pickle.dumps(value, 4)
        stdin.write(len(data).to_bytes(8, "big") + data)
        stdin.flush()
        return bytes.fromhex(stdout.readline().decode())

    def end(self) -> None:
        self.process.communicate()


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[list[Elsewhere]]:
    started: list[Elsewhere] = []
    try:
        for python in pythons():
            started.extend(Elsewhere(python, seed) for seed in ("0", "1", "random"))
        yield started
    finally:
        for each in started:
            each.end()


def test_functions_and_classes(elsewhere: list[Elsewhere]) -> None:
    here = digest(FUNCTIONS)
    assert [each.digest("functions") for each in elsewhere] == [here] * len(elsewhere)


SENT = st.recursive(
    LEAVES.filter(lambda value: getattr(type(value), "__module__", "") != "tests.results.test_keys")
    .filter(lambda value: not isinstance(value, type)) | st.sampled_from([*Colour, Point, len]),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(HASHABLE.filter(lambda key: b"test_keys" not in pickle.dumps(key)), inner, max_size=5)
        | st.sets(st.text() | st.integers() | st.floats(), max_size=8)
        | st.frozensets(st.text() | st.binary(), max_size=8)
        | st.builds(Point, inner, inner)
        | st.builds(Plain, inner)
        | st.builds(lambda x: [x, x], inner)
    ),
    max_leaves=20,
)  # fmt: skip


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(value=SENT)
def test_values(elsewhere: list[Elsewhere], value: Any) -> None:
    here = digest(value)
    assert [each.digest(value) for each in elsewhere] == [here] * len(elsewhere)


SCRIPT = """
import dataclasses, enum, logging, sys
from shoal import flow, task
from shoal.cache_policies import INPUTS, TASK_SOURCE

class Colour(enum.Enum):
    RED = 1

@dataclasses.dataclass
class Config:
    colour: Colour = Colour.RED
    inner: object = None

LIMIT = 3
def helper(x):
    return x + LIMIT if __name__ and __file__ else logging.getLogger(__name__)

@task(cache_policy=INPUTS + TASK_SOURCE)
def work(config, kind, function):
    return helper(1)

@flow
def main():
    arguments = Config(inner=Config()), Config, helper
    called = work(*arguments, return_state=True)
    submitted = work.submit(*arguments)
    submitted.wait()
    print(called.name, submitted.state.name)

if __name__ == "__main__":
    main.with_options(task_runner=sys.argv[1])()
"""


def test_what_a_script_defines_is_called_the_same_everywhere(tmp_path: Path) -> None:
    """In a script's own process, on its workers, as a module that the command loads."""
    script = tmp_path / "etl.py"
    script.write_text(SCRIPT)

    def said(*command: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, *command], check=True, capture_output=True, text=True, cwd=tmp_path
        )
        return done.stdout.split()

    assert said("etl.py", "processes:1") == ["Completed", "Cached"]
    assert said("etl.py", "threads") == ["Cached", "Cached"]
    assert said("-m", "etl", "processes:1") == ["Cached", "Cached"]
    assert said("-m", "shoal", "run", "etl.py:main", "--runner", "processes:1") == [
        "Cached",
        "Cached",
    ]
    script.write_text(script.read_text().replace("LIMIT = 3", "LIMIT = 4"))
    assert said("etl.py", "processes:1") == ["Completed", "Cached"]
