"""What `shoal doctor` looks at: the machine, as this process may use it, what is installed, and what is set. No judgement.

Read from Python, `/proc` and `/sys/fs/cgroup`; where a system does not have something, the fact is `None`.
"""

from __future__ import annotations

import os
import platform
import socket
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING

from shoal.exceptions import ShoalError
from shoal.limits.settings import without_password

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = [
    "DASHBOARDS",
    "PACKAGES",
    "SETTINGS",
    "Facts",
    "Package",
    "Place",
    "Setting",
    "version_of",
]

#: Ports on which dashboards listen if nobody says otherwise.
DASHBOARDS = {"dask": 8787, "ray": 8265}

#: Packages of ours, and the engines that they bring.
PACKAGES = {"shoal": (), "shoal-dask": ("dask", "distributed"), "shoal-ray": ("ray",)}

#: How many threads numerical libraries use in a process.
_THREADS = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS"),
    *("NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NUMBA_NUM_THREADS"),
)


@dataclass(frozen=True)
class Place:
    """A folder that something is written to.

    Attributes:
        path: where.
        size: bytes of its file system.
        free: bytes that may still be written.
        problem: why nothing can be written there, or `None`.
    """

    path: str
    size: int | None = None
    free: int | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Package:
    """An installed package.

    Attributes:
        name: on PyPI.
        version: which one is installed; `None` if none is.
        wanted: which versions our packages work with, say `>=2025.1`; empty if any.
        wanted_by: which of ours wants it; empty if none of these is installed.
    """

    name: str
    version: str | None
    wanted: str = ""
    wanted_by: str = ""


@dataclass(frozen=True)
class Setting:
    """An environment variable `SHOAL_...`.

    Attributes:
        name: of the variable.
        value: as it is set.
        known: whether anything reads it.
        problem: what is wrong with the value, or `None`.
    """

    name: str
    value: str
    known: bool = True
    problem: str | None = None


@dataclass(frozen=True)
class Facts:
    """What is so.

    Attributes:
        python: implementation and version.
        executable: the interpreter.
        system: operating system and architecture.
        cpus: processors of the machine.
        allowed_cpus: those that this process may run on.
        cores: how many of these the control groups grant the time of, rounded up.
        python_cpus: what Python tells programs (`os.process_cpu_count`, from 3.13 on).
        memory: bytes of the machine, or of the control group where that allows less.
        available_memory: bytes of these that can still be had.
        shared_memory: `/dev/shm`.
        open_files: how many this process may have open, and how many it may ask for.
        temporary: the folder of temporary files.
        home: the user's own folder, where Ray keeps its token.
        keeps_limits: whether limits are kept in the user's own folder, too.
        start_methods: of processes, the default of `multiprocessing` first.
        packages: ours and their engines, installed or not.
        runners: names of the runners that are installed.
        loopback: why nothing can listen on 127.0.0.1, or `None`.
        busy_ports: ports of dashboards that are taken, by engine.
        settings: variables `SHOAL_...`.
        threads: variables that say how many threads numerical libraries use.
    """

    python: str = ""
    executable: str = ""
    system: str = ""
    cpus: int = 1
    allowed_cpus: int = 1
    cores: int = 1
    python_cpus: int | None = None
    memory: int | None = None
    available_memory: int | None = None
    shared_memory: Place | None = None
    open_files: tuple[int, int] | None = None
    temporary: Place = field(default_factory=lambda: Place("/tmp"))
    home: Place = field(default_factory=lambda: Place("~"))
    keeps_limits: bool = True
    start_methods: tuple[str, ...] = ()
    packages: tuple[Package, ...] = ()
    runners: tuple[str, ...] = ()
    loopback: str | None = None
    busy_ports: dict[str, int] = field(default_factory=dict)
    settings: tuple[Setting, ...] = ()
    threads: dict[str, str] = field(default_factory=dict)

    @classmethod
    def here(cls) -> Facts:
        """Those of this process."""
        import multiprocessing

        from shoal.task_runners import registry
        from shoal.task_runners.processes.cores import cores

        cpus = os.cpu_count() or 1
        total, available = memory()
        runners = tuple(sorted(registry.installed()))
        return cls(
            python=f"{platform.python_implementation()} {platform.python_version()}",
            executable=sys.executable,
            system=f"{platform.system()} {platform.machine()}",
            cpus=cpus,
            allowed_cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cpus,
            cores=cores(),
            python_cpus=getattr(os, "process_cpu_count", lambda: None)(),
            memory=total,
            available_memory=available,
            shared_memory=place("/dev/shm") if sys.platform == "linux" else None,
            open_files=_open_files(),
            temporary=_temporary(),
            home=_home(),
            keeps_limits=not any(map(os.environ.get, ("SHOAL_LIMITS_URL", "XDG_STATE_HOME"))),
            start_methods=tuple(multiprocessing.get_all_start_methods()),
            packages=tuple(_packages()),
            runners=runners,
            loopback=_listening(0),
            busy_ports={
                name: port
                for name, port in DASHBOARDS.items()
                if name in runners and _listening(port) is not None
            },
            settings=tuple(_settings(runners)),
            threads={name: os.environ[name] for name in _THREADS if name in os.environ},
        )


