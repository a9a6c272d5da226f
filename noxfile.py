"""Everything that is run on this repository, one session each. `nox -l` lists them.

Each session has an environment of its own, made by uv from the workspace; with `--no-venv`, sessions use the one that
nox runs in.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import nox

PYTHONS = ["3.11", "3.12", "3.13"]
OLDEST = PYTHONS[0]
PACKAGES = ["shoal", "shoal-dask", "shoal-ray"]  # all that are published
# In a pyproject.toml: a package's own version, and the version of ours that it wants.
VERSION = re.compile(r"""(^version = "|"shoal[a-z-]*==)([^"]*)(?=")""", re.MULTILINE)

nox.needs_version = ">=2025.10.14"
nox.options.default_venv_backend = "uv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False  # skipped, and listed as skipped at the end
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "typing", "tests"]


def reach_pyenv_versions() -> None:
    """Lets `python3.12` and so on run where pyenv has them: by itself it runs the chosen version only."""
    if not shutil.which("pyenv"):
        return
    listed = subprocess.run(
        ["pyenv", "versions", "--bare"], capture_output=True, text=True, check=False
    ).stdout.split()
    chosen = os.environ.get("PYENV_VERSION", "").split(":")
    known = [version for version in listed if version.rpartition(".")[0] in PYTHONS]
    os.environ["PYENV_VERSION"] = ":".join(filter(None, dict.fromkeys(chosen + known)))


reach_pyenv_versions()


def install(session: nox.Session, *groups: str) -> None:
    """Installs the packages of the workspace, as they are in the tree, and these dependency groups."""
    if session.venv_backend == "none":
        return
    session.run_install(
        "uv",
        "sync",
        "--quiet",
        "--no-default-groups",
        *(f"--group={group}" for group in groups),
        f"--python={session.virtualenv.location}",
        env={"UV_PROJECT_ENVIRONMENT": session.virtualenv.location},
    )


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The tests, on every supported Python that is installed."""
    install(session, "dev")
    session.run("pytest", "-m", "", *session.posargs)  # slow ones too


@nox.session(python=OLDEST)
def lowest(session: nox.Session) -> None:
    """The tests, with the lowest versions that the packages claim to work with."""
    install(session, "dev")
    packages = [f"--editable=packages/{name}" for name in PACKAGES]
    session.install("--upgrade", "--resolution=lowest-direct", *packages)
    session.run("pytest", "-m", "", *session.posargs)  # slow ones too


@nox.session(python=OLDEST)
def lint(session: nox.Session) -> None:
    """Style, likely bugs, and the direction of imports."""
    install(session, "dev")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("lint-imports")


@nox.session(python=OLDEST)
def typing(session: nox.Session) -> None:
    """The types, as mypy (strict) and pyright see them."""
    install(session, "dev")
    session.run("mypy")
    session.run("pyright", "--pythonpath", _python_of(session))


@nox.session(python=OLDEST)
def docs(session: nox.Session) -> None:
    """The documentation, into site/; a broken link or reference fails."""
    install(session, "docs")
    session.run("zensical", "build", "--strict", "--clean", *session.posargs)


@nox.session(python=False)
def pictures(session: nox.Session) -> None:
    """The pictures of the documentation, anew: the drawn ones, those of live progress and of a report, and charts and tables of
    what was measured.

    `nox -s pictures -- measure` measures anew before, which takes five minutes or more on a machine that should be quiet.
    """
    session.run("python", "docs/pictures/draw.py")
    session.run("python", "docs/pictures/live.py")
    session.run("python", "docs/pictures/report.py")
    if session.posargs == ["measure"]:
        session.run("shoal", "bench", "--json", "docs/pictures/bench.json")
    elif session.posargs:
        session.error(f"`measure` or nothing, not {' '.join(session.posargs)}")
    session.run("python", "docs/pictures/measured.py")


@nox.session(python=OLDEST)
def bench(session: nox.Session) -> None:
    """The short set, which has to hold the floors; or `shoal bench` with the arguments after `--`."""
    install(session)
    session.run("shoal", "bench", *(session.posargs or ["--floors", "benchmarks/floors.toml"]))


@nox.session(python=False)
def version(session: nox.Session) -> None:
    """Gives the packages a new version, as in `nox -s version -- 0.2.0`; without one, that of the core.

    They have one version, and each wants the others in exactly that one. Python's metadata cannot say "that of my
    neighbour": a hook of the build backend could, but each package would need its own copy of it, a rule to be found
    again in its source distribution, and a build before anybody can read a version. So it is written down, and a test
    compares all places. `__version__` is what is installed.
    """
    core = Path("packages/shoal/pyproject.toml").read_text()
    new = session.posargs[0] if session.posargs else VERSION.findall(core)[0][1]
    if not re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", new):
        session.error(f"{new!r} is no version such as 0.2.0 or 0.2.0rc1")
    for name in PACKAGES:
        path = Path("packages", name, "pyproject.toml")
        path.write_text(VERSION.sub(rf"\g<1>{new}", path.read_text()))


def _python_of(session: nox.Session) -> str:
    command = ["python", "-c", "import sys; print(sys.executable)"]
    return str(session.run(*command, silent=True)).strip()
