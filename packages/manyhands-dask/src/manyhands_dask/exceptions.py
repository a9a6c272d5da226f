"""Errors of the Dask runner, in the tree of `manyhands.exceptions`.

May import `manyhands.exceptions` only.

    ManyhandsError
    ├── ClusterError              there is no cluster to work with
    │   ├── ClusterUnreachable    no scheduler answers at an address         (ConnectionError)
    │   └── ClusterFailed         a cluster class could not be used
    │   └── EnvironmentMismatch   driver, scheduler and workers are too different to work together
    └── MissingContextError       (of manyhands)
        └── MissingDaskClient     get_dask_client() where nothing runs on Dask
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from manyhands.exceptions import ManyhandsError, MissingContextError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "ClusterError",
    "ClusterFailed",
    "ClusterUnreachable",
    "EnvironmentMismatch",
    "MissingDaskClient",
]


class ClusterError(ManyhandsError):
    """Base of what goes wrong before there is a cluster to run anything on."""


class ClusterUnreachable(ClusterError, ConnectionError):
    """No scheduler could be talked to.

    Attributes:
        address: where it was looked for: an address, or the path of a scheduler file.
        problem: what was in the way.
    """

    address: str
    problem: str

    def _text(self) -> str:
        return f"There is no Dask scheduler to talk to at {self.address}: {self.problem}"


class ClusterFailed(ClusterError):
    """A cluster could not be started.

    Attributes:
        cluster_class: the name of its class.
        problem: what happened; its exception is chained.
    """

    cluster_class: str
    problem: str

    def _text(self) -> str:
        return f"A Dask cluster of {self.cluster_class} could not be started: {self.problem}"


class EnvironmentMismatch(ClusterError):
    """The driver, the scheduler and the workers have installed what does not work together.

    Attributes:
        rows: by package, what each place has: `{"python": {"driver": "3.11.9", "workers": "3.12.4"}}`.
        table: the same as an aligned text.
        problem: which of the differences is too large.
    """

    rows: Mapping[str, Mapping[str, str]]
    table: str
    problem: str

    def _text(self) -> str:
        return (
            f"The environments of this Dask cluster do not fit together: {self.problem}.\n{self.table}\n"
            "Install the same versions everywhere, or give check_environment=False to try it nonetheless."
        )


class MissingDaskClient(MissingContextError):
    """A Dask client was asked for where there is no cluster that it could belong to."""

    def _text(self) -> str:
        return (
            "get_dask_client() works only inside a flow run on a DaskTaskRunner, or a task run that it sent to "
            "a Dask worker."
        )