# ---------------------------------------------------------------------- the machine


def memory(root: str = "/") -> tuple[int | None, int | None]:
    """Bytes that there are, and that can still be had: of the machine, or of the control group with the least left.

    Args:
        root: where `proc` and `sys` are.
    """
    lines = [line.split() for line in _lines(f"{root}proc/meminfo")]
    known = {parts[0]: int(parts[1]) * 1024 for parts in lines if len(parts) > 1}
    total, available = known.get("MemTotal:"), known.get("MemAvailable:")
    for limit, used in _memory_limits(root):
        if total is None or limit < total:
            total = limit
        if available is None or limit - used < available:
            available = max(limit - used, 0)
    return total, available


def _memory_limits(root: str) -> Iterator[tuple[int, int]]:
    """Limit and use of the control groups around this process; those without a limit are left out."""
    groups = f"{root}sys/fs/cgroup"
    own = next(
        (line[3:] for line in _lines(f"{root}proc/self/cgroup") if line.startswith("0::/")), "/"
    )
    folders = [groups + own.rstrip("/")]
    while folders[-1] != groups:
        folders.append(os.path.dirname(folders[-1]))
    files = [(f"{folder}/memory.max", f"{folder}/memory.current") for folder in folders]
    # Version 1.
    files.append(
        (f"{groups}/memory/memory.limit_in_bytes", f"{groups}/memory/memory.usage_in_bytes")
    )
    for limit, used in files:
        for most, now in zip(_lines(limit), _lines(used), strict=False):
            if most != "max":
                yield int(most), int(now)


def place(path: str) -> Place:
    """A folder, and whether a file can be written in it."""
    try:
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(b"\0")
            file.flush()
    except OSError as error:
        return Place(path, problem=error.strerror or str(error))
    size = free = None
    with suppress(OSError, AttributeError):  # Windows has no `statvfs`
        found = os.statvfs(path)
        size, free = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
    return Place(path, size, free)


def _temporary() -> Place:
    try:
        return place(tempfile.gettempdir())
    except FileNotFoundError as error:  # none of the usual folders can be written to
        return Place(os.environ.get("TMPDIR", "/tmp"), problem=error.strerror or str(error))


def _home() -> Place:
    path = os.path.expanduser("~")
    if path == "~":
        return Place(path, problem="HOME is not set, and the system knows no user of this number")
    return place(path)


def _open_files() -> tuple[int, int] | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrlimit(resource.RLIMIT_NOFILE)


def _listening(port: int) -> str | None:
    """Why nothing can listen on a port of this machine's own address; 0 is any."""
    try:
        with socket.create_server(("127.0.0.1", port)):
            return None
    except OSError as error:
        return error.strerror or str(error)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []  # there is none here


# ---------------------------------------------------------------------- what is installed


def _packages() -> Iterator[Package]:
    for name, engines in PACKAGES.items():
        own = Package(name, version_of(name))
        yield own
        wanted = dict(_wanted(name))
        for engine in engines:
            spec = wanted.get(engine, "")
            yield Package(engine, version_of(engine), spec, name if own.version else "")


def _wanted(package: str) -> Iterator[tuple[str, str]]:
    """What a package needs, by name, with the versions."""
    try:
        needed = requires(package) or []
    except PackageNotFoundError:
        return
    for requirement in needed:
        text = requirement.partition(";")[0].replace(" ", "")
        bare = text.partition("[")[0]
        name = bare[: next((i for i, char in enumerate(bare) if char in "<>=!~"), len(bare))]
        versions = text.rpartition("]")[2].removeprefix(name)
        yield name, ",".join(sorted(versions.split(","), reverse=True))  # ">=" before "<"


