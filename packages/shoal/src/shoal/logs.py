"""Logging: the library's own lines, `get_run_logger`, and prints that become log lines.

The user's own set-up is never replaced: a handler of ours is added to the `shoal` logger only where neither it
nor the root logger has one. May import `context`, `settings` and what things are called.
"""

from __future__ import annotations

import builtins
import logging
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

from shoal import settings
from shoal.context import CALL, HERE, SCOPE
from shoal.exceptions import MissingContextError
from shoal.safely import in_words, traceback_of

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    from shoal.context import FlowRun

__all__ = [
    "RunLogger",
    "flow_run_logger",
    "get_run_logger",
    "library_logger",
    "log_failure",
    "log_prints_of",
    "log_to_stderr",
    "set_up",
    "task_run_logger",
]

_ROOT = logging.getLogger("shoal")
_TASK_RUNS = logging.getLogger("shoal.task_runs")
_FLOW_RUNS = logging.getLogger("shoal.flow_runs")
_set_up_lock = threading.Lock()
_is_set_up = False


def library_logger() -> logging.Logger:
    """The logger of what concerns no run in particular."""
    return _ROOT


def log_failure(error: BaseException, text: str, *args: object, logger: Any = None) -> None:
    """Logs an error with its traceback, whatever error it is; never raises itself.

    Args:
        error: the error.
        text: what has failed, as `logging` wants it.
        args: for `text`; they can be formatted without fail.
        logger: that of a run; by default the library's.
    """
    logger = logger if logger is not None else _ROOT
    try:
        logger.error(text, *args, exc_info=(type(error), error, traceback_of(error)))
    except (
        BaseException
    ) as problem:  # the exception cannot be shown, or a handler of the user's has failed
        if type(problem) is KeyboardInterrupt and _is_main():
            raise  # somebody has pressed Ctrl-C
        try:
            logger.error("%s: %s", text % args, in_words(error))  # noqa: TRY400  # it cannot be shown
        except BaseException:
            return  # there is nobody left to tell


def _is_main() -> bool:
    return threading.current_thread() is threading.main_thread()


class _Formatter(logging.Formatter):
    """`00:03:45.159 | INFO    | Task run 'inc-3f2' - message`."""

    default_msec_format = "%s.%03d"
    default_time_format = "%H:%M:%S"

    def format(self, record: logging.LogRecord) -> str:
        label = getattr(record, "run_label", None)
        head = f"{self.formatTime(record)} | {record.levelname:<7} | "
        if label is not None:
            head += f"{label} - "
        text = head + record.getMessage()
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        if record.exc_text:
            text += "\n" + record.exc_text
        if record.stack_info:
            text += "\n" + self.formatStack(record.stack_info)
        return text


