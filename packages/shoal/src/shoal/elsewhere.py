"""What Prefect 3 has and Shoal has not, or has in another place: one table, and how it answers.

Whoever changes the imports of a program to Shoal's learns here, name by name, what is missing and where to read on. A
name leaves the table when Shoal gets it. Modules that are missing have a file each in `absent/`, which is looked at
after the real ones (in `shoal.testing`, likewise); the tests see that table and files agree. May import nothing of Shoal's at the top.
"""

from __future__ import annotations

import opcode
import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import FrameType

__all__ = ["MODULES", "NAMES", "OPTIONS", "mark", "missing", "purpose_of_option", "refuse"]

PAGE = "docs/coming-from-prefect.md"

_BACKGROUND = "ran tasks in the background, on the workers of a server"
_DEPLOY = "made deployments, which a server starts"
_PAUSE = "paused a flow run on a server, for a person or a later time"
_SERVER = "spoke to a server"
_SETTINGS = "read the settings of a profile, which are environment variables here"
_SIGNAL = "told a flow run to stop or to wait, on a server's behalf"

#: What modules were for.
MODULES: Mapping[str, str] = {
    "artifacts": "kept tables, texts and links of a run on a server",
    "assets": "told a server what a task makes",
    "automations": "had a server act upon events",
    "blocks": "kept configuration and secrets on a server",
    "client": _SERVER,
    "deployments": _DEPLOY,
    "docker": "built the images of deployments",
    "events": "sent events to a server",
    "filesystems": "stored results and code",
    "flow_runs": _PAUSE,
    "infrastructure": "started the infrastructure of deployments",
    "input": "asked a person for a flow run's input",
    "runner": "ran deployments on this machine",
    "schedules": "said when a server starts deployments",
    "server": "was the server",
    "task_worker": _BACKGROUND,
    "testing.utilities": "set up a server for the tests of flows, which need none here",
    "variables": "kept values on a server",
    "workers": "ran deployments for a work pool",
}

_IN_SHOAL = {
    "PrefectClient": _SERVER,
    "apause_flow_run": _PAUSE,
    "aresume_flow_run": _PAUSE,
    "aserve": _DEPLOY,
    "asuspend_flow_run": _PAUSE,
    "deploy": _DEPLOY,
    "get_client": _SERVER,
    "pause_flow_run": _PAUSE,
    "resume_flow_run": _PAUSE,
    "serve": _DEPLOY,
    "suspend_flow_run": _PAUSE,
}

#: What names were for, by the module or class that one looks for them in.
NAMES: Mapping[str, Mapping[str, str]] = {
    "shoal": _IN_SHOAL,
    "shoal.flows": {
        "InfrastructureBoundFlow": "ran a flow on a work pool",
        "aserve": _DEPLOY,
        "bind_flow_to_infrastructure": "ran a flow on a work pool",
        "load_flow_from_entrypoint": "loaded the flow of a deployment",
        "serve": _DEPLOY,
    },
    "shoal.flows.Flow": {
        "adeploy": _DEPLOY,
        "afrom_source": "loaded a flow from a repository, for a deployment",
        "aserve": _DEPLOY,
        "ato_deployment": _DEPLOY,
        "deploy": _DEPLOY,
        "from_source": "loaded a flow from a repository, for a deployment",
        "serve": _DEPLOY,
        "to_deployment": _DEPLOY,
    },
    "shoal.tasks": {
        "MaterializingTask": MODULES["assets"],
    },
    "shoal.tasks.Task": {
        "aapply_async": _BACKGROUND,
        "aserve": _BACKGROUND,
        "apply_async": _BACKGROUND,
        "delay": _BACKGROUND,
        "serve": _BACKGROUND,
    },
    "shoal.futures": {
        "PrefectFlowRunFuture": "was a run of a deployment, which a server starts",
    },
    "shoal.states": {
        "Late": "was the state of a run that a server had not started in time",
        "Suspended": "was the state of a flow run that had left its process, to be started again",
        "aget_state_exception": "awaited what a server was asked for; get_state_exception asks nobody",
        "araise_state_exception": "awaited what a server was asked for; raise_state_exception asks nobody",
        "format_exception": "wrote an exception into a state's message",
        "get_state_result": "read a stored result; state.result() gives the value",
        "is_state_iterable": "told lists of states from other values",
        "return_value_to_state": "stored a return value; aggregate_states makes one state of several",
        "to_state_create": "wrote a state for a server",
    },
    "shoal.states.State": {
        "aresult": "awaited what a server was asked for; result() asks nobody",
    },
    "shoal.exceptions": {
        "Abort": _SIGNAL,
        "BlockMissingCapabilities": MODULES["blocks"],
        "ConfigurationError": "was raised for a profile whose settings are wrong",
        "ExternalSignal": _SIGNAL,
        "FlowPauseTimeout": _PAUSE,
        "FlowRunWaitTimeout": "was raised when a run of a deployment did not end in time",
        "InfrastructureError": MODULES["infrastructure"],
        "InfrastructureNotAvailable": MODULES["infrastructure"],
        "InfrastructureNotFound": MODULES["infrastructure"],
        "InvalidNameError": "was raised for a name that a server does not take",
        "MissingFlowError": "was raised when the flow of a deployment was not found",
        "MissingProfileError": "was raised for a profile that is not there",
        "NotPausedError": _PAUSE,
        "ObjectAlreadyExists": _SERVER,
        "ObjectNotFound": _SERVER,
        "Pause": _PAUSE,
        "PausedRun": _PAUSE,
        "PrefectException": "was the base of all errors, as ShoalError is here",
        "PrefectHTTPStatusError": _SERVER,
        "PrefectSignal": _SIGNAL,
        "ProtectedBlockError": MODULES["blocks"],
        "SignatureMismatchError": "was raised for arguments that do not fit; ParameterBindError is",
        "TerminationSignal": "was raised in a flow on SIGTERM, which ends flows here as Ctrl-C does",
        "UnspecifiedFlowError": "was raised when a deployment's file has several flows",
    },
    "shoal.task_runners": {
        "PrefectTaskRunner": _BACKGROUND,
    },
    "shoal.context": {
        "AssetContext": MODULES["assets"],
        "AsyncClientContext": _SERVER,
        "SyncClientContext": _SERVER,
    },
    "shoal.settings": {
        "PREFECT_API_URL": _SERVER,
        "Settings": _SETTINGS,
        "get_current_settings": _SETTINGS,
        "temporary_settings": _SETTINGS,
    },
    "shoal.runtime": {
        "deployment": "told of the deployment of a run, which a server had started",
    },
    "shoal_dask": {
        "PrefectDaskClient": "submitted tasks through Dask's client; a task's own submit does",
    },
    "shoal_dask.task_runners": {
        "PrefectDaskClient": "submitted tasks through Dask's client; a task's own submit does",
    },
}

