"""Errors of the Ray runner, in the tree of `manyhands.exceptions`.

May import `manyhands.exceptions` only.

    ManyhandsError
    └── ClusterError              there is no Ray to work with
        ├── ClusterUnreachable    no cluster answers at an address           (ConnectionError)
        ├── ClusterFailed         Ray could not be started on this machine, or would not be joined
        └── EnvironmentMismatch   driver and cluster are too different to work together
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from manyhands.exceptions import ManyhandsError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "ClusterError",
    "ClusterFailed",
    "ClusterUnreachable",
    "EnvironmentMismatch",
]


class ClusterError(ManyhandsError):
    """Base of what goes wrong before there is a Ray to run anything on."""


class ClusterUnreachable(ClusterError, ConnectionError):
    """No Ray cluster could be talked to.

    Attributes:
        address: where it was looked for.
        problem: what was in the way.
    """

    address: str
    problem: str

    def _text(self) -> str:
        return f"There is no Ray cluster to talk to at {self.address}: {self.problem}"


class ClusterFailed(ClusterError):
    """Ray could not be started on this machine, or a cluster that answers could not be joined.

    Attributes:
        address: of the cluster, `"local"` for an instance of this machine.
        problem: what happened; its exception is chained.
    """

    address: str
    problem: str

    def _text(self) -> str:
        what = "started" if self.address == "local" else f"joined at {self.address}"
        return f"Ray could not be {what}: {self.problem}"


class EnvironmentMismatch(ClusterError):
    """The driver and the cluster have installed what does not work together.

    Attributes:
        rows: by package, what each place has: `{"python": {"driver": "3.11.9", "cluster": "3.12.4"}}`.
        table: the same as an aligned text.
        problem: which of the differences is too large.
    """

    rows: Mapping[str, Mapping[str, str]]
    table: str
    problem: str

    def _text(self) -> str:
        return (
            f"The environments of this Ray cluster do not fit together: {self.problem}.\n{self.table}\n"
            "Install the same versions everywhere."
        )
