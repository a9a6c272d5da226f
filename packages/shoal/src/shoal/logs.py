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
from contextlib import ContextDecorator
from typing import TYPE_CHECKING, Any

from shoal import settings
from shoal.context import CALL, HERE, SCOPE, TaskRunContext
from shoal.exceptions import MissingContextError
from shoal.names import ENTROPY, run_uuid
from shoal.safely import in_words, traceback_of

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    from shoal.calls import Call
    from shoal.context import FlowLabel, FlowRun, FlowRunContext

__all__ = [
    "RunLogger",
    "burst_facts",
    "disable_run_logger",
    "flow_run_logger",
    "get_logger",
    "get_run_logger",
    "in_plain_text",
    "library_logger",
    "log_failure",
    "log_prints_of",
    "log_to_stderr",
    "logger_of",
    "prints_are_logged",
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


def in_plain_text(record: logging.LogRecord) -> logging.LogRecord:
    """The record, with nothing of the user's in it any more but text: it can be pickled."""
    record.msg = record.getMessage()
    record.args = None
    if record.exc_info:
        record.exc_text = record.exc_text or logging.Formatter().formatException(record.exc_info)
        record.exc_info = None
    return record


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
        if not _others(None):
            handler = _StderrHandler()
            handler.setFormatter(_Formatter())
            _ROOT.addHandler(handler)
            # Were logging set up later, lines would appear twice; those handlers take over then.
            handler.addFilter(lambda record: not _others(handler))
        prints_are_logged(settings.log_prints())
        _is_set_up = True


def _others(own: logging.Handler | None) -> bool:
    """Whether there are handlers besides ours that show anything."""
    return bool(logging.getLogger().handlers) or any(
        handler is not own and not getattr(handler, "observes", False)  # it shows nothing
        for handler in _ROOT.handlers
    )


if TYPE_CHECKING:
    _Adapter = logging.LoggerAdapter[logging.Logger]
else:
    _Adapter = logging.LoggerAdapter


class RunLogger(_Adapter):
    """A logger that knows its run; `extra` tells what records carry.

    Interrupts of the run are kept out while it logs: one raised inside `logging` could leave a handler locked.
    """

    def __init__(
        self,
        logger: logging.Logger,
        facts: Callable[[], dict[str, Any]],
        given: dict[str, Any] | None = None,
    ) -> None:
        self.logger = logger
        self._facts = facts
        self._given = given
        self._extra: dict[str, Any] | None = None

    @property
    def extra(self) -> dict[str, Any]:  # type: ignore[override]
        """What records carry, worked out for the first.

        `run_label`, `run_name` and `run_id` of the run; `flow_run_name`, `flow_run_id` and `flow_name`, which are
        `None` outside a flow; of a task run also `task_run_name`, `task_run_id` and `task_name`; and what
        `get_run_logger` was given.
        """
        extra = self._extra
        if extra is None:
            extra = self._extra = {**self._facts(), **(self._given or {})}
        return extra

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**self.extra, **(kwargs.get("extra") or {})}
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


def task_run_logger(
    task_name: str,
    number: int,
    name: str,
    flow_run: FlowLabel | None,
    given: dict[str, Any] | None = None,
) -> RunLogger:
    """The logger of a task run.

    Args:
        task_name: of its task.
        number: of the run.
        name: of the run.
        flow_run: the flow run around it.
        given: what else records are to carry.
    """
    entropy = ENTROPY.get()  # whoever logs may be a thread that knows nothing of the run

    def facts() -> dict[str, Any]:
        run_id = run_uuid(number, entropy)
        return {
            "run_label": f"Task run {name!r}",
            "run_name": name,
            "run_id": run_id,
            "task_name": task_name,
            "task_run_name": name,
            "task_run_id": run_id,
            **_facts_of(flow_run, entropy),
        }

    return RunLogger(_TASK_RUNS, facts, given)


def burst_facts(task_name: str, flow_run: FlowLabel | None) -> dict[str, Any]:
    """What the record about many runs of a task carries: the same attributes as those of one."""
    of_none = dict.fromkeys(("run_name", "run_id", "task_run_name", "task_run_id"))
    label = f"Task {task_name!r}"
    return {**of_none, "run_label": label, "task_name": task_name, **_facts_of(flow_run, None)}


