"""Ray in this process, from `ray.init` to `ray.shutdown`, in a thread that does nothing else.

Ray counts what a thread submits and puts, and names it by that count and by who the thread is: the driver, if the
thread has ever initialised Ray, or somebody at random. Two threads that each have, one after the other, give the same
names, at which Ray ends the process ("Tried to create an owned object that already exists"), or mixes up their values.
And the processes of an instance end with the thread that has started them. So Ray is initialised in a thread that
does nothing else, and is there for as long as Ray is: `RayThread`.

May import `settings`, `joining`, `keeper`, `processes`, `quiet`, `tokens` and `handles`; Ray on use.
"""

from __future__ import annotations

import contextlib
import os
import sys
import sysconfig
import threading
import time
import weakref
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any

from shoal.engine.interrupt import set_async_exception
from shoal.logs import library_logger
from shoal.task_runners.remote.scratch import Scratch

from shoal_ray.handles import let_go
from shoal_ray.joining import explain
from shoal_ray.keeper import Keeper
from shoal_ray.processes import Process, descendants, see_off
from shoal_ray.quiet import Surroundings, quiet
from shoal_ray.tokens import keep_private

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shoal_ray.settings import ClusterSettings

__all__ = [
    "GONE_WITHIN",
    "RayThread",
    "arguments_of",
    "is_client",
    "shares_path",
    "shut_down",
    "whole_or_nothing",
]

#: Seconds that `ray.shutdown` may take before it is left to itself.
SHUT_DOWN_WITHIN = 10.0
#: Seconds that processes of an instance of ours have to end by themselves when it is shut down.
GONE_WITHIN = 3.0


class RayThread(threading.Thread):
    """Ray from its beginning to its end, in a thread that does nothing else; see the module.

    Args:
        arguments: for `ray.init`.

    Attributes:
        left: set for it to be shut down.
        scratch: where workers of an instance of ours write their records.
    """

    def __init__(self, arguments: dict[str, Any]) -> None:
        super().__init__(name="shoal-ray-session", daemon=True)
        self.scratch: Scratch | None = None
        self._keeper: Keeper | None = None
        self._arguments = arguments
        self._begun: Future[Any] = Future()
        self._starting = True
        self._lock = threading.Lock()  # held while `_starting` changes, and while it is interrupted
        self.left = threading.Event()

    def begin(self) -> Any:
        """What `ray.init` returns; who is interrupted meanwhile has to `give_up`."""
        self.start()
        wait((self._begun,))
        return self._begun.result()

    def give_up(self) -> None:
        """Ends it, at whatever it is, and waits for that so long."""
        self.left.set()
        deadline = time.monotonic() + SHUT_DOWN_WITHIN
        while self.is_alive() and time.monotonic() < deadline:
            # Where it arrives in a callback or a finalizer it is swallowed: so more than once.
            self.join(1.0 if self._interrupt() else 0.05)

    def _interrupt(self) -> bool:
        """Interrupts `ray.init`, but not while that connects; False if it does.

        What connects makes a core worker, for a while without Python. An interrupt would be raised when it is made, before
        anybody knows of it who could end it: its threads would take the process with them at its end.
        """
        with self._lock:
            if not self._starting or self.ident is None:
                return True
            if _connects(self.ident):
                return False
            set_async_exception(self.ident, KeyboardInterrupt)
            if _connects(self.ident):  # it has come so far meanwhile
                set_async_exception(self.ident, None)
                return False
            return True

    def clear(self) -> None:
        """Ray was shut down: ends what is left of an instance of ours, and removes what workers have written."""
        if self._keeper is not None:
            self._keeper.close()
        if self.scratch is not None:
            self.scratch.remove()

    def run(self) -> None:
        """See `threading.Thread`."""
        import ray

        before = set(descendants(os.getpid()))
        try:
            try:
                if self._arguments["address"] == "local":
                    self.scratch = Scratch("ray")
                    weakref.finalize(self, self.scratch.remove)  # who forgets to leave
                    self._keeper = Keeper()
                    keep_private()
                context = None if self.left.is_set() else ray.init(**self._arguments)
            finally:
                with self._lock:
                    self._starting = False
            self._begun.set_result(context)
        except BaseException as error:
            _clean_up(before)
            self._begun.set_exception(error)
            return
        self.left.wait()
        _end()


def arguments_of(address: str, settings: ClusterSettings) -> dict[str, Any]:
    """What `ray.init` is given."""
    from ray.job_config import JobConfig

    given = settings.init_kwargs or {}
    arguments: dict[str, Any] = {"address": address, "logging_level": "WARNING"}
    if address == "local":
        arguments["include_dashboard"] = False
        if shares_path(given):
            arguments["job_config"] = JobConfig(_py_driver_sys_path=_path())
    return {**arguments, **given}


