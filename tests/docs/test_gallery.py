"""The gallery: a page shows the script that it names; on Dask and Ray a script does the same.

That the scripts work is tested where the pages are: `test_code_blocks`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.docs import ray_clusters
from tests.docs.test_code_blocks import (
    LARGE,
    bytecode,  # noqa: F401 - a fixture
    run_script,
    script_of,
    skip_without_what_it_needs,
)
from tests.ray.clusters import STARTS_WITHIN

if TYPE_CHECKING:
    from tests.ray.clusters import Head

#: For one script: its workers import what they need on a busy machine.
SECONDS = 110

ROOT = Path(__file__).parents[2]
PAGES = [
    f"docs/gallery/{path.name}"
    for path in sorted((ROOT / "docs/gallery").glob("*.md"))
    if path.name != "index.md"
]
#: Requests to a server in the script's own process, whose counter and whose tasks share memory.
IN_ONE_PROCESS = "docs/gallery/api.md"
ELSEWHERE = [
    pytest.param(page, marks=[pytest.mark.exhaustive] if page in LARGE else [])
    for page in PAGES
    if page != IN_ONE_PROCESS
]
RUNNER = re.compile(r'"(threads|processes)(:\d+)?"')


def on(runner: str, page: str) -> dict[str, str]:
    """What to replace in a page's script, so that its flows run on that runner."""
    return {found[0]: f'"{runner}"' for found in RUNNER.finditer(script_of(page))}


@pytest.mark.parametrize("page", PAGES)
def test_the_page_shows_its_script(page: str) -> None:
    name = re.search(r"`(examples/\w+\.py)`", (ROOT / page).read_text())
    assert name, "it names no script"
    script = (ROOT / name[1]).read_text()
    assert script_of(page).strip() == script.strip(), f"copy {name[1]} into the page"


def test_each_script_is_short_and_fits() -> None:
    for page in PAGES:
        lines = script_of(page).strip().splitlines()
        assert len(lines) <= 80
        assert max(map(len, lines)) <= 76, "the reader would have to scroll"


@pytest.mark.slow
@pytest.mark.usefixtures("bytecode")
@pytest.mark.timeout(SECONDS + 10)
@pytest.mark.parametrize("page", ELSEWHERE)
def test_on_dask(page: str, tmp_path: Path) -> None:
    skip_without_what_it_needs(page)
    run_script(page, tmp_path, on("dask:2", page), SECONDS)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.may_leave("processes", reason="a cluster keeps its workers for later")
@pytest.mark.usefixtures("bytecode")
@pytest.mark.timeout(SECONDS + 2 * STARTS_WITHIN + 10)
@pytest.mark.parametrize("page", ELSEWHERE)
def test_on_ray(page: str, tmp_path: Path, ray_cluster: Head) -> None:
    skip_without_what_it_needs(page)
    with ray_clusters.stand_ins(ray_cluster):
        run_script(page, tmp_path, on("ray", page), SECONDS)
