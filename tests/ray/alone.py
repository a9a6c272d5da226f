"""Test bodies that need a process of their own: a process has one Ray at a time, and the session's is that of others."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ROOT = Path(__file__).parents[2]


def without_ray(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables without those of a Ray that this process has: its cluster, and that it asks for tokens."""
    return {k: v for k, v in environment.items() if k not in ("RAY_ADDRESS", "RAY_AUTH_MODE")}


def alone(
    body: Callable[..., None], *args: str, timeout: float = 150.0, **environment: str | None
) -> tuple[str, str]:
    """Calls a function of a module of tests in a new process.

    Args:
        body: the function; that it fails fails the test.
        *args: for it.
        timeout: in seconds; Ray may start several times in it, beside other tests.
        **environment: variables that differ from those here; `None` takes one away.

    Returns:
        What it has written to its standard output and to its standard error.
    """
    variables = without_ray(os.environ)
    # Under `uv run` Ray would send the whole workspace to a cluster that is joined.
    variables["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    for name, value in environment.items():
        variables.pop(name, None)
        if value is not None:
            variables[name] = value
    call = f"from {body.__module__} import {body.__name__} as body; body(*{args!r})"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {call}"],
        env=variables,
        timeout=timeout,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = f"it ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        pytest.fail(f"in its own process {said}", pytrace=False)
    return done.stdout, done.stderr


def overheard() -> list[str]:
    """What is written to the standard streams from now on; it goes there as well."""
    said: list[str] = []

    def overhear(write: Callable[[str], int], text: str) -> int:
        said.append(text)
        return write(text)

    for stream in (sys.stdout, sys.stderr):
        vars(stream)["write"] = partial(overhear, stream.write)
    return said
