"""What the figures were measured on, without which they say little. Imports nothing of ours."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

__all__ = ["Machine"]

#: Whose versions bear on the figures, where they are installed.
LIBRARIES = (
    *("shoal", "anyio", "cloudpickle", "pydantic"),
    *("joblib", "loky", "numpy", "distributed", "ray"),
)


@dataclass(frozen=True)
class Machine:
    """Where and when figures were measured.

    Attributes:
        date: ISO 8601, UTC.
        cpus: how many the system has.
        usable_cpus: how many this process may use.
        load: how many processes wanted a CPU in the last minute; `None` where the system does not say.
        system: operating system and architecture.
        python: implementation and version.
        libraries: versions by name.
    """

    date: str
    cpus: int
    usable_cpus: int
    load: float | None
    system: str
    python: str
    libraries: dict[str, str]

    @classmethod
    def here(cls) -> Machine:
        """This machine, now."""
        cpus = os.cpu_count() or 1
        return cls(
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            cpus=cpus,
            usable_cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cpus,
            load=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
            system=f"{platform.system()} {platform.machine()}",
            python=f"{platform.python_implementation()} {platform.python_version()}",
            libraries={name: found for name in LIBRARIES if (found := _version(name)) is not None},
        )

    def doubts(self, workers: int = 0) -> list[str]:
        """Why what is about to be measured here will not say much, a line each.

        Args:
            workers: how many are to share the processors; 0 if they are elsewhere, or there are none.
        """
        found = []
        if workers > self.usable_cpus:
            found.append(
                f"Warning: {workers:,} workers share {self.usable_cpus} processors, so they wait for each other."
            )
        if self.load is not None and self.load > self.usable_cpus:
            found.append(
                f"Warning: this machine is busy (a load of {self.load:g} on {self.usable_cpus} processors), so figures "
                "will be noisy."
            )
        return found

    def __str__(self) -> str:
        load = "" if self.load is None else f", load {self.load}"
        libraries = ", ".join(f"{name} {version}" for name, version in self.libraries.items())
        return (
            f"{self.date}, {self.usable_cpus} of {self.cpus} CPUs{load}, {self.system}, {self.python}; "
            f"{libraries}"
        )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