#: What options of the decorators were for.
OPTIONS: Mapping[str, str] = {
    "asset_deps": MODULES["assets"],
}


def purpose_of_option(option: str) -> str | None:
    """What an option was for in Prefect, to be said after "there is no option …"; `None` for any other."""
    purpose = OPTIONS.get(option)
    return None if purpose is None else f"in Prefect it {purpose} (see {PAGE})"


def sentence(what: str, purpose: str) -> str:
    """What somebody is told who looks for it."""
    return f"{what} is not here: in Prefect it {purpose} (see {PAGE})"


def missing(module: str, name: str) -> AttributeError | ImportError:
    """The error of a module's `__getattr__`, which calls this, for a name that it has not.

    An `AttributeError`, so that `hasattr` says no. `from … import …` would put a message of its own in the place of that
    one's, and is given an `ImportError`.

    Args:
        module: its name.
        name: what was looked for.
    """
    purpose = NAMES.get(module, {}).get(name)
    submodule = f"{module}.{name}".removeprefix("shoal.")
    is_module = purpose is None and submodule in MODULES
    if is_module:
        purpose = MODULES[submodule]
    if purpose is None:
        return AttributeError(f"module {module!r} has no attribute {name!r}")
    text = sentence(f"{module}.{name}", purpose)
    if not _imports_from(sys._getframe(2)):
        return AttributeError(text)
    if is_module:
        return ModuleNotFoundError(text, name=f"{module}.{name}")
    return ImportError(text, name=module)


def _imports_from(frame: FrameType) -> bool:
    """Whether a frame is at the step of `from … import …` that takes a name out of the module."""
    code = frame.f_code.co_code
    return 0 <= frame.f_lasti < len(code) and opcode.opname[code[frame.f_lasti]] == "IMPORT_FROM"


def refuse(module: str) -> NoReturn:
    """Ends the import of a module that is missing.

    Args:
        module: its full name.

    Raises:
        ModuleNotFoundError: always.
    """
    purpose = MODULES[module.removeprefix("shoal.")]
    raise ModuleNotFoundError(sentence(module, purpose), name=module)


class _Missing:
    """Stands on a class for an attribute that is not there."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __get__(self, instance: object, owner: type | None = None) -> NoReturn:
        raise AttributeError(self._text)


def mark(owner: type) -> None:
    """Has a class say of what it has not what that was for."""
    of_owner = NAMES.get(f"{owner.__module__}.{owner.__qualname__}", {})
    for name, purpose in of_owner.items():
        setattr(owner, name, _Missing(sentence(f"{owner.__qualname__}.{name}", purpose)))
