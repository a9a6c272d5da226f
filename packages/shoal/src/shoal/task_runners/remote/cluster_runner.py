"""What the runners of all clusters have in common: their options, some of which are keyword arguments of something else,
and that duplicates share a connection.

May import `modules` and the base of all runners.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from shoal.exceptions import InvalidOption
from shoal.task_runners.base import BaseTaskRunner
from shoal.task_runners.remote.modules import checked_modules

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ClusterTaskRunner", "copied", "is_kwargs"]


class ClusterTaskRunner(BaseTaskRunner):
    """A runner of tasks on a cluster.

    Args:
        connection: to the cluster, shared by the runner and its duplicates: it counts who uses it.
        check_environment: whether versions are compared.
        ship_modules: which modules travel by value: `"auto"` or names.

    Raises:
        InvalidOption: an option has a wrong value.
    """

    _plain: ClassVar[Mapping[str, Any]] = {"check_environment": True, "ship_modules": "auto"}

    def __init__(
        self, connection: Any, *, check_environment: bool, ship_modules: str | Sequence[str]
    ) -> None:
        super().__init__()
        where = type(self).__name__
        if not isinstance(check_environment, bool):
            raise InvalidOption(
                where=where,
                option="check_environment",
                value=check_environment,
                problem="True or False is needed",
            )
        self.check_environment = check_environment
        self.ship_modules = checked_modules(ship_modules, where)
        self._connection = connection

    def settings(self) -> dict[str, Any]:
        """See `BaseTaskRunner`."""
        return {"check_environment": self.check_environment, "ship_modules": self.ship_modules}

    def connection(self) -> dict[str, str]:
        """See `BaseTaskRunner`: the cluster and the dashboard."""
        shown: dict[str, str] = self._connection.shown()
        return shown

    def __repr__(self) -> str:
        return self._with_connection(
            [
                (name, value)
                for name, value in self.settings().items()
                if value is not None and self._plain.get(name) != value
            ]
        )

    def duplicate(self) -> Self:
        """A runner with the same settings, not entered; it shares the cluster while both are in use."""
        twin = super().duplicate()
        twin._connection = self._connection
        return twin


def copied(given: Any) -> Any:
    """A dictionary of the user's that will not change behind our back; anything else is for a check to refuse."""
    return dict(given) if isinstance(given, Mapping) else given


def is_kwargs(value: object) -> bool:
    """Whether something can be given as keyword arguments."""
    return isinstance(value, Mapping) and all(isinstance(name, str) for name in value)
