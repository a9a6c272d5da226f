"""The commands by name, and how each of them ends.

Exit codes: 0 it worked, 1 the flow failed (or, of `doctor`, something is wrong), 2 the command line cannot be carried out as typed, 130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter, UnusedCliTokensError

from shoal import __version__
from shoal.cli.cache import cache
from shoal.cli.concurrency_limit import concurrency_limit
from shoal.cli.console import UsageError, print_error
from shoal.cli.demo_command import demo
from shoal.cli.doctor import doctor
from shoal.cli.global_concurrency_limit import global_concurrency_limit
from shoal.cli.report import report
from shoal.cli.resume import resume
from shoal.cli.run import run
from shoal.cli.runners import runners
from shoal.cli.runs import runs
from shoal.exceptions import ShoalError
from shoal.spelling import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["PLUGINS", "invoke", "make_app"]

#: The entry-point group of commands in other packages: a name, and a cyclopts `App` of that name or a function.
PLUGINS = "shoal.commands"

_COMMANDS: dict[str, Callable[..., Any]] = {
    "run": run,
    "resume": resume,
    "runs": runs,
    "report": report,
    "runners": runners,
    "concurrency-limit": concurrency_limit,
    "global-concurrency-limit": global_concurrency_limit,
    "cache": cache,
    "demo": demo,
    "doctor": doctor,
}

_ALIASES = {"global-concurrency-limit": "gcl"}

#: Any arguments at all, options included.
_Anything = Annotated[str, Parameter(allow_leading_hyphen=True, show=False)]

_HELP = """Run flows of tasks, measure them, and see what they can run on.

`shoal COMMAND --help` tells more about a command.
"""


def make_app(*, plugins: bool = True) -> App:
    """The command line.

    Args:
        plugins: whether to load the commands of other packages, which may take its time.
    """
    app = App(name="shoal", help=_HELP, version=f"shoal {__version__}", help_format="markdown")
    for name, command in _COMMANDS.items():
        app.command(command, name=sorted({name, name.replace("-", "_")}), alias=_ALIASES.get(name))
    app.command(_completion_of(app), name="--install-completion")
    if plugins:
        _add_plugins(app)
    return app


def _completion_of(app: App) -> Callable[..., None]:
    """What installs completion. As `register_install_completion_command`, which takes its time to import for every command."""

    def install(*, shell: Literal["zsh", "bash", "fish"] | None = None) -> None:
        """Have the shell complete commands, options and runners.

        Args:
            shell: which one; by default that in use.
        """
        from cyclopts.completion.install import create_install_completion_command

        create_install_completion_command(app.install_completion, True)(shell=shell)

    return install


def _add_plugins(app: App) -> None:
    from importlib.metadata import entry_points

    found = {entry.name: entry for entry in entry_points(group=PLUGINS)}
    for name, entry in found.items():
        try:
            command = entry.load()
        except Exception as error:
            command = _broken(name, entry.value, error)
        app.command(command, name=name)
    if "bench" not in found:
        app.command(_bench_is_missing, name="bench")


def _broken(name: str, value: str, error: Exception) -> Callable[..., None]:
    def command(*arguments: _Anything) -> None:
        problem = f"{type(error).__name__}: {error}"
        raise UsageError(f"the command {name!r} cannot be loaded from {value!r}: {problem}")

    command.__doc__ = "(cannot be loaded)"
    return command


def _bench_is_missing(*arguments: _Anything) -> None:
    """Measure what a task costs beside the bare engines (package shoal-bench)."""
    raise UsageError(
        "the benchmarks are in the package shoal-bench, which is not installed. It comes with a clone of the "
        "repository: run `uv run shoal bench` there."
    )


def _is_ours(command: str) -> bool:
    return command.replace("_", "-") in _COMMANDS or command in _ALIASES.values()


def _about_unused(error: UnusedCliTokensError) -> str:
    """What was meant, where that can be told."""
    if "=" in str(error):
        return "A parameter of the flow is given as -p name=value."
    words = error.unused_tokens or []
    return did_you_mean(words[0], error.app) if words and error.app is not None else ""


def invoke(tokens: Sequence[str] | None = None) -> int:
    """Carries out one command line.

    Args:
        tokens: the arguments; by default those of the process.

    Returns:
        The exit code.
    """
    tokens = sys.argv[1:] if tokens is None else tokens
    try:
        outcome = make_app(plugins=not tokens or not _is_ours(tokens[0]))(
            tokens,
            exit_on_error=False,
            print_error=False,
            result_action="return_value",
        )
        sys.stdout.flush()
    except (CycloptsError, UsageError, ShoalError) as error:
        if isinstance(error, UnusedCliTokensError):
            error.add_note(_about_unused(error))
        print_error(error)
        return 2
    except BrokenPipeError:
        # Who read our output has left, say `head`. What is still buffered must not fail again at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return outcome if isinstance(outcome, int) else 0
