"""The public names: `__all__`, the reference page and this list agree, importing is light, the wheels are complete."""

from __future__ import annotations

import importlib
import io
import os
import re
import shutil
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference.md"

#: What each public module exports, exactly (SPEC 1.1-1.5). A new public name is added here and to the reference.
EXPORTS = {
    "shoal": (
        "flow task Flow Task unmapped allow_failure quote opaque tags get_run_logger State Recording record"
        " Transaction"
    ),
    "shoal.futures": (
        "TaskFuture TaskFutureList DoneAndNotDoneFutures wait as_completed"
        " resolve_futures_to_states resolve_futures_to_results"
    ),
    "shoal.task_runners": (
        "TaskRunner BaseTaskRunner ThreadPoolTaskRunner ProcessPoolTaskRunner SequentialTaskRunner"
        " ExecutorTaskRunner ConcurrentTaskRunner"
    ),
    "shoal.runtime": "task_run flow_run",
    "shoal.limits": (
        "ConcurrencyLimits AsyncConcurrencyLimits ConcurrencyLimit GlobalConcurrencyLimitCreate"
        " GlobalConcurrencyLimitUpdate Holder Lease Limit Rate Waiter"
    ),
    "shoal.concurrency": (
        "concurrency rate_limit AcquireConcurrencySlotTimeoutError ConcurrencySlotAcquisitionError"
    ),
    "shoal.concurrency.sync": (
        "concurrency rate_limit AcquireConcurrencySlotTimeoutError ConcurrencySlotAcquisitionError"
    ),
    "shoal.concurrency.asyncio": (
        "concurrency rate_limit AcquireConcurrencySlotTimeoutError ConcurrencySlotAcquisitionError"
    ),
    "shoal.serializers": (
        "Serializer PickleSerializer JSONSerializer CompressedSerializer"
        " CompressedPickleSerializer CompressedJSONSerializer"
    ),
    "shoal.locking.protocol": "LockManager",
    "shoal.locking.memory": "MemoryLockManager",
    "shoal.locking.filesystem": "FileSystemLockManager",
    "shoal.cache_policies": (
        "CachePolicy CacheKeyFnPolicy INPUTS TASK_SOURCE FLOW_PARAMETERS RUN_ID DEFAULT NO_CACHE NONE"
        " task_input_hash"
    ),
    "shoal.transactions": (
        "transaction atransaction get_transaction Transaction AsyncTransaction BaseTransaction CommitMode IsolationLevel"
        " TransactionState"
    ),
    "shoal.logging": "get_run_logger get_logger disable_run_logger",
    "shoal_dask": "DaskTaskRunner get_async_dask_client get_dask_client",
    "shoal_dask.exceptions": "MissingDaskClient",
    "shoal_ray": "RayTaskRunner RemoteOptionsContext remote_options",
}

#: Modules that export these and more of their kind (SPEC 1.3, 1.6, 11.4).
EXPORTS_AT_LEAST = {
    "shoal.states": (
        "State StateType"
        " Pending Running Completed Failed Crashed Cancelled Cancelling Scheduled AwaitingRetry"
        " Retrying Queued Paused AwaitingConcurrencySlot StateDetails StateGroup"
        " exception_to_crashed_state exception_to_failed_state"
        " get_state_exception raise_state_exception"
    ),
    "shoal.exceptions": (
        "ShoalError UpstreamTaskError UnfinishedRun FailedRun CrashedRun CancelledRun"
        " MissingResult MissingContextError ParameterTypeError ParameterBindError"
        " ReservedArgumentError MappingLengthMismatch MappingMissingIterable WorkerDied ResultLost"
        " SerializationError UnstableKeyError MissingExtraError"
    ),
    "shoal.testing": "TaskRunnerSuite",
}

MODULES = [*EXPORTS, *EXPORTS_AT_LEAST]

#: Modules that are for the library, with some names for everybody.
EXPORTS_TOO = {
    "shoal.context": "get_run_context TaskRunContext FlowRunContext TaskRun FlowRun",
    "shoal.tasks": "exponential_backoff",
    "shoal.recording.drawing": "Drawing",
}

STATE_TYPES = "SCHEDULED PENDING RUNNING COMPLETED FAILED CANCELLED CRASHED PAUSED CANCELLING"
PREDICATES = "scheduled pending running completed failed cancelled crashed paused cancelling final"

#: Packages that importing ours must not load: they cost more than all of it, or may not be installed.
HEAVY = "anyio asyncio cyclopts dask distributed numpy psycopg pydantic ray rich sqlite3"


def exported(module: str) -> set[str]:
    return set(importlib.import_module(module).__all__)


@pytest.mark.parametrize("module", MODULES)
def test_what_a_module_lists_it_has(module: str) -> None:
    names = importlib.import_module(module).__all__
    assert len(names) == len(set(names)), "a name is listed twice"
    for name in names:
        assert hasattr(importlib.import_module(module), name)


@pytest.mark.parametrize("module", EXPORTS)
def test_module_exports_exactly(module: str) -> None:
    assert exported(module) == set(EXPORTS[module].split())


@pytest.mark.parametrize("module", EXPORTS_TOO)
def test_module_exports_too(module: str) -> None:
    assert exported(module) >= set(EXPORTS_TOO[module].split())


@pytest.mark.parametrize("module", EXPORTS_AT_LEAST)
def test_module_exports_at_least(module: str) -> None:
    assert exported(module) >= set(EXPORTS_AT_LEAST[module].split())


