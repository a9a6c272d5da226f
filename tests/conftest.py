"""What holds for every test: it leaves nothing running and nothing open.

After each test, threads and child processes (and theirs) that were not there before must be gone; after each module,
file descriptors too. A short wait allows for what is just ending. Exempt are the services below, which a process has
one of for as long as it lives.

A test whose subject is something left behind says so, with a reason::

    @pytest.mark.may_leave("threads", reason="a task that never returns is given up on")

and a module, for descriptors::

    pytestmark = pytest.mark.may_leave("fds", reason="the store keeps its connection open")
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import signal
import sys
import threading
import time
import traceback
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import psutil
import pytest
from hypothesis import HealthCheck, Phase, settings
from shoal import logs
from shoal.calls import DONE, NEXT_PHASES
from shoal.futures import TaskFuture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from xdist.remote import Producer
    from xdist.scheduler import LoadScopeScheduling

    from tests.ray.clusters import Head

# The shared suite lives in the package; its asserts should explain themselves like those of the tests.
pytest.register_assert_rewrite("shoal.testing")

T = TypeVar("T")

#: Changes of a run's phase that `NEXT_PHASES` does not know; see `_phases_follow_the_table`.
_STRANGE: list[str] = []


def _check_phases() -> None:
    """Has every change of a run's phase in this process looked up in the table."""
    slot: Any = TaskFuture.__dict__["_phase"]

    def change(run: TaskFuture[Any], new: int) -> None:
        try:
            old = slot.__get__(run)
        except AttributeError:
            old = None  # it is being made
        if old is not None and (old >= DONE or (new < DONE and new not in NEXT_PHASES[old])):
            _STRANGE.append(f"{old} to {new}:\n" + "".join(traceback.format_stack(limit=6)))
        slot.__set__(run, new)

    TaskFuture._phase = property(slot.__get__, change)  # type: ignore[assignment, method-assign]


_check_phases()


@pytest.fixture(autouse=True)
def _phases_follow_the_table() -> Iterator[None]:
    _STRANGE.clear()
    yield
    assert not _STRANGE, "\n".join(_STRANGE)


@pytest.fixture(autouse=True, scope="session")
def _logging_is_set_up() -> None:
    """Before the first test, which may have a level of its own: `set_up` would take that for the user's."""
    logs.set_up()


@pytest.fixture(autouse=True)
def _settings_are_as_before() -> Iterator[None]:
    """A command has set some for the rest of its process, which a test has called in this one."""
    before = {name: value for name, value in os.environ.items() if name.startswith("SHOAL_")}
    yield
    for name in [name for name in os.environ if name.startswith("SHOAL_")]:
        if name not in before:
            del os.environ[name]
    os.environ.update(before)


# Ray's workers run at niceness 15: beside tests of something else, they would hardly get a processor.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - so Ray spells it

# How long an example takes says how busy the machine is. The alarm of a test that takes too long is to Hypothesis an example
# that failed: it would go on for further failures and trace each line, without an alarm by then.
settings.register_profile(
    "any machine",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    report_multiple_bugs=False,
    phases=[phase for phase in Phase if phase is not Phase.explain],
)
settings.load_profile("any machine")

KINDS = {"threads", "processes", "fds"}

#: Of the shared suite, what runs each time on one cluster of Dask's and one of Ray's, and on the runner among the examples;
#: all of it, if asked for slow tests.
SMOKE = {
    "test_submit_gives_a_future",
    "test_values_there_and_back",
    "test_async_tasks",
    "test_a_failure_that_is_raised_fails_the_flow",
    "test_the_tasks_own_exception",
    "test_wait",
    "test_graphs",
    "test_a_large_argument_is_shipped_once",
    "test_large_values",
    "test_over_futures",
    "test_a_large_map",
    "test_attempts",
    "test_a_retry_after_a_timeout_may_succeed",
    "test_cancel_all",
    "test_a_worker_that_dies",
    "test_what_cannot_be_pickled_is_named",
    "test_prints",
    "test_context_variables",
    "test_submitting_inside_a_run",
    "test_two_slots_are_two_runs_at_once",
}

