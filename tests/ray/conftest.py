"""One Ray at a time: a process cannot have two, and starting an instance takes 4 to 7 s."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from shoal_ray import RayTaskRunner


HERE = Path(__file__).parent


class Keeper:
    """Keeps a runner entered from test to test, so that its Ray is there for all of them.

    Attributes:
        runner: the one that is entered, if any is.
    """

    def __init__(self) -> None:
        self.runner: RayTaskRunner | None = None

    def let_go(self) -> None:
        """Leaves the runner, and with it Ray."""
        runner, self.runner = self.runner, None
        if runner is not None:
            runner.__exit__(None, None, None)

    def keep(self, runner: RayTaskRunner) -> RayTaskRunner:
        """Enters a runner, unless one like it is: then that one is kept.

        Returns:
            The one that is entered.
        """
        if self.runner != runner:
            self.let_go()
            self.runner = runner.__enter__()
        return self.runner


KEEPER = Keeper()


@pytest.fixture(scope="session")
def keeper() -> Iterator[Keeper]:
    """Whose Ray this process has at the moment."""
    yield KEEPER
    KEEPER.let_go()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test here may start a Ray, or several, beside other tests: hung is what takes minutes."""
    for item in items:
        if item.path.parent == HERE and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(240))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, None, None]:
    """After the last test of this folder, Ray ends: it opens connections whenever it likes, and others look for leaks."""
    yield
    if nextitem is None or nextitem.path.parent != HERE:
        KEEPER.let_go()


@pytest.fixture
def local_ray(keeper: Keeper) -> RayTaskRunner:
    """A runner that is entered, so that its instance of two CPUs is there for all others."""
    from shoal_ray import RayTaskRunner

    return keeper.keep(RayTaskRunner(init_kwargs={"num_cpus": 2}))
