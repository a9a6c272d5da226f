"""What `ray.init` changes in this process beside connecting, put back as it was.

    environment variables   its mode of authentication stays for as long as Ray does, for processes that are started
                            from here; the rest is put back as soon as it is connected
    what Ray has read there read anew before it connects, and when it is left
    the logger "ray"        formatters at once, its level when it is left
    faulthandler            when it is left
    what it says            nothing that one has to know, while it connects

May import the standard library only; Ray on use.
"""

from __future__ import annotations

import faulthandler
import logging
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Surroundings", "quiet"]

#: Says that there is a token, and where. Whoever wants to know finds it in Ray's documentation.
_TOKENS = "ray._private.authentication.authentication_token_setup"
#: Say in other threads than the main one, as is ours, that SIGTERM is not handled, where we would not have it handled
#: either: flows have a handler of their own. The second of them says so for a server of Ray Client.
_THREADS = ("ray._private.worker", "ray.util.client.logsclient")
#: Says what is missing for the dashboard, before the error that says so too.
_DASHBOARD = "ray._private.services"

#: Stays until Ray is left: how processes that are started from here find their way into the cluster.
_KEPT = ("RAY_AUTH_MODE",)


class Surroundings:
    """This process before Ray is in it."""

    def __init__(self) -> None:
        logger = logging.getLogger("ray")
        self._environment = dict(os.environ)
        self._level = logger.level
        self._formatters = [(handler, handler.formatter) for handler in logger.handlers]
        self._faults = faulthandler.is_enabled()
        for name in _THREADS:
            logging.getLogger(name).addFilter(self._is_of_use)
        _have_it_read()

    @staticmethod
    def _is_of_use(record: logging.LogRecord) -> bool:
        return "SIGTERM handler is not set" not in str(record.msg)

    def restore_most(self) -> None:
        """Puts back what Ray does not need while it is connected."""
        self._restore_environment(but=_KEPT)
        for handler, formatter in self._formatters:
            handler.setFormatter(formatter)

    def restore(self) -> None:
        """Puts back the rest."""
        self._restore_environment()
        logging.getLogger("ray").setLevel(self._level)
        for name in _THREADS:
            logging.getLogger(name).removeFilter(self._is_of_use)
        if not self._faults and faulthandler.is_enabled():
            faulthandler.disable()
        _have_it_read()

    def _restore_environment(self, but: tuple[str, ...] = ()) -> None:
        for name in _CHANGED:
            if name in but:
                continue
            if name in self._environment:
                os.environ[name] = self._environment[name]
            else:
                os.environ.pop(name, None)


#: Variables that `ray.init` sets; others may have been set by somebody else meanwhile.
_CHANGED = ("PYTHONBREAKPOINT", "RAY_AUTH_MODE", "RAY_USAGE_STATS_ENABLED")


def _have_it_read() -> None:
    """Has Ray read its variables and the token anew: it does so once a process, and keeps what they were.

    With the mode of an instance that was left, it would ask a cluster for tokens that has none. Of all that such a cluster
    tells it, the first is to say when an actor is not needed any more: that it refuses is taken for a yes, so that the
    actor is ended before it has begun. And with a token that it has kept, it would be refused.
    """
    import ray

    if ray.is_initialized():
        return  # then it holds what the cluster's configuration is, too
    raylet: Any = ray._raylet
    if hasattr(raylet, "AuthenticationTokenLoader"):  # older versions know no tokens
        raylet.Config.initialize("")
        raylet.AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps Ray from saying what nobody needs to know while it starts."""
    tokens, dashboard = logging.getLogger(_TOKENS), logging.getLogger(_DASHBOARD)
    level = tokens.level
    tokens.setLevel(logging.ERROR)
    dashboard.addFilter(_is_of_use)
    try:
        yield
    finally:
        dashboard.removeFilter(_is_of_use)
        tokens.setLevel(level)


def _is_of_use(record: logging.LogRecord) -> bool:
    return "dashboard dependencies" not in str(record.msg)
