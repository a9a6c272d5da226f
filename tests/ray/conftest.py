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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with one CPU come after the others of their class: the second is occupied once, and not for each."""
    by_class: dict[object, list[pytest.Item]] = {}
    for item in items:
        if "tests/ray/" in item.nodeid:
            by_class.setdefault(item.parent, []).append(item)
    queues = {parent: iter(sorted(own, key=_needs_one)) for parent, own in by_class.items()}
    items[:] = [next(queues[item.parent]) if item.parent in queues else item for item in items]


def _needs_one(item: pytest.Item) -> bool:
    return "single_runner" in getattr(item, "fixturenames", ())
