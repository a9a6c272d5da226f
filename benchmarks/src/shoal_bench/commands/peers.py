"""`--peer NAME=/path/to/python`: contestants that live in an environment of their own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

from shoal_bench.commands.files import Refused
from shoal_bench.contestants import known
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
        UnknownContestant: nobody has this name.
    """
    found = {}
    for text in given:
        name, separator, path = text.partition("=")
        if not separator or not path:
            raise Refused(f"--peer {text}: NAME=/path/to/python is needed")
        # Not resolved: the python of an environment is a link to that of the system, and knows itself by its path.
        found[name] = Path(os.path.abspath(path))
        _check(name, found[name])
    return found


def _check(name: str, python: Path) -> None:
    spec = known().get(name)
    module = spec.needs if spec is not None else None
    code = (
        "import sys; from importlib.util import find_spec; "
        f"print(sys.version_info >= (3, 11), {module!r} is None or find_spec({module!r}) is not None)"
    )
    try:
        done = subprocess.run(
            [python, "-c", code],
            env=clean_environment(os.environ),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        )
        is_recent, has_module = done.stdout.split()
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise Refused(f"{python} is no interpreter of Python ({error})") from error
    if is_recent != "True":
        raise Refused(f"{python} is older than Python 3.11")
    if has_module != "True":
        raise Refused(f"{python} has no {module}; `{python} -m pip install {module}` installs it")