#: Classes, by file, that have the shared suite on another kind of what a class beside them has it on.
SECOND = {
    "test_runners_dask": ("TestThreads",),
    "test_runners_executor": ("TestLoky", "TestProcessPool"),
    "test_subprocess_runner": ("TestSubprocesses",),
}

#: How long what is ending may take to end, in seconds.
PATIENCE = 15.0

#: Our process-wide threads, and the descriptors that each of them keeps open.
SERVICE_THREADS = {
    "shoal-callbacks": 0,
    "shoal-timer": 0,
    "shoal-loop": 3,  # a selector and the two ends of the socket pair that wakes it
    "shoal-forkserver": 1,  # the socket on which it hears of worker processes
}

#: The idle workers of other libraries' thread pools; these end by themselves, seconds later, with their loop, or never.
IDLE_THREADS = ("AnyIO worker thread", "Trio thread ", "asyncio_", "Dask-Offload_")

#: The process-wide processes of ours, multiprocessing and loky, and the descriptors that each keeps open in this one.
SERVICE_PROCESSES = {
    "shoal.task_runners.processes.server import serve;": 0,
    "multiprocessing.resource_tracker": 1,
    "shoal_dask.preloaded": 2,  # a fork server, and the lock of the folder with its socket
    "multiprocessing.forkserver": 1,
    "loky.backend.resource_tracker": 1,
}


def pytest_configure(config: pytest.Config) -> None:
    """In the background of a shell without job control, SIGINT is ignored, and by all that is started there.

    Ray before 2.60 leaves what it has opened and started to the collector, within whichever test that runs."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    ray = next(metadata.distributions(name="ray"), None)
    if ray is not None and [int(part) for part in ray.version.split(".")[:2]] < [2, 60]:
        for message in ("unclosed file .*/dev/null", "subprocess .* is still running"):
            config.addinivalue_line("filterwarnings", f"ignore:{message}:ResourceWarning")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The shared suite is slow on clusters and on the example, whose workers start anew in each test; enough of it runs to
    see that they work. On a second kind of the same, all but that is exhaustive.
    """
    from shoal.testing import TaskRunnerSuite

    for item in items:
        if not isinstance(item, pytest.Function) or item.cls is None:
            continue
        is_second = item.cls.__name__ in SECOND.get(item.path.stem, ())
        starts = item.path.parent.name in ("dask", "ray", "examples")
        if not (issubclass(item.cls, TaskRunnerSuite) and (is_second or starts)):
            continue
        is_smoke = item.originalname in SMOKE
        if is_second or not is_smoke:
            item.add_marker(pytest.mark.slow)
        if is_second and not is_smoke:
            item.add_marker(pytest.mark.exhaustive)


