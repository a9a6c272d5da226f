"""`Connection`: Ray in this process, initialised on first use and shared by all who hold it.

    acquire ──┬─ initialised already, by others: used as it is
              ├─ initialised here: one user more
              └─ not initialised: `ray.init`, with an address that was given, that of RAY_ADDRESS, or "local"
    release ──┬─ the last of what was initialised here: `ray.shutdown`
              └─ others: nothing

A process has one Ray at a time, whatever the settings of its runners: those of nested flows use the one that is there,
and whoever leaves last shuts it down. So users are counted for the process, in `Instance`. One lock is held while Ray
is initialised and shut down, so that nobody sees it half open.

Ray itself is initialised and shut down in a thread of its own; see `ray_thread`.

May import `ray_thread`, `joining`, `processes`, `quiet`, `relay` and what lies above them; Ray on use.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections import Counter
from typing import TYPE_CHECKING, Any

from shoal.logs import library_logger

from shoal_ray.joining import check_arguments, check_joinable, which
from shoal_ray.processes import Process, descendants, see_off
from shoal_ray.quiet import Surroundings
from shoal_ray.ray_thread import (
    GONE_WITHIN,
    RayThread,
    arguments_of,
    is_client,
    shares_path,
    shut_down,
    whole_or_nothing,
)
from shoal_ray.relay import Relay

if TYPE_CHECKING:
    from shoal_ray.settings import ClusterSettings

__all__ = ["Connection"]

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

    def shown(self) -> dict[str, str]:
        """The cluster's address and the dashboard's link, as far as there are any; nobody is asked."""
        instance = self._latest if self.is_open else None
        if instance is None:
            return {}
        found = {
            "cluster": instance.gcs_address or instance.client_address,
            "dashboard": instance.dashboard_link,
        }
        return {name: value for name, value in found.items() if value}

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
        self._thread: RayThread | None = None  # likewise
        self._identity = weakref.ref(_here())
        self._auto_connect: Any = None
        self.is_client = is_client()
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
            check_joinable(address)
        surroundings = Surroundings()
        thread = RayThread(arguments_of(address, settings))
        given = settings.init_kwargs or {}
        with whole_or_nothing(thread, address, settings, surroundings, _forget):
            context = thread.begin()
            instance = cls()
            instance._thread, instance._surroundings = thread, surroundings
            instance.is_local = address == "local"
            instance.shares_path = instance.is_local and shares_path(given)
            instance.prints = given.get("log_to_driver") is not False
            instance.scratch = thread.scratch.path if thread.scratch is not None else None
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
            shut_down(self._thread)
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
            shut_down(self._thread)
        self._restore()

    def _restore(self) -> None:
        if self._surroundings is not None:
            self._surroundings.restore()
            self._surroundings = None
        if self._thread is not None:
            self._thread.clear()


_lock = threading.RLock()
_current: Instance | None = None


def _forget() -> None:
    global _current
    _current = None


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


def _here() -> Any:
    """What is another object each time that Ray is initialised; `None` where it is not."""
    import ray
    from ray._private import worker
    from ray.util.client import ray as client

    if not ray.is_initialized():
        return None
    return client.get_context().client_worker if client.is_connected() else worker._global_node


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
