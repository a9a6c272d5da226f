"""`RayTaskRunner`: the user's face of Ray.

May import `settings` and `connection`; `backend`, and with it Ray, on use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.futures import TaskFuture
from shoal.task_runners.remote.cluster_runner import ClusterTaskRunner, copied
from shoal.task_runners.remote.late_start import LateStart

from shoal_ray.connection import Connection
from shoal_ray.settings import ClusterSettings, invalid, is_address

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from shoal.scheduling.backend import Backend
    from shoal.scheduling.dispatcher import AnyDispatcher

__all__ = ["RayTaskRunner"]

#: As Prefect calls the futures of this runner; here there is one kind.
PrefectRayFuture = TaskFuture


class RayTaskRunner(ClusterTaskRunner):
    """Runs tasks on Ray: on an instance of this machine, or on a cluster that runs elsewhere.

    Short runs travel in batches, large values stay in Ray's object store. Which Ray it is, in this order: one that is
    initialised in this process already, which is used as it is; `address`; what the variable `RAY_ADDRESS` says; a
    new instance of this machine. What was not started here is never stopped. Runners share an instance for as long as
    one of them is entered: enter a runner around several flows to keep it warm for them.

    Args:
        address: a running cluster: `"host:6379"` from one of its machines, `"ray://host:10001"` from anywhere,
            through Ray Client, or `"auto"` for the one that runs on this machine. `"local"` starts a new instance
            whatever `RAY_ADDRESS` says.
        init_kwargs: more arguments of `ray.init`, such as `num_cpus`, `num_gpus`, `resources`, `runtime_env`,
            `object_store_memory` or `include_dashboard`.
        check_environment: compare the versions of Python and of packages here and on the workers, and refuse what
            cannot work. Those of Python and Ray itself are compared by Ray, in any case.
        ship_modules: which modules travel by value, because workers elsewhere cannot import them: `"auto"` for those
            that live beside the script and are not installed, or their names; an empty list for none.

    Raises:
        InvalidOption: an option has a wrong value, or contradicts another.

    Examples:
        >>> @flow(task_runner=RayTaskRunner(init_kwargs={"num_cpus": 4}))
        ... def main(): ...

        >>> with RayTaskRunner() as runner:
        ...     main.with_options(task_runner=runner)()
        ...     main.with_options(task_runner=runner)()  # on the same instance
    """

    name = "ray"

    def __init__(
        self,
        address: str | None = None,
        init_kwargs: Mapping[str, Any] | None = None,
        *,
        check_environment: bool = True,
        ship_modules: str | Sequence[str] = "auto",
    ) -> None:
        which = ClusterSettings(address, copied(init_kwargs))
        which.check()
        super().__init__(
            Connection(which), check_environment=check_environment, ship_modules=ship_modules
        )
        self._cluster_settings = which
        self._is_late = False
        self._late_start: LateStart | None = None

    def settings(self) -> dict[str, Any]:
        """See `BaseTaskRunner`."""
        return {
            "address": self._cluster_settings.address,
            "init_kwargs": self._cluster_settings.init_kwargs,
            **super().settings(),
        }

    @property
    def address(self) -> str | None:
        """Which cluster, as it was given."""
        return self._cluster_settings.address

    @property
    def init_kwargs(self) -> dict[str, Any]:
        """The further arguments of `ray.init`, a copy; empty if none were given."""
        return dict(self._cluster_settings.init_kwargs or {})

    @classmethod
    def from_argument(cls, argument: str) -> RayTaskRunner:
        """See `BaseTaskRunner`: `"ray:4"` for a new instance with that many CPUs, or where a cluster is.

        Raises:
            InvalidOption: it is neither.
        """
        if argument.isdecimal():
            if int(argument) < 1:
                raise invalid("num_cpus", argument, "a whole number from 1 up is needed")
            return cls("local", {"num_cpus": int(argument)})
        if is_address(argument):
            return cls(argument)
        raise invalid(
            "argument",
            argument,
            "a number of CPUs or a cluster's address ('host:port', 'ray://host:port', 'auto') is needed",
        )

    def start_late(self) -> None:
        """See `BaseTaskRunner`: Ray takes seconds to start."""
        self._is_late = True

    def _start(self, dispatcher: AnyDispatcher) -> None:
        if self._is_late:
            self._late_start = LateStart(dispatcher, super()._start)
        else:
            super()._start(dispatcher)

    def _stop(self, dispatcher: AnyDispatcher) -> None:
        late, self._late_start = self._late_start, None
        if late is None or late.has_started():
            super()._stop(dispatcher)

    def make_backend(self) -> tuple[Backend, int | None]:
        """See `BaseTaskRunner`."""
        self._connection.prepare()  # before the next line, which imports Ray
        from shoal_ray.backend import RayBackend

        backend = RayBackend(
            self._connection,
            check_environment=self.check_environment,
            ship_modules=self.ship_modules,
        )
        return backend, None
