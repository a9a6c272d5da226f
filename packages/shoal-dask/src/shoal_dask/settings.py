"""What a `DaskTaskRunner` was told about its cluster, and whether that makes sense.

Nothing is looked up and nothing is started here, and `distributed` is not imported. May import Shoal's errors and `cluster_runner`.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Any

from shoal.exceptions import InvalidOption
from shoal.task_runners.remote.cluster_runner import is_kwargs

__all__ = ["ClusterSettings", "comparable", "invalid", "is_asynchronous", "is_client"]


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """Which cluster: one that is given, one that runs somewhere, or else a new one.

    Attributes:
        cluster: a cluster object, used as it is.
        address: a scheduler's address, the path of a scheduler file, or a `distributed.Client`, used as it is.
        cluster_class: a class, a function or the dotted name of one, that makes a cluster; `None` for a local one.
        cluster_kwargs: what it is called with.
        adapt_kwargs: what the new cluster's `adapt` is called with, if anything.
        client_kwargs: more arguments of the `distributed.Client`.
    """

    cluster: Any = None
    address: Any = None
    cluster_class: Any = None
    cluster_kwargs: dict[str, Any] | None = None
    adapt_kwargs: dict[str, Any] | None = None
    client_kwargs: dict[str, Any] | None = None

    def check(self) -> None:
        """Refuses what is contradictory or impossible.

        Raises:
            InvalidOption: it is.
        """
        self._check_types()
        self._check_contradictions()
        for option in ("cluster_kwargs", "client_kwargs"):
            if (getattr(self, option) or {}).get("asynchronous"):
                raise invalid(
                    option,
                    getattr(self, option),
                    "a synchronous one is needed: no asynchronous=True",
                )

    def _check_types(self) -> None:
        for option in ("cluster_kwargs", "adapt_kwargs", "client_kwargs"):
            value = getattr(self, option)
            if value is not None and not is_kwargs(value):
                raise invalid(option, value, "a dictionary of keyword arguments is needed")
        if self.address is not None and not _is_address(self.address):
            raise invalid(
                "address",
                self.address,
                "an address, the path of a scheduler file or a distributed.Client is needed",
            )
        if self.cluster_class is not None and not (
            callable(self.cluster_class)
            or (isinstance(self.cluster_class, str) and _is_dotted(self.cluster_class))
        ):
            raise invalid(
                "cluster_class",
                self.cluster_class,
                "a class, a function or the dotted name of one is needed",
            )
        if self.cluster is not None and not hasattr(self.cluster, "scheduler_address"):
            raise invalid("cluster", self.cluster, "it is no Dask cluster")
        for option in ("cluster", "address"):
            if is_asynchronous(getattr(self, option)):
                raise invalid(
                    option, getattr(self, option), "a synchronous one is needed: it is asynchronous"
                )

    def _check_contradictions(self) -> None:
        """One thing says where the cluster is, and what is given is not configured."""
        client_kwargs = self.client_kwargs or {}
        sources = {
            "cluster": self.cluster,
            "address": self.address,
            "cluster_class": self.cluster_class,
            "client_kwargs['scheduler_file']": client_kwargs.get("scheduler_file"),
        }
        given = [name for name, value in sources.items() if value is not None]
        if len(given) > 1:
            raise invalid(
                given[1], sources[given[1]], f"{given[0]} says already which cluster it is"
            )
        if given and given[0] != "cluster_class":
            for option in ("cluster_kwargs", "adapt_kwargs"):
                if getattr(self, option):
                    raise invalid(
                        option,
                        getattr(self, option),
                        f"it is for a new cluster, and {given[0]} is one that exists",
                    )
        if self.client_kwargs and is_client(self.address):
            raise invalid("client_kwargs", self.client_kwargs, "the client exists already")
        if "address" in client_kwargs:
            raise invalid("client_kwargs", client_kwargs, "give the address as `address`")

    @property
    def client(self) -> Any:
        """The client that was given, if any."""
        return self.address if is_client(self.address) else None

    @property
    def scheduler_file(self) -> str | None:
        """The path of a scheduler file, if that is what says where the scheduler is."""
        path = (self.client_kwargs or {}).get("scheduler_file")
        if path is None and (
            isinstance(self.address, os.PathLike) or str(self.address).endswith(".json")
        ):
            path = self.address
        return None if path is None else os.fspath(path)

    @property
    def is_new(self) -> bool:
        """Whether it is a cluster that has yet to be started."""
        return self.cluster is None and self.address is None and self.scheduler_file is None


def invalid(option: str, value: object, problem: str) -> InvalidOption:
    """The error of a bad option of the runner."""
    return InvalidOption(where="DaskTaskRunner", option=option, value=value, problem=problem)


def is_asynchronous(value: object) -> bool:
    """Whether something is a client or cluster to be used with `await`."""
    names = ("_asynchronous", "_Cluster__asynchronous")
    return any(getattr(value, name, False) for name in names)


def is_client(value: object) -> bool:
    """Whether something is a `distributed.Client`. Where nobody imported `distributed`, there is none."""
    # Another thread may be just importing it, and has not come to the class yet.
    client = getattr(sys.modules.get("distributed.client"), "Client", None)
    return client is not None and isinstance(value, client)


def _is_address(value: object) -> bool:
    if isinstance(value, str):
        return value != ""
    return isinstance(value, os.PathLike) or is_client(value)


def _is_dotted(name: str) -> bool:
    parts = name.replace(":", ".").split(".")
    return len(parts) > 1 and all(part.isidentifier() for part in parts)


def comparable(value: Any) -> Any:
    """A value that is equal where it means the same: Dask's `Security` objects compare by identity."""
    if isinstance(value, dict):
        return {name: comparable(part) for name, part in value.items()}
    if type(value).__name__ == "Security" and type(value).__module__.startswith("distributed"):
        return ("Security", sorted((name, repr(part)) for name, part in _fields(value)))
    return value


def _fields(security: Any) -> list[tuple[str, Any]]:
    return [(name, getattr(security, name, None)) for name in type(security).__slots__]
