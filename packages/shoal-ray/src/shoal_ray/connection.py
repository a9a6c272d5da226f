"""`Connection`: Ray in this process, initialised on first use and shared by all who hold it.

    acquire ──┬─ initialised already, by others: used as it is
              ├─ initialised here: one user more
              └─ not initialised: `ray.init`, with an address that was given, that of RAY_ADDRESS, or "local"
    release ──┬─ the last of what was initialised here: `ray.shutdown`
              └─ others: nothing

A process has one Ray at a time, whatever the settings of its runners: those of nested flows use the one that is there,
and whoever leaves last shuts it down. So users are counted for the process, in `Instance`. One lock is held while Ray
is initialised and shut down, so that nobody sees it half open.

Ray counts what a thread submits and puts, and names it by that count and by who the thread is: the driver, if the
thread has ever initialised Ray, or somebody at random. Two threads that each have, one after the other, give the same
names, at which Ray ends the process ("Tried to create an owned object that already exists"), or mixes up their values.
And the
processes of an instance end with the thread that has started them. So Ray is initialised in a thread that does nothing
else, and is there for as long as Ray is: `_Session`.

May import `settings`, `joining`, `keeper`, `processes`, `quiet`, `relay` and `handles`; Ray on use.
"""

from __future__ import annotations

import contextlib
import os
import sys
import sysconfig
import threading
import time
import weakref
from collections import Counter
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any

from shoal.engine.interrupt import set_async_exception
from shoal.logs import library_logger
from shoal.task_runners.remote.scratch import Scratch

from shoal_ray.handles import let_go
from shoal_ray.joining import check_arguments, explain, knock, which
from shoal_ray.keeper import Keeper
from shoal_ray.processes import Process, descendants, see_off
from shoal_ray.quiet import Surroundings, quiet
from shoal_ray.relay import Relay

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shoal_ray.settings import ClusterSettings

__all__ = ["Connection"]

#: Seconds that `ray.shutdown` may take before it is left to itself.
SHUT_DOWN_WITHIN = 10.0
#: Seconds that processes of an instance of ours have to end by themselves when it is shut down.
GONE_WITHIN = 3.0
#: Calls that may wait in the relay at once.
WAITS = 100_000
#: Seconds that what tasks printed takes to reach the driver.
PRINTED_WITHIN = 0.25


