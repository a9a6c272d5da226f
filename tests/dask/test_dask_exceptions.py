"""The errors of the Dask runner: facts as attributes, messages that name them, pickling (SPEC 1.6)."""

from __future__ import annotations

import inspect
import pickle

import pytest
from manyhands.exceptions import ManyhandsError, MissingContextError
from manyhands_dask import exceptions
from manyhands_dask.exceptions import (
    ClusterError,
    ClusterFailed,
    ClusterUnreachable,
    EnvironmentMismatch,
    MissingDaskClient,
)

#: One of each, and what must be in its message.
EXAMPLES: list[tuple[ManyhandsError, list[str]]] = [
    (ClusterUnreachable(address="tcp://h:1", problem="no answer"), ["tcp://h:1", "no answer"]),
    (ClusterFailed(cluster_class="a.B", problem="no quota"), ["a.B", "no quota"]),
    (
        EnvironmentMismatch(
            rows={"python": {"driver": "3.11.7", "scheduler": "3.12.4"}},
            table="<the table>",
            problem="python is 3.12.4 on the scheduler",
        ),
        ["<the table>", "3.12.4 on the scheduler", "check_environment=False"],
    ),
    (MissingDaskClient(), ["get_dask_client()", "DaskTaskRunner"]),
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


def test_is_also_the_error_that_people_expect() -> None:
    assert issubclass(ClusterUnreachable, ConnectionError)
    assert issubclass(MissingDaskClient, MissingContextError)
    assert issubclass(EnvironmentMismatch, ClusterError)
