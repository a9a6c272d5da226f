"""Runs Shoal flows on Ray.

    settings                    what was asked for
    wire, door                  messages over TCP; where workers come in
    relay                       the driver's actor: futures for Ray, gates, a bus for Ray Client
    tokens                      who may use an instance that is started here
    joining                     where a cluster is, and whether it will have us
    quiet, ray_thread           Ray in this process, and what it changes here
    connection                  who holds it
    processes, keeper           processes of this machine, and their end; also if the driver is killed
    environment, options        what the workers need to have; Ray's own words around a submit
    context                     these, where Prefect has them
    handles                     values that stay
    natives, members, session   Ray's own objects; the driver's books; what runs batches on a worker
    link, relays                the driver's end of the messages; who waits for what
    listening, jobs, watch      what the driver hears; how Ray's tasks and workers end; a cluster that has gone
    backend                     batches become Ray tasks
    task_runners                what users configure

The public names below load on first access: importing this package does not import Ray.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoal_ray.options import RemoteOptionsContext, remote_options
    from shoal_ray.task_runners import RayTaskRunner

    __version__: str

__all__ = ["RayTaskRunner", "RemoteOptionsContext", "remote_options"]

_HOMES = {
    "RayTaskRunner": "task_runners",
    "RemoteOptionsContext": "options",
    "remote_options": "options",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("shoal-ray")
    from importlib import import_module

    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
