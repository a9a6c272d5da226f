"""How to install, as the pages say it, works with any Python: also one that takes no packages (PEP 668), as Debian's."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

from tests.docs.test_code_blocks import pages

ROOT = Path(__file__).parents[2]

#: A line of a shell block that installs something.
INSTALLS = re.compile(r"^\$ (.*\bpip install\b.*)$", re.MULTILINE)

#: Asks a Python whether it is new enough, takes no packages, and can make an environment that does.
ASK = """
import sys, sysconfig, pathlib, importlib.util
managed = pathlib.Path(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED").exists()
sys.exit(not (sys.version_info >= (3, 11) and managed and importlib.util.find_spec("ensurepip")))
"""


def installing() -> dict[str, list[str]]:
    """The lines that install, by page."""
    texts = {page: (ROOT / page).read_text() for page in [*pages(), "CONTRIBUTING.md"]}
    return {page: lines for page, text in texts.items() if (lines := INSTALLS.findall(text))}


@pytest.mark.parametrize("page", installing())
def test_an_environment_is_made_and_its_own_pip_is_run(page: str) -> None:
    for line in installing()[page]:
        assert re.match(r"python3 -m venv (\.venv(?:-uv)?) && \1/bin/pip install ", line), line


def test_the_readme_is_among_these_pages() -> None:
    assert "README.md" in installing()


@cache
def managed_python() -> str | None:
    """A Python of this machine that takes no packages."""
    for path in os.get_exec_path():
        python = shutil.which("python3", path=path)
        if python and subprocess.run([python, "-c", ASK], check=False).returncode == 0:
            return python
    return None


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_readmes_line_works_with_a_python_that_takes_no_packages(tmp_path: Path) -> None:
    python = managed_python()
    if python is None:
        pytest.skip("no Python here is externally managed and can make environments")
    packages = shutil.ignore_patterns("__pycache__", "build", "dist")
    shutil.copytree(ROOT / "packages", tmp_path / "packages", ignore=packages)
    environment = {**os.environ, "PATH": f"{Path(python).parent}:/usr/bin:/bin"}
    for name in ("VIRTUAL_ENV", "PYTHONPATH"):
        environment.pop(name, None)
    (line,) = (line for line in installing()["README.md"] if "./packages" in line)
    for command in (line, ".venv/bin/shoal run packages/flow.py"):
        (tmp_path / "packages/flow.py").write_text(
            "from shoal import flow\n@flow\ndef only(): return 'it works'\n"
        )
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "it works\n"
