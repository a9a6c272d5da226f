"""Settings: environment variables `SHOAL_*`, read when asked for.

A handful of plain values; pydantic would cost more at import than all of the library. May import `exceptions`.

    SHOAL_LOGGING_LEVEL                       level of the `shoal` loggers                             INFO
    SHOAL_LOGGING_LOG_PRINTS                  `log_prints` where no task and no flow says              false
    SHOAL_PROGRESS                            live progress where stderr is a terminal                 true
    SHOAL_LOG_BURST                           runs of one task logged one by one before summing up     20
    SHOAL_TASK_RUNNER                         the runner of flows that name none                       threads
    SHOAL_REPORT                              folder for a report of each flow run that no other is around
    SHOAL_JOURNAL                             whether flow runs are remembered, where the flow does not say  false
    SHOAL_MAX_THREADS                         the most threads of a pool without `max_workers`         256
    SHOAL_TASK_DEFAULT_RETRIES                `retries` of tasks that say nothing                      0
    SHOAL_TASK_DEFAULT_RETRY_DELAY_SECONDS    their `retry_delay_seconds`: `5`, or `1,10,100`          0
    SHOAL_FLOW_DEFAULT_RETRIES                `retries` of flows that say nothing                      0
    SHOAL_FLOW_DEFAULT_RETRY_DELAY_SECONDS    their `retry_delay_seconds`                              0
    SHOAL_HOME, SHOAL_RESULTS_STORAGE         see `shoal.results.settings`
    SHOAL_OTEL                                whether runs are traced by OpenTelemetry                 if the program traces
    SHOAL_OTEL_MAP_RUNS                       runs of a map with a span each; failures have one always 100

Those of decorators are read when a function is decorated. Prefect says TASKS and FLOWS for TASK and FLOW in its newer
names, and takes both; so does this.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NoReturn

from shoal.exceptions import InvalidOption

__all__ = [
    "flow_retries",
    "flow_retry_delay_seconds",
    "home",
    "journal",
    "log_burst",
    "log_prints",
    "logging_level",
    "max_threads",
    "may_be_traced",
    "otel",
    "otel_map_runs",
    "progress",
    "report_folder",
    "results_storage",
    "task_retries",
    "task_retry_delay_seconds",
    "task_runner",
]

_YES = ("1", "true", "t", "yes", "y", "on")
_NO = ("0", "false", "f", "no", "n", "off")


def _whole_number(name: str, default: int, least: int) -> int:
    text = os.environ.get(name)
    if text is None:
        return default
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise _refused(name, text, f"a whole number from {least} up is needed")
    return value


def _seconds(name: str, text: str, problem: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise _refused(name, os.environ[name], problem)
    return value


def _yes_or_no(name: str, *, default: bool) -> bool:
    text = os.environ.get(name)
    if text is None:
        return default
    word = text.strip().lower()
    if word not in _YES and word not in _NO:
        raise _refused(name, text, "true or false is needed")
    return word in _YES


def _refused(name: str, text: str, problem: str) -> InvalidOption:
    return InvalidOption(where="the environment", option=name, value=text, problem=problem)


def _of(kind: str, rest: str) -> str:
    """The name of a variable about tasks or flows, as it is set: with or without the plural."""
    plural = f"SHOAL_{kind}S_{rest}"
    return plural if plural in os.environ else f"SHOAL_{kind}_{rest}"


def task_retries() -> int:
    """`retries` of tasks that say nothing."""
    return _whole_number(_of("TASK", "DEFAULT_RETRIES"), 0, 0)


def task_retry_delay_seconds() -> float | list[float]:
    """`retry_delay_seconds` of tasks that say nothing."""
    name = _of("TASK", "DEFAULT_RETRY_DELAY_SECONDS")
    text = os.environ.get(name)
    if text is None:
        return 0.0
    problem = "a number of seconds from 0 up, or several like `1,10,100`, is needed"
    listed = text.strip().removeprefix("[").removesuffix("]").split(",")
    delays = [_seconds(name, part, problem) for part in listed]
    return delays[0] if len(delays) == 1 else delays


def flow_retries() -> int:
    """`retries` of flows that say nothing."""
    return _whole_number(_of("FLOW", "DEFAULT_RETRIES"), 0, 0)


def flow_retry_delay_seconds() -> float:
    """`retry_delay_seconds` of flows that say nothing."""
    name = _of("FLOW", "DEFAULT_RETRY_DELAY_SECONDS")
    text = os.environ.get(name)
    if text is None:
        return 0.0
    return _seconds(name, text, "a number of seconds from 0 up is needed")


def log_prints() -> bool:
    """Whether prints are logged where no task and no flow says."""
    return _yes_or_no("SHOAL_LOGGING_LOG_PRINTS", default=False)


def progress() -> bool:
    """Whether flows show their progress where stderr is a terminal."""
    return _yes_or_no("SHOAL_PROGRESS", default=True)


def logging_level() -> str:
    """The level of the library's loggers, by name or number."""
    return os.environ.get("SHOAL_LOGGING_LEVEL", "INFO").upper()


def task_runner() -> str:
    """The runner of flows that name none."""
    return os.environ.get("SHOAL_TASK_RUNNER", "threads")


def home() -> str:
    """The absolute path of the folder of what is kept between runs; it may not exist."""
    given = os.environ.get("SHOAL_HOME")
    if given:
        return os.path.abspath(os.path.expanduser(given))
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(cache):  # the XDG specification wants a relative one ignored
        mac = sys.platform == "darwin"
        cache = os.path.expanduser("~/Library/Caches" if mac else "~/.cache")
    return os.path.join(cache, "shoal")


def results_storage() -> str:
    """Where results are kept of who does not say: the absolute path of a folder, or a URL."""
    given = os.environ.get("SHOAL_RESULTS_STORAGE")
    if not given:
        return os.path.join(home(), "results")
    is_url = "://" in given or "::" in given
    return given if is_url else os.path.abspath(os.path.expanduser(given))


def report_folder() -> str | None:
    """Where a report of each outermost flow run is to be written; `None` for nowhere."""
    return os.environ.get("SHOAL_REPORT") or None


def journal() -> bool:
    """Whether flow runs have a journal where the flow does not say."""
    return "SHOAL_JOURNAL" in os.environ and _yes_or_no("SHOAL_JOURNAL", default=False)


def log_burst() -> int:
    """How many runs of one task are logged one by one before the rest is summed up."""
    return _whole_number("SHOAL_LOG_BURST", 20, 0)


def otel() -> bool | None:
    """Whether runs are traced by OpenTelemetry; `None`: if the program traces."""
    text = os.environ.get("SHOAL_OTEL")
    if text is None:
        return None
    if text.strip().lower() not in (*_YES, *_NO):
        raise _refused("SHOAL_OTEL", text, "true or false is needed")
    return text.strip().lower() in _YES


def may_be_traced() -> bool:
    """Whether it is worth to look for OpenTelemetry: it is imported, or asked for."""
    wanted = otel()
    return wanted if wanted is not None else "opentelemetry.trace" in sys.modules


def otel_map_runs() -> int:
    """How many runs of a map have a span of their own."""
    return _whole_number("SHOAL_OTEL_MAP_RUNS", 100, 0)


def max_threads() -> int:
    """The most threads of a pool that was given no `max_workers`."""
    return _whole_number("SHOAL_MAX_THREADS", 256, 1)


if not TYPE_CHECKING:

    def __getattr__(name: str) -> NoReturn:
        from shoal.elsewhere import missing

        raise missing(__name__, name)
