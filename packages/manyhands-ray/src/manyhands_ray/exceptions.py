"""Errors of the Ray runner: those of every cluster, from `manyhands.exceptions`.

May import `manyhands.exceptions` only.
"""

from __future__ import annotations

from manyhands.exceptions import (
    ClusterError,
    ClusterFailed,
    ClusterUnreachable,
    EnvironmentMismatch,
)

__all__ = [
    "ClusterError",
    "ClusterFailed",
    "ClusterUnreachable",
    "EnvironmentMismatch",
]