def pytest_collection_finish() -> None:
    """What collecting has made, half a million objects, stays for good: whoever collects garbage need not look through it,
    0.2 s each time.
    """
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """A file keeps to one process, and so do all on Dask and all on Ray: their dashboards have one port of a machine."""
    from xdist.scheduler import LoadScopeScheduling

    class ByEngine(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            engine = re.search(r"(?<![a-z])(dask|ray)(?![a-z])", nodeid)
            return engine[1] if engine else nodeid.partition("::")[0]

    return ByEngine(config, log)


@pytest.fixture(autouse=True)
def leaves_nothing_running(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that leaves threads or child processes behind."""
    allowed = _may_leave(request.node)
    threads, processes = set(_threads()), set(_processes())
    yield
    complaints: list[str] = []
    if "threads" not in allowed:
        new_threads = _left_over(lambda: [t for t in _threads() if t not in threads])
        complaints += map(_describe_thread, new_threads)
    if "processes" not in allowed:
        new_processes = _left_over(lambda: [p for p in _processes() if p not in processes])
        complaints += map(_describe_process, new_processes)
    if complaints:
        pytest.fail("this test left running:\n" + "\n".join(complaints), pytrace=False)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Head]:
    """A cluster of Ray's with two CPUs and what it takes for a GPU, for tests whose processes join it; it takes 5 to 10 s."""
    from tests.ray.clusters import head

    with head(cpus=2, RAY_OVERRIDE_RESOURCES='{"GPU": 1}') as cluster:
        yield cluster


@pytest.fixture(autouse=True, scope="module")
def leaves_nothing_open(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a module that leaves file descriptors open (where the system lists them)."""
    allowed = _may_leave(request.node)
    if "fds" in allowed or not Path("/proc/self/fd").is_dir():
        yield
        return
    before, services = _open_fds(), _fds_of_services()
    yield
    gc.collect()

    def new() -> list[str]:
        now = _open_fds()
        opened = [f"  {fd} -> {target}" for fd, target in sorted(now - before)]
        # A service that ended and was started again has closed as many as it opened.
        return opened if len(now) - len(before) > _fds_of_services() - services else []

    if leaked := _left_over(new):
        pytest.fail("this module left open:\n" + "\n".join(leaked), pytrace=False)


def _may_leave(node: pytest.Item) -> set[str]:
    kinds: set[str] = set()
    for mark in node.iter_markers("may_leave"):
        if not mark.args or not KINDS.issuperset(mark.args) or not mark.kwargs.get("reason"):
            raise pytest.UsageError(f"{node.nodeid}: may_leave takes {sorted(KINDS)} and a reason=")
        kinds.update(mark.args)
    return kinds


def _left_over(find: Callable[[], list[T]]) -> list[T]:
    """What `find` still finds after waiting for it to end."""
    deadline = time.monotonic() + PATIENCE
    while (found := find()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


def _threads() -> list[threading.Thread]:
    # A thread that Python did not start and that once asked for its Thread stays listed after its end (until 3.13).
    # Only its number is kept: a frame that holds all frames, its own among them, is a reference cycle, and Python
    # 3.12.0 and 3.12.1 crash when they collect one with the frame of a thread that is sending a BytesIO (gh-111049).
    running = set(_frames())
    return [
        t
        for t in threading.enumerate()
        if t.ident in running
        and t.name not in SERVICE_THREADS
        and not t.name.startswith(IDLE_THREADS)
    ]


def _frames() -> dict[int, FrameType]:
    # Before Python 3.11.12, a garbage collection in there can hang the process for good (gh-106883).
    is_collecting = gc.isenabled()
    gc.disable()
    try:
        return sys._current_frames()
    finally:
        if is_collecting:
            gc.enable()


def _describe_thread(thread: threading.Thread) -> str:
    frame = _frames().get(thread.ident or 0)
    stack = "".join(traceback.format_stack(frame)) if frame else "  it has just ended\n"
    return f"{thread!r}\n{stack}"


def _processes() -> list[psutil.Process]:
    try:
        below = list(_below(os.getpid()))
    except (OSError, psutil.NoSuchProcess):  # there are no such files, or one ended as it was read
        below = psutil.Process().children(recursive=True)
    return [p for p in below if not _service_of(p)]


def _below(pid: int) -> Iterator[psutil.Process]:
    """Its children and theirs, at little cost: psutil reads about all of the system's processes."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        for child in Path(f"/proc/{pid}/task/{thread}/children").read_text().split():
            yield psutil.Process(int(child))
            yield from _below(int(child))


def _service_of(process: psutil.Process) -> str | None:
    # Children of a fork server have its command line too, and are no service.
    with contextlib.suppress(psutil.NoSuchProcess):
        if process.ppid() == os.getpid():
            command = " ".join(process.cmdline())
            return next((name for name in SERVICE_PROCESSES if name in command), None)
    return None


def _describe_process(process: psutil.Process) -> str:
    try:
        command = " ".join(process.cmdline()) or process.name()
        return f"process {process.pid} ({process.status()}): {command}"
    except psutil.NoSuchProcess:
        return f"process {process.pid}: it has just ended"


def _open_fds() -> set[tuple[int, str]]:
    found = set()
    for entry in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the descriptor that listed the directory
            found.add((int(entry), os.readlink(f"/proc/self/fd/{entry}")))
    return found


def _fds_of_services() -> int:
    threads = sum(SERVICE_THREADS.get(t.name, 0) for t in threading.enumerate())
    names = filter(None, map(_service_of, psutil.Process().children()))
    return threads + sum(SERVICE_PROCESSES[name] for name in names)
