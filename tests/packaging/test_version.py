"""The packages have one version; what a package's page shows; `nox -s version`."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ["shoal", "shoal-dask", "shoal-ray"]


def project_of(package: str, root: Path = ROOT) -> dict[str, Any]:
    text = (root / "packages" / package / "pyproject.toml").read_text()
    project: dict[str, Any] = tomllib.loads(text)["project"]
    return project


def versions_in(root: Path) -> set[str]:
    """The versions of ours that the packages have, and that they want of each other."""
    found = set()
    for package in PACKAGES:
        project = project_of(package, root)
        extras = project.get("optional-dependencies", {}).values()
        wanted = [*project["dependencies"], *(line for extra in extras for line in extra)]
        ours = [line for line in wanted if line.startswith("shoal")]
        assert ours, f"{package} wants none of the others"
        found |= {project["version"], *(line.partition("==")[2] for line in ours)}
    return found


def test_the_packages_have_one_version_and_want_the_others_in_it() -> None:
    assert len(versions_in(ROOT)) == 1, "`nox -s version` writes that of the core everywhere"


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_says_the_version_that_is_installed(package: str) -> None:
    module = import_module(package.replace("-", "_"))
    assert module.__version__ == metadata.version(package)


@pytest.mark.parametrize(("asked", "written"), [(["9.8.7rc1"], "9.8.7rc1"), ([], "5.0.0")])
def test_nox_writes_a_version_everywhere(tmp_path: Path, asked: list[str], written: str) -> None:
    for package in PACKAGES:
        folder = tmp_path / "packages" / package
        folder.mkdir(parents=True)
        shutil.copy(ROOT / "packages" / package / "pyproject.toml", folder)
    core = tmp_path / "packages" / "shoal" / "pyproject.toml"
    core.write_text(
        re.sub(r'^version = ".*"', 'version = "5.0.0"', core.read_text(), flags=re.MULTILINE)
    )
    shutil.copy(ROOT / "noxfile.py", tmp_path)
    command = [sys.executable, "-m", "nox", "--session", "version", "--", *asked]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=50
    )
    assert done.returncode == 0, done.stderr
    assert versions_in(tmp_path) == {written}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_introduces_itself(package: str) -> None:
    """Its README is its page on an index too, where a link to a file of the repository leads nowhere."""
    project = project_of(package)
    assert project["authors"] == [{"name": "The Shoal developers"}]
    assert {"shoal", "tasks", "workflow"} <= {package, *project["keywords"]}
    page = (ROOT / "packages" / package / project["readme"]).read_text()
    links = re.findall(r"\]\(([^)]*)\)|^\[.*\]: *(\S+)", page, flags=re.MULTILINE)
    assert [link for pair in links for link in pair if link and "://" not in link] == []
    for said in ("There are no releases yet", f"./packages/{package}", "Apache 2.0"):
        assert said in page