class Connection:
    """A runner's hold on the Ray of this process.

    Args:
        settings: which Ray, if none is there yet; nothing is looked up before the first `acquire`.
    """

    def __init__(self, settings: ClusterSettings) -> None:
        self.settings = settings
        self._holds: Counter[Instance] = Counter()
        self._latest: Instance | None = None

    @property
    def _instance(self) -> Instance:
        if self._latest is None:
            raise RuntimeError("the connection to Ray is not open")
        return self._latest

    @property
    def is_open(self) -> bool:
        """Whether somebody holds it."""
        return bool(self._holds)

    @property
    def is_lost(self) -> bool:
        """Whether it is known to be dead; see `lost`."""
        return self._latest is not None and self._latest.lost

    @property
    def is_local(self) -> bool:
        """Whether the instance was started here, on this machine."""
        return self._instance.is_local

    @property
    def shares_path(self) -> bool:
        """Whether workers find modules where this process does: in the same directories, in the same order."""
        return self._instance.shares_path

    @property
    def is_client(self) -> bool:
        """Whether it goes through Ray Client."""
        return self._instance.is_client

    @property
    def gcs_address(self) -> str | None:
        """Where the cluster is, `"host:port"`; `None` through Ray Client."""
        return self._instance.gcs_address

    @property
    def client_address(self) -> str | None:
        """Where the server of Ray Client is, `"host:port"`; `None` without one."""
        return self._instance.client_address

    @property
    def node_ip(self) -> str | None:
        """The address of the node that this process is on; `None` through Ray Client."""
        return self._instance.node_ip

    @property
    def dashboard_link(self) -> str | None:
        """Where the dashboard is, `None` if none is served or nobody asked for it."""
        return self._instance.dashboard_link

    @property
    def scratch(self) -> str | None:
        """The folder for the records of workers of an instance of ours; `None` elsewhere."""
        return self._instance.scratch

    @property
    def relay_name(self) -> str:
        """What this process's relay is called among Ray's actors."""
        return self._instance.relay_name

    def relay(self) -> Any:
        """This process's relay in the cluster; made when it is first asked for."""
        return self._instance.relay()

    def prepare(self) -> None:
        """Imports Ray, which takes half a second; never needed."""
        import ray  # noqa: F401

    def acquire(self) -> None:
        """Opens it, or joins those who hold it. Each call needs a `release`.

        Raises:
            ClusterUnreachable: no cluster answers at the address.
            ClusterFailed: Ray could not be started, or would not have us.
            EnvironmentMismatch: the cluster has another version of Python or Ray.
            InvalidOption: `init_kwargs` has something in it that Ray does not know.
            MissingExtraError: the dashboard was asked for and is not installed.
        """
        with _lock:
            before = _current
            try:
                instance = _instance_here(self.settings)
                self._latest = instance
                self._holds[instance] += 1
                instance.users += 1
            except BaseException:
                if _current is not None and _current is not before:  # an interrupt came just then
                    self._holds.pop(_current, None)
                    _current.users = 0
                    _current.leave(0.0)
                raise

    def release(self, grace: float) -> None:
        """Gives it up. The last one shuts down what was initialised here, in silence.

        Args:
            grace: seconds that processes have to end before they are killed.
        """
        with _lock:
            # What was lost is given up first: whoever came later holds another.
            instance = next((held for held in self._holds if held.lost), None)
            if instance is None:
                instance = next(iter(self._holds))
            self._holds[instance] -= 1
            self._holds += Counter()
            instance.users -= 1
            if instance.users == 0:
                instance.leave(grace)
            if not self._holds:
                self._latest = None

    def lost(self) -> None:
        """The cluster is known to have gone: lets go of Ray at once, whoever initialised it.

        Ray would end this process by itself after a minute, without running a `finally`.
        """
        instance = self._latest
        # Who holds the lock may wait for the very cluster that has gone.
        locked = _lock.acquire(timeout=1.0)
        try:
            if instance is not None:
                instance.give_up()
        finally:
            if locked:
                _lock.release()