def test_dir_of_the_package_shows_its_lazy_names() -> None:
    import shoal

    assert set(dir(shoal)) >= set(shoal.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    import shoal

    with pytest.raises(AttributeError, match="no_such_name"):
        shoal.no_such_name  # noqa: B018  the access is the test


def test_states_have_types_and_predicates() -> None:
    """SPEC 1.3."""
    from shoal.states import Completed, StateType

    assert {member.name for member in StateType} == set(STATE_TYPES.split())
    state = Completed()
    answers = {name: getattr(state, f"is_{name}")() for name in PREDICATES.split()}
    assert {name for name, answer in answers.items() if answer} == {"completed", "final"}


def test_exceptions_are_one_tree() -> None:
    """SPEC 1.6."""
    import shoal.exceptions

    for name in shoal.exceptions.__all__:
        kind = getattr(shoal.exceptions, name)
        assert issubclass(kind, (shoal.exceptions.ShoalError, Warning)), name


def test_the_reference_lists_every_public_name() -> None:
    """Each is on the page by a `::: module.name` of its own or by a `::: module`, and nothing else is."""
    if not REFERENCE.exists():
        pytest.skip("there is no docs/reference.md")
    listed: set[str] = set()
    for target in re.findall(r"^ *::: +([\w.]+)", REFERENCE.read_text(), flags=re.MULTILINE):
        names = exported(target) if target in MODULES else None
        listed |= {target} if names is None else {f"{target}.{name}" for name in names}
    public = {f"{module}.{name}" for module in MODULES for name in exported(module)}
    public |= {
        f"{module}.{name}" for module, names in EXPORTS_TOO.items() for name in names.split()
    }
    assert listed - public == set(), "on the page, and not public"
    assert public - listed == set(), "public, and not on the page"


@pytest.mark.parametrize("package", ["shoal", "shoal_dask", "shoal_ray"])
def test_import_is_light(package: str) -> None:
    code = (
        f"import sys; before = set(sys.modules); import {package};"
        f"print(*sorted(set({HEAVY.split()}) & (set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], zipfile.Path]:
    """Builds the wheel of a package once, by way of its source distribution."""
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not on the PATH")

    @cache
    def built(package: str) -> zipfile.Path:
        out = tmp_path_factory.mktemp("dist")
        command = [uv, "build", "--package", package, "--out-dir", str(out)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        (wheel,) = out.glob(f"{package.replace('-', '_')}-*.whl")
        return zipfile.Path(io.BytesIO(wheel.read_bytes()))

    return built


def info_of(wheel: zipfile.Path) -> zipfile.Path:
    """Its folder of metadata."""
    (info,) = (entry for entry in wheel.iterdir() if entry.name.endswith(".dist-info"))
    return info


def requirements_in(wheel: zipfile.Path) -> list[str]:
    metadata = (info_of(wheel) / "METADATA").read_text()
    return re.findall(r"^Requires-Dist: (.*)$", metadata, flags=re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("package", ["shoal", "shoal-dask", "shoal-ray"])
def test_wheel_is_complete(build: Callable[[str], zipfile.Path], package: str) -> None:
    wheel = build(package)
    module = package.replace("-", "_")
    source = ROOT / "packages" / package / "src"
    files = {
        path.relative_to(source).as_posix()
        for path in source.rglob("*")
        if path.is_file() and not re.search(r"/__pycache__/|/\.", path.as_posix())
    }
    packed = {
        name
        for name in wheel.root.namelist()
        if name.startswith(f"{module}/") and not name.endswith("/")
    }
    assert f"{module}/py.typed" in packed
    assert packed == files
    assert (info_of(wheel) / "licenses" / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


@pytest.mark.slow
def test_wheel_tells_what_it_needs(build: Callable[[str], zipfile.Path]) -> None:
    wheel = build("shoal")
    required = [line for line in requirements_in(wheel) if "extra ==" not in line]
    names = {re.split(r"[^\w-]", line)[0] for line in required}
    assert names == {"anyio", "cloudpickle", "cyclopts", "pydantic", "rich"}
    entry_points = (info_of(wheel) / "entry_points.txt").read_text()
    assert "shoal = shoal.cli:main" in entry_points
    assert "threads = shoal.task_runners:ThreadPoolTaskRunner" in entry_points
    assert "processes = shoal.task_runners:ProcessPoolTaskRunner" in entry_points
    assert "sequential = shoal.task_runners:SequentialTaskRunner" in entry_points


@pytest.mark.slow
def test_the_packages_of_one_version_belong_together(
    build: Callable[[str], zipfile.Path],
) -> None:
    import shoal

    version = shoal.__version__
    core = requirements_in(build("shoal"))
    wheels = [build("shoal")]
    for extra, engine in {"dask": "distributed", "ray": "ray"}.items():
        assert importlib.import_module(f"shoal_{extra}").__version__ == version
        wheels.append(build(f"shoal-{extra}"))
        required = requirements_in(wheels[-1])
        assert f"shoal-{extra}=={version}; extra == '{extra}'" in core
        assert f"shoal=={version}" in required
        assert {re.split(r"[^\w-]", line)[0] for line in required} == {"shoal", engine}
    for wheel in wheels:
        assert info_of(wheel).name.split("-")[1].startswith(f"{version}.")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "runner"), [("dask", "DaskTaskRunner"), ("ray", "RayTaskRunner")], ids=["dask", "ray"]
)
def test_the_wheel_for_an_engine_brings_its_runner(
    build: Callable[[str], zipfile.Path], name: str, runner: str
) -> None:
    entry_points = (info_of(build(f"shoal-{name}")) / "entry_points.txt").read_text()
    assert "[shoal.task_runners]" in entry_points
    assert f"{name} = shoal_{name}:{runner}" in entry_points
