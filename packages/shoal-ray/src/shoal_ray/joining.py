"""Where a Ray cluster is, whether one answers there, and what it means when Ray would not have us.

    which             the address to use, of those that were given
    check_arguments   what `ray.init` would find out only after seconds
    knock             a question that costs milliseconds, because `ray.init` waits a minute for an answer
    explain           our error for one of Ray's

May import `settings`; Ray and grpc on use.
"""

from __future__ import annotations

import os
import re
import socket
import time
from typing import TYPE_CHECKING

from shoal.exceptions import (
    ClusterFailed,
    ClusterUnreachable,
    EnvironmentMismatch,
    InvalidOption,
    MissingExtraError,
    ShoalError,
)
from shoal.task_runners.remote.environment import compare

from shoal_ray.settings import CLIENT, invalid, is_address, uses_tls

if TYPE_CHECKING:
    from shoal_ray.settings import ClusterSettings

__all__ = ["check_arguments", "check_joinable", "explain", "in_words", "knock", "which"]

#: Seconds within which a cluster has to answer.
ANSWERS_WITHIN = 4.0

# What the cluster's own port answers, and what the port of Ray Client does: calls that need no argument.
_ASKS_CLUSTER = "/ray.rpc.NodeInfoGcsService/GetClusterId"
_ASKS_CLIENT = "/ray.rpc.RayletDriver/ClusterInfo"


def which(settings: ClusterSettings) -> str:
    """The address to use: `"local"`, `"host:port"` or `"ray://host:port"`.

    Raises:
        InvalidOption: `RAY_ADDRESS` is none, or the options contradict it.
        ClusterUnreachable: no cluster runs on this machine.
    """
    address, source = settings.address, "address"
    if address in (None, "auto"):  # as Ray does
        found = os.environ.get("RAY_ADDRESS")
        if found:
            address, source = found, "RAY_ADDRESS"
            if not is_address(found):
                problem = "the variable RAY_ADDRESS holds no address of a Ray cluster"
                raise invalid("address", found, problem)
    if address in (None, "local"):
        return "local"
    assert address is not None  # for type checkers
    settings.check_joining(f"{source}={address!r}")
    return _running_here(settings) if address == "auto" else address


def _running_here(settings: ClusterSettings) -> str:
    """Where the cluster is that was started on this machine, if it was with `ray start`."""
    from ray._private import services

    try:
        temporary = (settings.init_kwargs or {}).get("_temp_dir")
        found = services.canonicalize_bootstrap_address("auto", temporary)
    except ConnectionError as error:
        raise _unreachable("auto", _NONE_HERE) from error
    if found is None:
        raise _unreachable("auto", _NONE_HERE)
    return str(found)


_NONE_HERE = "none runs on this machine; `ray start --head` starts one"


def check_joinable(address: str) -> None:
    """Finds out whether a cluster answers at an address, and whether it is one that this process can be part of.

    Raises:
        ClusterUnreachable: it is not.
    """
    if knock(address) and _has_token_mode():
        # It would refuse what the cluster says to it; Ray goes on all the same, until an actor is asked for.
        problem = (
            "it asks for no token, and this process does, as RAY_AUTH_MODE=token is in its environment (Ray puts it there "
            "for programs that a driver of an instance of its own starts): unset that"
        )
        raise _unreachable(address, problem)


def knock(address: str) -> bool:
    """Finds out whether a cluster answers at an address.

    Args:
        address: `"host:port"` or `"ray://host:port"`.

    Returns:
        Whether it is a cluster's own port where everybody is let in: there are no tokens.

    Raises:
        ClusterUnreachable: none does.
    """
    deadline = time.monotonic() + ANSWERS_WITHIN
    bare = address.removeprefix(CLIENT)
    host, _, port = bare.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWERS_WITHIN):
            pass
    except TimeoutError as error:
        problem = f"no answer within {ANSWERS_WITHIN:g} s"
        raise _unreachable(address, problem) from error
    except OSError as error:
        raise _unreachable(address, in_words(error)) from error
    if uses_tls():
        return False  # somebody listens; the rest is between Ray and its certificates
    return _ask(address, bare, max(deadline - time.monotonic(), 0.5))


def _ask(address: str, bare: str, limit: float) -> bool:
    """Asks who is listening. Whatever answers in gRPC and knows the question will do; see `knock`."""
    import grpc

    is_client = address.startswith(CLIENT)
    with grpc.insecure_channel(bare, options=[("grpc.enable_http_proxy", 0)]) as channel:
        call = channel.unary_unary(_ASKS_CLIENT if is_client else _ASKS_CLUSTER)
        try:
            call(b"", timeout=limit, metadata=(("client_id", "shoal"),))
        except grpc.RpcError as error:
            code = error.code()
            if code is grpc.StatusCode.UNIMPLEMENTED:
                problem = (
                    "what listens there is no server of Ray Client; it may be the cluster's own port, "
                    f"for address={bare!r}"
                    if is_client
                    else "what listens there is no Ray cluster; if it is a server of Ray Client, its address "
                    f"is 'ray://{bare}'"
                )
            elif code is grpc.StatusCode.UNAUTHENTICATED and not _has_token_mode():
                problem = (
                    "it asks for a token. With RAY_AUTH_MODE=token, Ray sends the one in RAY_AUTH_TOKEN, in the "
                    "file RAY_AUTH_TOKEN_PATH or in ~/.ray/auth_token"
                )
            elif code is grpc.StatusCode.DEADLINE_EXCEEDED:
                problem = f"something listens there, and did not answer within {ANSWERS_WITHIN:g} s"
            elif code is grpc.StatusCode.UNAVAILABLE:
                problem = f"what listens there does not talk like Ray ({error.details()})"
            else:
                return False
            raise _unreachable(address, problem) from error
    return not is_client