class Instance:
    """Ray as it is initialised in this process.

    Attributes:
        users: how many hold it.
        lost: whether it is known to be dead.
        prints: whether what tasks print is printed here.
        is_local, shares_path, is_client, gcs_address, client_address, node_ip, dashboard_link, scratch: see `Connection`.
    """

    def __init__(self) -> None:
        self.users = 0
        self.lost = False
        self.is_local = False
        self.shares_path = False
        self.dashboard_link: str | None = None
        self.prints = True
        self.relay_name = f"shoal-{os.urandom(8).hex()}"
        self._relay: Any = None
        self._making_relay = threading.Lock()
        self._surroundings: Surroundings | None = None  # where it was initialised here
        self._session: _Session | None = None  # likewise
        self._identity = weakref.ref(_here())
        self._auto_connect: Any = None
        self.is_client = _is_client()
        self.gcs_address: str | None = None
        self.client_address: str | None = None
        self.node_ip: str | None = None
        self.scratch: str | None = None
        if self.is_client:
            from ray.util.client import ray as client

            worker: Any = client.get_context().client_worker
            self.client_address = worker._conn_str
        else:
            import ray

            self.gcs_address = ray.get_runtime_context().gcs_address
            self.node_ip = ray.util.get_node_ip_address()

    @classmethod
    def initialised(cls, settings: ClusterSettings) -> Instance:
        """Initialises Ray."""
        global _current
        address = which(settings)
        check_arguments(settings)
        if address != "local":
            knock(address)
        surroundings = Surroundings()
        session = _Session(_arguments(address, settings))
        given = settings.init_kwargs or {}
        with _whole_or_nothing(session, address, settings, surroundings):
            context = session.begin()
            instance = cls()
            instance._session, instance._surroundings = session, surroundings
            instance.is_local = address == "local"
            instance.shares_path = instance.is_local and _shares_path(given)
            instance.prints = given.get("log_to_driver") is not False
            instance.scratch = session.scratch.path if session.scratch is not None else None
            _current = instance  # who is interrupted from here on leaves it
        if given.get("include_dashboard"):
            link = str(getattr(context, "dashboard_url", None) or "")
            instance.dashboard_link = link if not link or "://" in link else f"http://{link}"
            if instance.dashboard_link:
                library_logger().info("The Ray dashboard is at %s", instance.dashboard_link)
        return instance

    @property
    def is_current(self) -> bool:
        """Whether Ray is still what it was: users may shut it down and initialise it anew."""
        here = _here()
        return not self.lost and here is not None and here is self._identity()

    def relay(self) -> Any:
        """See `Connection`: it is on the driver's node (that of the server, for Ray Client), so no other's end is its end.

        Ray places what asks for no CPU anywhere, and so it does if it is only told to prefer a node.
        """
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        with self._making_relay:
            if self._relay is None:
                node = ray.get_runtime_context().get_node_id()
                actor = ray.remote(Relay).options(
                    name=self.relay_name,
                    num_cpus=0,
                    max_restarts=0,
                    max_concurrency=WAITS,
                    scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
                )
                self._relay = actor.remote()
            return self._relay

    def leave(self, grace: float) -> None:
        """Nobody holds it any more."""
        global _current
        if _current is self:
            _current = None
        if self.lost:
            _let_auto_connect(self._auto_connect)
        elif self._relay is not None and self.is_current:
            import ray

            ray.kill(self._relay)
        if self._surroundings is None:
            return
        if self.is_current:
            processes = _processes() if self.is_local else []
            if self.prints:
                time.sleep(max(PRINTED_WITHIN - (_quiet_since() if self.is_local else 0.0), 0.0))
            _shut_down(self._session)
            see_off(processes, max(grace, GONE_WITHIN))
        self._restore()

    def give_up(self) -> None:
        """See `Connection.lost`."""
        global _current
        if self.lost:
            return
        current = self.is_current
        self.lost = True
        if _current is self:
            _current = None
        # A call that comes too late must not initialise another Ray behind everybody's back.
        self._auto_connect = _let_auto_connect(False)
        if current:
            if self.is_local:
                see_off(_processes(), 0.0)  # there is nothing left to wait for then
            _shut_down(self._session)
        self._restore()

    def _restore(self) -> None:
        if self._surroundings is not None:
            self._surroundings.restore()
            self._surroundings = None
        if self._session is not None:
            self._session.clear()


_lock = threading.RLock()
_current: Instance | None = None


def _instance_here(settings: ClusterSettings) -> Instance:
    """The Ray of this process; with the lock held."""
    global _current
    import ray

    if _current is not None and not _current.is_current:
        _current._restore()  # somebody else has shut it down
        _current = None
    if _current is None:
        if not ray.is_initialized():
            _current = Instance.initialised(settings)
            return _current
        _current = Instance()
    _tell_if_other(_current, settings.address)
    return _current


def _tell_if_other(instance: Instance, address: str | None) -> None:
    """A warning where an address was given, and the Ray that is there is another one."""
    there = instance.client_address or instance.gcs_address or ""
    # A host has many names, so it is the ports that are compared.
    if address not in (None, "auto", "local") and not there.endswith(address[address.rfind(":") :]):
        library_logger().warning(
            "Ray is initialised in this process already, at %s: address=%r is not looked at",
            there,
            address,
        )


