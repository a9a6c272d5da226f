"""What the page on Ray speaks of and a test does not have: a cluster that runs.

`stand_ins` puts one in the place of the addresses that the pages name, and of what `RayTaskRunner()` would start.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.ray.clusters import Head


@contextmanager
def stand_ins(cluster: Head) -> Iterator[dict[str, str]]:
    """Has `RayTaskRunner()` and `"auto"` find a cluster.

    Args:
        cluster: with a GPU and a server of Ray Client.

    Yields:
        What to replace in the script, and by what.
    """
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_ADDRESS", cluster.address)
        environment.delenv(
            "RAY_AUTH_MODE", raising=False
        )  # of an instance that this process may have
        # Under `uv run` a plain `ray.init` would send the page's directory along, and set up an environment for it.
        environment.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        yield {"head:6379": cluster.address, "ray://head:10001": cluster.client}