def version_of(package: str) -> str | None:
    """The version of a package that is installed; `None` if none is."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


# ---------------------------------------------------------------------- what is set


def _check_level() -> None:
    import logging

    from shoal import settings

    level = settings.logging_level()
    if not level.isdigit() and level not in logging.getLevelNamesMapping():
        raise ValueError("a level of `logging` is needed, say INFO")


def _check_runner() -> None:
    from shoal import settings
    from shoal.task_runners import registry

    registry.check_name(settings.task_runner())


def _settings_of(module: str, function: str) -> Callable[[], object]:
    def check() -> object:
        from importlib import import_module

        return getattr(import_module(module), function)()

    return check


#: Every variable that the library reads, and what refuses a bad value of it.
SETTINGS: dict[str, Callable[[], object]] = {
    "SHOAL_LOGGING_LEVEL": _check_level,
    "SHOAL_TASK_RUNNER": _check_runner,
    "SHOAL_LOGGING_LOG_PRINTS": _settings_of("shoal.settings", "log_prints"),
    "SHOAL_LOG_BURST": _settings_of("shoal.settings", "log_burst"),
    "SHOAL_PROGRESS": _settings_of("shoal.settings", "progress"),
    "SHOAL_JOURNAL": _settings_of("shoal.settings", "journal"),
    "SHOAL_REPORT": _settings_of("shoal.settings", "report_folder"),
    "SHOAL_OTEL": _settings_of("shoal.settings", "otel"),
    "SHOAL_OTEL_MAP_RUNS": _settings_of("shoal.settings", "otel_map_runs"),
    "SHOAL_MAX_THREADS": _settings_of("shoal.settings", "max_threads"),
    "SHOAL_TASK_DEFAULT_RETRIES": _settings_of("shoal.settings", "task_retries"),
    "SHOAL_TASKS_DEFAULT_RETRIES": _settings_of("shoal.settings", "task_retries"),
    "SHOAL_TASK_DEFAULT_RETRY_DELAY_SECONDS": _settings_of(
        "shoal.settings", "task_retry_delay_seconds"
    ),
    "SHOAL_TASKS_DEFAULT_RETRY_DELAY_SECONDS": _settings_of(
        "shoal.settings", "task_retry_delay_seconds"
    ),
    "SHOAL_FLOW_DEFAULT_RETRIES": _settings_of("shoal.settings", "flow_retries"),
    "SHOAL_FLOWS_DEFAULT_RETRIES": _settings_of("shoal.settings", "flow_retries"),
    "SHOAL_FLOW_DEFAULT_RETRY_DELAY_SECONDS": _settings_of(
        "shoal.settings", "flow_retry_delay_seconds"
    ),
    "SHOAL_FLOWS_DEFAULT_RETRY_DELAY_SECONDS": _settings_of(
        "shoal.settings", "flow_retry_delay_seconds"
    ),
    "SHOAL_HOME": _settings_of("shoal.results.settings", "home"),
    "SHOAL_RESULTS_STORAGE": _settings_of("shoal.results.settings", "storage"),
    "SHOAL_RESULTS_MAX_GB": _settings_of("shoal.results.settings", "max_bytes"),
    "SHOAL_RESULTS_MAX_DAYS": _settings_of("shoal.results.settings", "max_age"),
    "SHOAL_JOURNALS_MAX_GB": _settings_of("shoal.results.settings", "max_bytes_of_journals"),
    "SHOAL_JOURNALS_MAX_DAYS": _settings_of("shoal.results.settings", "max_age_of_journals"),
    "SHOAL_LIMITS_URL": _settings_of("shoal.limits.settings", "limits_place"),
    "SHOAL_LIMITS_LEASE_SECONDS": _settings_of("shoal.limits.settings", "lease_seconds"),
    "SHOAL_LIMITS_POLL_SECONDS": _settings_of("shoal.limits.settings", "poll_seconds"),
}


def _settings(runners: tuple[str, ...]) -> Iterator[Setting]:
    for name, value in sorted(os.environ.items()):
        if not name.startswith("SHOAL_"):
            continue
        # A variable of a runner's own package, `SHOAL_DASK_...`, is for that to judge.
        if name not in SETTINGS:
            theirs = any(name.startswith(f"SHOAL_{runner.upper()}_") for runner in runners)
            yield Setting(name, value, known=theirs)
            continue
        problem = None
        try:
            SETTINGS[name]()
        except (ShoalError, ValueError) as error:
            problem = str(getattr(error, "problem", error))
        yield Setting(name, without_password(value), problem=problem)
