"""One Ray for the session: starting an instance takes 4 to 7 s."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from manyhands_ray import RayTaskRunner


@pytest.fixture(scope="session")
def local_ray() -> Iterator[RayTaskRunner]:
    """A runner that is entered for the whole session, so that its instance of two CPUs is there for all others."""
    from manyhands_ray import RayTaskRunner

    with RayTaskRunner(init_kwargs={"num_cpus": 2}) as runner:
        yield runner