def _unreachable(address: str, problem: str) -> ClusterUnreachable:
    return ClusterUnreachable(cluster="Ray", address=address, problem=problem)


def _has_token_mode() -> bool:
    return os.environ.get("RAY_AUTH_MODE", "").lower() == "token"


# ------------------------------------------------------------------ what Ray says


def check_arguments(settings: ClusterSettings) -> None:
    """Refuses arguments that `ray.init` would refuse when it has started half of an instance.

    Raises:
        InvalidOption: there is such.
    """
    given = settings.init_kwargs or {}
    if given.get("runtime_env"):
        from ray.runtime_env import RuntimeEnv

        try:
            RuntimeEnv(**given["runtime_env"])
        except (TypeError, ValueError) as error:
            raise invalid(
                "init_kwargs['runtime_env']", given["runtime_env"], _one_line(str(error))
            ) from error
    store = given.get("object_store_memory")
    if store is not None:
        from ray._private.ray_constants import OBJECT_STORE_MINIMUM_MEMORY_BYTES as LEAST

        if isinstance(store, bool) or not isinstance(store, (int, float)) or store < LEAST:
            problem = f"the object store has to have at least {LEAST:,} bytes"
            raise invalid("init_kwargs['object_store_memory']", store, problem)


def explain(error: Exception, address: str, settings: ClusterSettings) -> ShoalError:
    """Our error for what `ray.init` raised.

    Args:
        error: Ray's.
        address: what it was given.
        settings: of the runner.
    """
    text = str(error)
    mismatch = _mismatch(text)
    if mismatch is not None:
        return mismatch
    unknown = _UNKNOWN.search(text)
    if unknown is not None:
        return _unknown_option(unknown[1].split(", ")[0], settings)
    if "ray[default]" in text or "Cannot include dashboard" in text:
        return MissingExtraError(feature="Ray's dashboard", requirement="ray[default]")
    store = (settings.init_kwargs or {}).get("object_store_memory")
    if store is not None and "object store" in text.lower() and isinstance(error, ValueError):
        return invalid("init_kwargs['object_store_memory']", store, _one_line(text))
    if isinstance(error, OSError) and ".ray" in str(error.filename).split(os.sep):
        problem = (
            f"its token cannot be written to {error.filename} ({error.strerror}). Set HOME to a directory that can "
            "be written to, RAY_AUTH_TOKEN to a token of your own, or RAY_AUTH_MODE=disabled to do without one"
        )
    else:
        problem = in_words(error)
        if "Starting Ray client server failed" in text:
            problem += (
                ". Ray forks it from a process with threads of gRPC's, which now and then goes wrong on a busy machine: "
                "try again, or start the head of the cluster with GRPC_ENABLE_FORK_SUPPORT=0 in its environment"
            )
    joined = None if address == "local" else address
    return ClusterFailed(cluster="Ray", problem=problem, address=joined)


_UNKNOWN = re.compile(r"(?:Unknown keyword argument\(s\)|Got unexpected kwargs): ([^\n]+)")
_VERSIONS = re.compile(
    r"started with:\s+Ray: (\S+)\s+Python: (\S+).*started with:\s+Ray: (\S+)\s+Python: (\S+)",
    re.DOTALL,
)


def _mismatch(text: str) -> EnvironmentMismatch | None:
    """What Ray says where the versions of the driver and the cluster differ."""
    told = _VERSIONS.search(text) if "mismatch" in text.lower() else None
    if told is None:
        return None
    described = {
        "driver": {"python": told[4], "ray": told[3]},
        "cluster": {"python": told[2], "ray": told[1]},
    }
    found = compare(described, {"python": 3, "ray": 9})
    return EnvironmentMismatch(
        cluster="Ray",
        rows=found.rows,
        table=found.table,
        problem=found.problem or _one_line(text),
        can_be_tried=False,
    )


def _unknown_option(option: str, settings: ClusterSettings) -> InvalidOption:
    value = (settings.init_kwargs or {}).get(option)
    return invalid(f"init_kwargs[{option!r}]", value, "ray.init knows no such argument")


def in_words(error: BaseException) -> str:
    """An error as a part of a sentence."""
    text = str(error)
    if (
        "Traceback (most recent call last)" in text
    ):  # of a server: what it comes to is in its last line
        text = text.strip().rpartition("\n")[2]
    text = _one_line(text)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _one_line(text: str) -> str:
    return " ".join(text.split())