def flow_run_logger(run: FlowRun, given: dict[str, Any] | None = None) -> RunLogger:
    """The logger of a flow run."""
    entropy = ENTROPY.get()
    label = run.label

    def facts() -> dict[str, Any]:
        facts = _facts_of(label, entropy)
        return {
            "run_label": f"Flow run {label.name!r}",
            "run_name": label.name,
            "run_id": facts["flow_run_id"],
            **facts,
        }

    return RunLogger(_FLOW_RUNS, facts, given)


def _facts_of(flow_run: FlowLabel | None, entropy: int | None) -> dict[str, Any]:
    if flow_run is None:
        return {"flow_run_name": None, "flow_run_id": None, "flow_name": None}
    return {
        "flow_run_name": flow_run.name,
        "flow_run_id": run_uuid(flow_run.number, entropy),
        "flow_name": flow_run.flow_name,
    }


def logger_of(call: Call, given: dict[str, Any] | None = None) -> RunLogger:
    """The logger of a call's run."""
    flow_run = call.scope.flow_run if call.scope is not None else None
    label = flow_run.label if flow_run is not None else None
    return task_run_logger(call.task.name, call.number, call.run_name(), label, given)


def get_run_logger(
    context: TaskRunContext | FlowRunContext | None = None, **extra: Any
) -> RunLogger:
    """The logger of the run around the caller: the task run, or else the flow run.

    Args:
        context: what `get_run_context` gave, for the logger of that run.
        extra: attributes that records are to carry besides those of the run.

    Raises:
        MissingContextError: there is none.

    Examples:
        >>> @task
        ... def load(path):
        ...     get_run_logger().info("reading %s", path)
    """
    if isinstance(context, TaskRunContext):
        return logger_of(context.call, extra)
    if context is not None:
        return flow_run_logger(context.flow_run, extra)
    call = CALL.get()
    if call is not None:
        return logger_of(call, extra)
    scope = SCOPE.get()
    if scope is None or scope.flow_run is None:
        if _FLOW_RUNS.disabled:
            return RunLogger(_FLOW_RUNS, dict, extra)
        raise MissingContextError(task_name=None, what="get_run_logger()")
    return flow_run_logger(scope.flow_run, extra)


def get_logger(name: str | None = None) -> logging.Logger:
    """The logger `shoal`, or the one of that name beneath it, whose lines come home from workers."""
    if name is None or name == "shoal":
        return _ROOT
    return logging.getLogger(name if name.startswith("shoal.") else f"shoal.{name}")


class disable_run_logger(ContextDecorator):
    """Inside, the loggers of runs say nothing, and `get_run_logger` works outside runs too: for tests of functions.

    It holds for the whole process, and not for workers.

    Examples:
        >>> with disable_run_logger():
        ...     load.fn("orders.csv")
    """

    _lock = threading.Lock()
    _inside = 0

    def __enter__(self) -> None:
        self._add(1)

    def __exit__(self, *_: object) -> None:
        self._add(-1)

    @classmethod
    def _add(cls, count: int) -> None:
        with cls._lock:
            disable_run_logger._inside += count
            _TASK_RUNS.disabled = _FLOW_RUNS.disabled = disable_run_logger._inside > 0


# ---------------------------------------------------------------------- prints


#: Whether prints are logged where no task and no flow says; a worker is told by the driver.
_by_default = False


def prints_are_logged(by_default: bool) -> bool:
    """Says whether prints are logged where no task and no flow says, and gives that back."""
    global _by_default
    _by_default = by_default
    log_prints_of(by_default)
    return by_default


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
    call, scope = CALL.get(), SCOPE.get()
    wanted = call.task.log_prints if call is not None else None
    if wanted is None:
        flow_run = scope.flow_run if scope is not None else None
        wanted = flow_run.log_prints if flow_run is not None else _by_default
    if not wanted or (call is None and (scope is None or scope.flow_run is None)):
        return None
    return get_run_logger()
