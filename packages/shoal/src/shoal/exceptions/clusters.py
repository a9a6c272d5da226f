"""There is no cluster to run anything on.

May import `base`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoal.exceptions.base import ShoalError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "ClusterError",
    "ClusterFailed",
    "ClusterUnreachable",
    "EnvironmentMismatch",
]


class ClusterError(ShoalError):
    """Base of what goes wrong before there is a cluster to run anything on."""


class ClusterUnreachable(ClusterError, ConnectionError):
    """No cluster could be talked to.

    Attributes:
        cluster: of which kind, say "Dask".
        address: where it was looked for: an address, or the path of a file that names one.
        problem: what was in the way.
    """

    cluster: str
    address: str
    problem: str

    def _text(self) -> str:
        return f"There is no {self.cluster} cluster to talk to at {self.address}: {self.problem}"


class ClusterFailed(ClusterError):
    """A cluster could not be started, one that answers could not be joined, or it has no workers.

    Attributes:
        cluster: of which kind, say "Dask".
        problem: what happened; its exception is chained.
        cluster_class: the name of what was to make it, where that is chosen.
        address: of the one that could not be joined, or has failed; `None` if it was started here.
        was_started: whether it was there, and has failed later.
    """

    cluster: str
    problem: str
    cluster_class: str | None = None
    address: str | None = None
    was_started: bool = False

    def _text(self) -> str:
        whose = "" if self.cluster_class is None else f" of {self.cluster_class}"
        if self.was_started:
            where = "" if self.address is None else f" at {self.address}"
            return f"The {self.cluster} cluster{whose}{where} has failed: {self.problem}"
        what = "started" if self.address is None else f"joined at {self.address}"
        return f"A {self.cluster} cluster{whose} could not be {what}: {self.problem}"


class EnvironmentMismatch(ClusterError):
    """The driver and the cluster have installed what does not work together.

    Attributes:
        cluster: of which kind, say "Dask".
        rows: by package, what each place has: `{"python": {"driver": "3.11.9", "workers": "3.12.4"}}`.
        table: the same as an aligned text.
        problem: which of the differences is too large.
        can_be_tried: whether it is for `check_environment` to say that it shall not work.
    """

    cluster: str
    rows: Mapping[str, Mapping[str, str]]
    table: str
    problem: str
    can_be_tried: bool = True

    def _text(self) -> str:
        way = ", or give check_environment=False to try it" if self.can_be_tried else ""
        return (
            f"The environments of this {self.cluster} cluster do not fit together: {self.problem}.\n"
            f"{self.table}\nInstall the same versions everywhere{way}."
        )
