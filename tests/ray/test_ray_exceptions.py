"""The errors of the Ray runner: facts as attributes, messages that name them, pickling (SPEC 1.6)."""

from __future__ import annotations

import inspect
import pickle

import pytest
from manyhands.exceptions import ManyhandsError
from manyhands_ray import exceptions
from manyhands_ray.exceptions import (
    ClusterError,
    ClusterFailed,
    ClusterUnreachable,
    EnvironmentMismatch,
)

#: One of each, and what must be in its message.
EXAMPLES: list[tuple[ManyhandsError, list[str]]] = [
    (ClusterUnreachable(address="ray://h:1", problem="no answer"), ["ray://h:1", "no answer"]),
    (ClusterFailed(address="local", problem="no room"), ["started", "no room"]),
    (
        EnvironmentMismatch(
            rows={"python": {"driver": "3.11.7", "cluster": "3.12.4"}},
            table="<the table>",
            problem="python is 3.12.4 on the cluster",
        ),
        ["<the table>", "3.12.4 on the cluster", "Install the same versions"],
    ),
]

each = pytest.mark.parametrize(
    ("error", "parts"), [pytest.param(*row, id=type(row[0]).__name__) for row in EXAMPLES]
)


def test_every_error_has_an_example_here() -> None:
    public = {getattr(exceptions, name) for name in exceptions.__all__}
    assert {type(error) for error, _ in EXAMPLES} == public - {ClusterError}
    assert exceptions.__doc__ is not None
    assert all(f" {name} " in exceptions.__doc__ for name in exceptions.__all__)


@each
def test_it_tells_its_facts_and_survives_pickling(error: ManyhandsError, parts: list[str]) -> None:
    for part in parts:
        assert part in str(error)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)
    documented = inspect.cleandoc(type(error).__doc__ or "")
    assert all(f"{fact}: " in documented for fact in vars(error))


def test_it_names_the_cluster_that_would_not_be_joined() -> None:
    assert "joined at h:6379" in str(ClusterFailed(address="h:6379", problem="no"))


def test_is_also_the_error_that_people_expect() -> None:
    assert issubclass(ClusterUnreachable, ConnectionError)
    assert issubclass(EnvironmentMismatch, ClusterError)