@contextlib.contextmanager
def whole_or_nothing(
    thread: RayThread,
    address: str,
    settings: ClusterSettings,
    surroundings: Surroundings,
    forget: Callable[[], None],
) -> Iterator[None]:
    """What is not initialised to the end leaves nothing, and says why.

    Args:
        thread: where that is done.
        address: which Ray it is.
        settings: what was asked for.
        surroundings: what this process was like before.
        forget: undoes what was noted of it.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    before = set(descendants(os.getpid()))
    try:
        with quiet(), _without_uv(is_local=address == "local"):
            yield
    except BaseException as error:
        forget()
        thread.give_up()
        _see_off_new(before)
        thread.clear()
        surroundings.restore()
        if isinstance(error, Exception):
            raise explain(error, address, settings) from error
        raise
    finally:
        surroundings.restore_most()


@contextlib.contextmanager
def _without_uv(*, is_local: bool) -> Iterator[None]:
    """Under `uv run` Ray packs the working directory, and has every worker make the environment anew.

    Those of this machine have the driver's own Python. Elsewhere it is what their users want.
    """
    from ray._private import ray_constants

    name = "RAY_ENABLE_UV_RUN_RUNTIME_ENV"
    before = getattr(ray_constants, name, None)
    if is_local and before is not None:
        setattr(ray_constants, name, False)
    try:
        yield
    finally:
        if before is not None:
            setattr(ray_constants, name, before)


def shares_path(given: dict[str, Any]) -> bool:
    """Whether workers of an instance of ours can have this process's `sys.path`: not if they have another Python."""
    environment = given.get("runtime_env") or {}
    return given.get("job_config") is None and set(environment) <= {"env_vars", "config"}


def _path() -> list[str]:
    """This process's `sys.path`, without what any Python has by itself; Ray wants the last entry first."""
    paths = sysconfig.get_paths()
    own = {os.path.realpath(paths[key]) for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    found = [os.path.abspath(entry) for entry in sys.path]
    return [
        entry
        for entry in reversed(dict.fromkeys(found))
        if os.path.realpath(entry) not in own and not _bundled(entry, paths["stdlib"])
    ]


def _bundled(entry: str, stdlib: str) -> bool:
    """Whether it belongs to the standard library or to Ray."""
    return (
        entry.startswith(os.path.join(stdlib, "")) and "-packages" not in entry
    ) or entry.endswith((".zip", "thirdparty_files"))


def _connects(thread: int) -> bool:
    """Whether a thread is where Ray makes its core worker."""
    frame = sys._current_frames().get(thread)
    while frame is not None:
        code = frame.f_code
        if code.co_name == "connect" and frame.f_globals.get("__name__") == "ray._private.worker":
            return True
        frame = frame.f_back
    return False


def _clean_up(before: set[Process]) -> None:
    """Ends what a `ray.init` has begun that did not come to its end.

    Args:
        before: the processes that this one had already.
    """
    import ray

    _end()
    if is_client():  # whose server did not start: Ray would not connect again
        with contextlib.suppress(Exception):
            ray.util.disconnect()
    _see_off_new(before)


def _see_off_new(before: set[Process]) -> None:
    """Ends processes of which Ray knows nothing, as it was about to start them."""
    import ray

    home = os.path.join(os.path.dirname(ray.__file__), "")
    ours = Process(os.getpid(), "").command()
    deadline = time.monotonic() + GONE_WITHIN
    while True:
        new = {p: p.command() for p in descendants(os.getpid()) if p not in before}
        left = [process for process, command in new.items() if home in command]
        see_off([*left, *(child for process in left for child in descendants(process.pid))], 0.0)
        # What was forked and not yet made another program is called as this one.
        unknown = any(command in ("", ours) for command in new.values())
        if not (left or unknown) or time.monotonic() >= deadline:
            return
        time.sleep(0.02)


# ------------------------------------------------------------------ closing


def shut_down(started: RayThread | None) -> None:
    """Ends Ray, which waits for a cluster that may be unable to answer.

    Args:
        started: where it was initialised here.
    """
    let_go()
    thread: threading.Thread
    if started is None:
        thread = threading.Thread(target=_end, name="shoal-ray-shutdown", daemon=True)
        thread.start()
    else:
        thread = started
        started.left.set()
    thread.join(SHUT_DOWN_WITHIN)
    if thread.is_alive():
        library_logger().warning("Ray was not shut down within %g s", SHUT_DOWN_WITHIN)


class _Leaving:
    """Ray's core worker while it is shut down.

    A reference that is dropped meanwhile, by whichever thread, has it forget the value, and it ends the process instead
    ("the core worker has already been shutdown"). Here such references find nobody, which they bear.

    Args:
        worker: Ray's own.
    """

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._has_left = False

    def shutdown_driver(self) -> None:
        """As Ray calls it, when nothing else is to be done with it."""
        self._has_left = True
        self._worker.shutdown_driver()

    def __getattr__(self, name: str) -> Any:
        if self._has_left:
            raise AttributeError(name)
        return getattr(self._worker, name)


def _end() -> None:
    """`ray.shutdown`."""
    import ray
    from ray._private import worker

    here: Any = worker.global_worker
    core = getattr(here, "core_worker", None)
    if core is not None:
        here.core_worker = _Leaving(core)
    try:
        ray.shutdown()
    except Exception as error:
        library_logger().debug("while Ray was shut down", exc_info=error)


def is_client() -> bool:
    """Whether this process reaches Ray through Ray Client."""
    from ray.util.client import ray as client

    return bool(client.is_connected())
