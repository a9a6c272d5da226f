"""What a `RayTaskRunner` was told about its cluster, and whether that makes sense.

Nothing is looked up and nothing is started here, and `ray` is not imported. May import Shoal's errors; `cluster_runner` on use.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

from shoal.exceptions import InvalidOption

__all__ = ["CLIENT", "ClusterSettings", "invalid", "is_address", "uses_tls"]

#: What addresses of Ray Client begin with.
CLIENT = "ray://"

#: A host or an IPv6 address in brackets, and a port.
_HOST_AND_PORT = re.compile(r"(\[[0-9a-fA-F:.%]+\]|[^\s:/@?#]+):(\d{1,5})")

#: What Ray takes only where it starts an instance, by the words of `ray.init`.
_OF_A_NEW_ONE = (
    "num_cpus",
    "num_gpus",
    "resources",
    "labels",
    "object_store_memory",
    "include_dashboard",
    "dashboard_host",
    "dashboard_port",
    "_system_config",
    "_enable_object_reconstruction",
    "_node_name",
)

#: What `ray.init` takes and a runner does not, and why.
_NOT_HERE = {
    "address": "give the address as `address`",
    "local_mode": "use SequentialTaskRunner to run everything in this process",
    "ignore_reinit_error": "a Ray that is initialised already is used as it is",
    "allow_multiple": "a process has one connection through Ray Client",
}


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """Which Ray: one that runs somewhere, or else one of this machine.

    Attributes:
        address: `"host:port"`, `"ray://host:port"`, `"auto"` for the cluster of this machine that runs already,
            `"local"` for a new instance; `None` for what the variable `RAY_ADDRESS` says, or else a new instance.
        init_kwargs: more arguments of `ray.init`.
    """

    address: str | None = None
    init_kwargs: dict[str, Any] | None = None

    def check(self) -> None:
        """Refuses what is contradictory or impossible.

        Raises:
            InvalidOption: it is.
        """
        from shoal.task_runners.remote.cluster_runner import is_kwargs  # workers have no use for it

        if self.address is not None and not is_address(self.address):
            raise invalid("address", self.address, _address_problem(self.address))
        if self.init_kwargs is None:
            return
        if not is_kwargs(self.init_kwargs):
            raise invalid("init_kwargs", self.init_kwargs, "a dictionary of arguments is needed")
        for option, problem in _NOT_HERE.items():
            if option in self.init_kwargs:
                raise invalid(f"init_kwargs[{option!r}]", self.init_kwargs[option], problem)
        if self.address not in (None, "local"):
            self.check_joining(f"address={self.address!r}")

    def check_joining(self, source: str) -> None:
        """Refuses what configures a new instance where there is a cluster to join.

        Args:
            source: what says that there is one.

        Raises:
            InvalidOption: it was given.
        """
        for option in _OF_A_NEW_ONE:
            if (self.init_kwargs or {}).get(option) is not None:
                raise invalid(
                    f"init_kwargs[{option!r}]",
                    (self.init_kwargs or {})[option],
                    f"it is for a new instance, and {source} is a cluster that exists",
                )


def invalid(option: str, value: object, problem: str) -> InvalidOption:
    """The error of a bad option of the runner."""
    return InvalidOption(where="RayTaskRunner", option=option, value=value, problem=problem)


def is_address(value: object) -> bool:
    """Whether something says where a cluster is."""
    if not isinstance(value, str):
        return False
    if value in ("auto", "local"):
        return True
    found = _HOST_AND_PORT.fullmatch(value.removeprefix(CLIENT))
    return found is not None and 0 < int(found[2]) < 1 << 16


def _address_problem(value: object) -> str:
    if isinstance(value, str) and value.startswith(("http://", "https://")):
        return "it is of a dashboard; the address of the cluster (host:6379, ray://host:10001) is needed"
    return "'host:port', 'ray://host:port', 'auto' or 'local' is needed"


def uses_tls() -> bool:
    """Whether Ray encrypts its connections."""
    return os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true")
