"""`--peer NAME=/path/to/python`: contestants that live in an environment of their own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from shoal_bench.commands.files import Refused
from shoal_bench.contestants import ContestantSpec, UnknownName, known
from shoal_bench.fresh_process import clean_environment

__all__ = ["interpreters"]

#: Seconds that an interpreter may take to say whether it has a module.
PATIENCE = 30


def interpreters(given: Iterable[str]) -> dict[str, Path]:
    """The interpreters of peers, by contestant.

    Args:
        given: `NAME=/path/to/python`, each.

    Raises:
        Refused: something is not of this form, is no interpreter of Python 3.11 or later, or does not have the peer.
        UnknownName: nobody has this name.
    """
    found = {}
    for text in given:
        name, separator, path = text.partition("=")
        if not separator or not path:
            raise Refused(f"--peer {text}: NAME=/path/to/python is needed")
        if name not in known():
            raise UnknownName("contestant", name, known())
        # Not resolved: the python of an environment is a link to that of the system, and knows itself by its path.
        found[name] = Path(os.path.abspath(path))
        _check(known()[name], found[name])
    return found


def _check(spec: ContestantSpec, python: Path) -> None:
    """Refuses an interpreter that does not have what the contestant needs."""
    needed = [*(["shoal"] if spec.ours else []), *([spec.needs] if spec.needs else [])]
    is_recent, *are_there = _answers_of(python, needed)
    if not is_recent:
        raise Refused(f"{python} is older than Python 3.11")
    for module, is_there in zip(needed, are_there, strict=True):
        if not is_there:
            package = f"./packages/{module.replace('_', '-')}" if spec.ours else module
            raise Refused(
                f"{python} has no {module}; `{python} -m pip install {package}` installs it"
            )


def _answers_of(python: Path, modules: Sequence[str]) -> list[bool]:
    """Whether an interpreter is recent enough, and for each module whether it has it.

    Raises:
        Refused: it does not answer as an interpreter does.
    """
    code = (
        "import sys; from importlib.util import find_spec; "
        f"print(*[int(sys.version_info >= (3, 11)), *(int(find_spec(m) is not None) for m in {modules!r})])"
    )
    try:
        done = subprocess.run(
            [python, "-c", code],
            env=clean_environment(os.environ),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        problem = f"it did not answer within {PATIENCE} s"
    except OSError as error:
        problem = str(error.strerror)
    else:
        answers = done.stdout.split()
        if done.returncode == 0 and len(answers) == 1 + len(modules) and {"0", "1"} >= {*answers}:
            return [answer == "1" for answer in answers]
        said = (done.stderr or done.stdout).strip().splitlines()
        problem = f"it ended with {done.returncode}" + (f": {said[-1][:200]}" if said else "")
    raise Refused(f"{python} is no interpreter of Python: {problem}")