class _StderrHandler(logging.StreamHandler[Any]):
    """Writes to what `sys.stderr` is at the moment, so that captured and replaced streams work."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, value: Any) -> None:
        raise AttributeError("this handler follows sys.stderr")


def log_to_stderr() -> None:
    """In a child that a run on a worker has forked: nobody takes its lines any more, so they go the usual way."""
    global _is_set_up
    _ROOT.handlers = []
    _ROOT.propagate = True
    _is_set_up = False
    set_up()


class _Held(threading.local):
    """The handlers that a thread which is about to fork keeps others out of."""

    def __init__(self) -> None:
        self.handlers: list[logging.Handler] = []


_held = _Held()


def _before_fork() -> None:
    # Threads of ours log when runs end. Forked in the middle of a line, a child would find its handler's file locked by a
    # thread that it does not have, and wait for ever with its first line.
    loggers = (_TASK_RUNS, _FLOW_RUNS, _ROOT, logging.getLogger())
    for handler in {handler: None for logger in loggers for handler in logger.handlers}:
        handler.acquire()
        _held.handlers.append(handler)


def _after_fork_in_parent() -> None:
    while _held.handlers:
        _held.handlers.pop().release()


def _after_fork_in_child() -> None:
    global _set_up_lock
    _set_up_lock = threading.Lock()
    _held.handlers.clear()  # `logging` has made their locks anew


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )


def set_up() -> None:
    """Makes log lines appear where the user has not set up logging; called at the first run."""
    global _is_set_up
    if _is_set_up:
        return
    with _set_up_lock:
        if _is_set_up:
            return
        if _ROOT.level == logging.NOTSET:
            level = settings.logging_level()
            try:
                _ROOT.setLevel(int(level) if level.isdecimal() else level)
            except ValueError:
                _ROOT.setLevel(logging.INFO)
                _ROOT.warning("SHOAL_LOGGING_LEVEL is %r, which is no level; INFO is used", level)
        if not _ROOT.handlers and not logging.getLogger().handlers:
            handler = _StderrHandler()
            handler.setFormatter(_Formatter())
            _ROOT.addHandler(handler)
            # Were logging set up later, lines would appear twice; those handlers take over then.
            handler.addFilter(lambda record: not _others(handler))
        _is_set_up = True


def _others(own: logging.Handler) -> bool:
    """Whether there are handlers besides ours."""
    return bool(logging.getLogger().handlers) or any(
        handler is not own for handler in _ROOT.handlers
    )


if TYPE_CHECKING:
    _Adapter = logging.LoggerAdapter[logging.Logger]
else:
    _Adapter = logging.LoggerAdapter


class RunLogger(_Adapter):
    """A logger that knows its run; records carry `run_label`, `run_name` and `run_id`.

    Interrupts of the run are kept out while it logs: one raised inside `logging` could leave a handler locked.
    """

    def __init__(self, logger: logging.Logger, kind: str, run_name: str, run_id: str) -> None:
        super().__init__(
            logger,
            {"run_label": f"{kind} run {run_name!r}", "run_name": run_name, "run_id": run_id},
        )

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        if not self.isEnabledFor(level):
            return
        kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1  # the line that logs is not this one
        frames = HERE.frames
        if frames is None:
            super().log(level, msg, *args, **kwargs)
            return
        frames.enter_shield()
        try:
            super().log(level, msg, *args, **kwargs)
        finally:
            frames.leave_shield()


def task_run_logger(name: str, run_id: str) -> RunLogger:
    """The logger of a task run."""
    return RunLogger(_TASK_RUNS, "Task", name, run_id)


def flow_run_logger(run: FlowRun) -> RunLogger:
    """The logger of a flow run."""
    return RunLogger(_FLOW_RUNS, "Flow", run.name, run.id)


def get_run_logger() -> RunLogger:
    """The logger of the run around the caller: the task run, or else the flow run.

    Raises:
        MissingContextError: there is none.

    Examples:
        >>> @task
        ... def load(path):
        ...     get_run_logger().info("reading %s", path)
    """
    call = CALL.get()
    if call is not None:
        from shoal.names import run_uuid

        return task_run_logger(call.run_name(), run_uuid(call.number))
    scope = SCOPE.get()
    if scope is None or scope.flow_run is None:
        raise MissingContextError(task_name=None, what="get_run_logger()")
    return flow_run_logger(scope.flow_run)


def task_runs_logged() -> bool:
    """Whether ends of task runs are logged at all."""
    return _TASK_RUNS.isEnabledFor(logging.ERROR)


# ---------------------------------------------------------------------- prints


def log_prints_of(log_prints: bool | None) -> None:
    """Makes sure that `print` asks which run it is in, if a run that begins wants its prints logged.

    `builtins.print` is replaced by a callable that looks at context variables, once, and again if others have replaced
    it since, as Ray does in a driver that shows what workers print. (Replacing it for each run races between threads.)
    """
    if log_prints and type(builtins.print) is not _Print:
        builtins.print = _Print(builtins.print)


class _Print:
    """A `print` above another, which it calls outside runs that want their prints logged."""

    __slots__ = ("_below",)

    def __init__(self, below: Callable[..., None]) -> None:
        self._below = below

    def __call__(
        self,
        *values: object,
        sep: str | None = " ",
        end: str | None = "\n",
        file: Any = None,
        flush: bool = False,
    ) -> None:
        is_output = file is None or file is sys.stdout or file is sys.stderr
        logger = _prints_go_to() if is_output else None
        if logger is None:
            self._below(*values, sep=sep, end=end, file=file, flush=flush)
        else:
            text = (" " if sep is None else sep).join(map(str, values))
            logger.info("%s", text, stacklevel=2)  # where the print stands

    def __reduce__(self) -> Any:
        return _print_there, ()


def _print_there() -> Callable[..., None]:
    """What a pickled `print` is where it is loaded."""
    return builtins.print


def _prints_go_to() -> RunLogger | None:
    call = CALL.get()
    wanted = call.task.log_prints if call is not None else None
    if wanted is None:
        scope = SCOPE.get()
        flow_run = scope.flow_run if scope is not None else None
        wanted = flow_run is not None and flow_run.log_prints
    return get_run_logger() if wanted else None