def _let_auto_connect(wanted: Any) -> Any:
    """Whether Ray initialises itself when it is used and is not; what it was before."""
    from ray._private import auto_init_hook

    hook: Any = auto_init_hook
    before = getattr(hook, "enable_auto_connect", None)
    if before is not None and wanted is not None:
        hook.enable_auto_connect = wanted
    return before


def _is_client() -> bool:
    from ray.util.client import ray as client

    return bool(client.is_connected())


def _here() -> Any:
    """What is another object each time that Ray is initialised; `None` where it is not."""
    import ray
    from ray._private import worker
    from ray.util.client import ray as client

    if not ray.is_initialized():
        return None
    return client.get_context().client_worker if client.is_connected() else worker._global_node


# ------------------------------------------------------------------ opening


class _Session(threading.Thread):
    """Ray from its beginning to its end, in a thread that does nothing else (see the module).

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
            with self._lock:
                if self._starting and self.ident is not None:
                    # Where it arrives in a callback or a finalizer it is swallowed: so more than once.
                    set_async_exception(self.ident, KeyboardInterrupt)
            self.join(1.0)

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


def _arguments(address: str, settings: ClusterSettings) -> dict[str, Any]:
    """What `ray.init` is given."""
    from ray.job_config import JobConfig

    given = settings.init_kwargs or {}
    arguments: dict[str, Any] = {"address": address, "logging_level": "WARNING"}
    if address == "local":
        arguments["include_dashboard"] = False
        if _shares_path(given):
            arguments["job_config"] = JobConfig(_py_driver_sys_path=_path())
    return {**arguments, **given}


@contextlib.contextmanager
def _whole_or_nothing(
    session: _Session, address: str, settings: ClusterSettings, surroundings: Surroundings
) -> Iterator[None]:
    """What is not initialised to the end leaves nothing, and says why."""
    global _current
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    before = set(descendants(os.getpid()))
    try:
        with quiet(), _without_uv(is_local=address == "local"):
            yield
    except BaseException as error:
        _current = None
        session.give_up()
        _see_off_new(before)
        session.clear()
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


def _shares_path(given: dict[str, Any]) -> bool:
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


def _clean_up(before: set[Process]) -> None:
    """Ends what a `ray.init` has begun that did not come to its end.

    Args:
        before: the processes that this one had already.
    """
    import ray

    with contextlib.suppress(Exception):
        ray.shutdown()
    if _is_client():  # whose server did not start: Ray would not connect again
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


def _shut_down(session: _Session | None) -> None:
    """Ends Ray, which waits for a cluster that may be unable to answer.

    Args:
        session: where it was initialised here.
    """
    let_go()
    thread: threading.Thread
    if session is None:
        thread = threading.Thread(target=_end, name="shoal-ray-shutdown", daemon=True)
        thread.start()
    else:
        thread = session
        session.left.set()
    thread.join(SHUT_DOWN_WITHIN)
    if thread.is_alive():
        library_logger().warning("Ray was not shut down within %g s", SHUT_DOWN_WITHIN)


def _end() -> None:
    """`ray.shutdown`."""
    import ray

    try:
        ray.shutdown()
    except Exception as error:
        library_logger().debug("while Ray was shut down", exc_info=error)


def _quiet_since() -> float:
    """Seconds since a worker of an instance of ours has printed something."""
    from ray._private import worker

    node: Any = worker._global_node
    times = [0.0]
    with contextlib.suppress(OSError), os.scandir(node.get_logs_dir_path()) as entries:
        times += [entry.stat().st_mtime for entry in entries if entry.name.startswith("worker-")]
    return time.time() - max(times)


def _processes() -> list[Process]:
    """The processes of an instance of ours, and theirs."""
    from ray._private import worker

    node: Any = worker._global_node
    if node is None:
        return []
    pids = [info.process.pid for infos in node.all_processes.values() for info in infos]
    started = [process for process in map(Process.numbered, pids) if process is not None]
    return [*started, *(child for one in started for child in descendants(one.pid))]
