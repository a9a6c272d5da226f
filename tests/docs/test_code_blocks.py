"""Runs the documentation: what a page shows is what happens.

* The ```python blocks of a page run in order, as one script in a fresh process and an empty directory.
* `# prints: 42` at the end of a line in a block means that the script prints a line `42`, in the order of these.
* In ```bash, ```sh and ```console blocks, the `shoal …` commands run (also behind `$`, `uv run`, `.venv/bin/` and `… &&`).
* `<!-- test: skip REASON -->` on the last line of text before a block leaves that block out. `<!-- test: untyped REASON -->`
  says that type checkers find an error in it: see `test_code_types.py`.
* `<!-- test: file NAME -->` there has the commands of the page find the block as that file.
* A page's reader may have saved files beside the script: see `SAVED`.
* A page with functions `test_…` is run by pytest as well.
* What a page speaks of and a test does not have, such as clusters elsewhere, has stand-ins: see `STAND_INS`. Pages on
  Ray share a cluster.

The script is the page with all other lines blanked, so that a traceback's line numbers are the page's.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.docs import dask_clusters, ray_clusters
from tests.ray.clusters import STARTS_WITHIN

if TYPE_CHECKING:
    from tests.ray.clusters import Head

ROOT = Path(__file__).parents[2]

#: Seconds for the script of one page, and for one command: below the limit of a test, so that its output is shown.
TIMEOUT = 50
#: The same for a page on Ray, which begins anew several times; it takes half a minute on a busy machine.
TIMEOUT_ON_RAY = 110
#: And for one whose packages are being compiled, on a busy machine.
TIMEOUT_OF_LARGE = 110

FENCE = re.compile(
    r'^(?P<indent> *)(?P<fence>```+|~~~+) *\{?\.?(?P<language>\w*)( +title="(?P<title>[^"]*)")?'
)
MARK = re.compile(r"<!-- test: (?P<what>\w+)(?P<said>.*?)-->")
TESTS = re.compile(r"^def test_", re.MULTILINE)
PRINTS = re.compile(r"# prints: (.*\S)")
COMMAND = re.compile(r"(?:\$ )?(?:uv run |\.venv/bin/)?(?P<command>shoal\b.*)")


#: By page, what gets the directory that its script is to run in ready, and says what to replace in the script.
STAND_INS: dict[str, Callable[[Path], AbstractContextManager[dict[str, str]]]] = {
    "docs/dask.md": dask_clusters.stand_ins,
}

#: By page, the files that its reader has saved by the time that its script runs.
SAVED: dict[str, list[str]] = {"docs/writing-a-runner.md": ["examples/subprocess_runner.py"]}
#: By page, what it needs that Shoal does not.
NEEDS = {
    "docs/gallery/images.md": "PIL",
    "docs/gallery/pandas.md": "pandas",
    "docs/gallery/scikit-learn.md": "sklearn",
    "docs/how-to/blas-threads.md": "threadpoolctl",
}
#: Pages whose packages take seconds to import, in each worker.
LARGE = {"docs/gallery/pandas.md", "docs/gallery/scikit-learn.md"}
#: Pages that a reader sees first: the others are slow.
FIRST = {"README.md", "docs/index.md", "docs/first-steps.md"}
#: Commands that take seconds of a processor: this one reads the whole standard library.
LONG = {"shoal demo"}


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        language: as the page says.
        code: what is in it.
        line: where on the page the code begins, from 1.
        title: what the page shows above it.
        file: what file it is for the commands of the page.
        untyped: whether type checkers find an error in it.
    """

    language: str
    code: str
    line: int
    title: str | None = None
    file: str | None = None
    untyped: bool = False


def pages() -> list[str]:
    """Every page of documentation, relative to the root."""
    found = [ROOT / "README.md", *ROOT.glob("packages/*/README.md"), *ROOT.glob("docs/**/*.md")]
    return [str(page.relative_to(ROOT)) for page in sorted(found)]


@cache
def blocks_of(page: str, *, skipped: bool = False) -> list[Block]:
    """The blocks of a page that are to be run, in order; or all, with those that are skipped."""
    blocks: list[Block] = []
    lines = (ROOT / page).read_text().splitlines()
    number, text = 0, ""  # the next line, and the last one outside blocks that says anything
    while number < len(lines):
        line, number = lines[number], number + 1
        if not (opening := FENCE.match(line)):
            text = line.strip() or text
            continue
        start = number
        while number < len(lines) and lines[number].strip() != opening["fence"]:
            number += 1
        if number == len(lines):
            raise ValueError(f"{page}:{start}: this block is never closed")
        mark = MARK.search(text)
        what, said = (mark["what"], mark["said"].strip()) if mark else (None, "")
        if mark and (what not in ("skip", "untyped", "file") or not said):
            raise ValueError(
                f"{page}:{start}: say 'skip' or 'untyped' and why, or 'file' and its name"
            )
        if skipped or what != "skip":
            # Only as far as the fence is indented: a block may hold a part of a class.
            code = "\n".join(line.removeprefix(opening["indent"]) for line in lines[start:number])
            file = said if what == "file" else None
            language, title = opening["language"], opening["title"]
            blocks.append(Block(language, code, start + 1, title, file, what == "untyped"))
        number, text = number + 1, ""
    return blocks


def script_of(page: str) -> str:
    """The page's Python blocks, each on the lines that it has on the page."""
    script: list[str] = []
    for block in blocks_of(page):
        if block.language in ("python", "py"):
            script += [""] * (block.line - 1 - len(script))
            script += block.code.splitlines()
    return "\n".join(script) + "\n" if script else ""


def commands_of(page: str) -> list[str]:
    """The `shoal` commands that the page's shell blocks show."""
    return [
        match["command"]
        for block in blocks_of(page)
        if block.language in ("bash", "sh", "console")
        for line in block.code.splitlines()
        for part in line.split("&&")
        if (match := COMMAND.match(part.strip()))
    ]


def run(command: list[str], directory: Path, what: str, seconds: float = TIMEOUT) -> str:
    """Runs a command with a home and a working directory of its own; fails with its output."""
    environment = os.environ | {"HOME": str(directory), "PYTHONIOENCODING": "utf-8"}
    # What a page prints and what it logs share a pipe; buffered, each print stays whole.
    environment.pop("PYTHONUNBUFFERED", None)
    for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME", "SHOAL_HOME", "SHOAL_LIMITS_URL"):
        environment.pop(name, None)
    try:
        done = subprocess.run(
            command,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds,
            encoding="utf-8",
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        output = error.output or b""  # bytes, whatever the encoding asked for
        text = output.decode(errors="replace") if isinstance(output, bytes) else output
        pytest.fail(f"{what} still ran after {seconds} s:\n{text}", pytrace=False)
    if done.returncode != 0:
        pytest.fail(f"{what} ended with {done.returncode}:\n{done.stdout}", pytrace=False)
    return done.stdout


def run_script(
    page: str, directory: Path, replacements: dict[str, str], seconds: float = TIMEOUT
) -> None:
    """Runs the script of a page; fails if it does not print what it says."""
    source = script_of(page)
    for name, stand_in in replacements.items():
        source = source.replace(name, stand_in)
    # A name of its own: a script `dask.py` would be found where Dask is looked for.
    script = directory / f"page_{Path(page).stem}.py"
    script.write_text(source)
    for saved in SAVED.get(page, ()):
        shutil.copy(ROOT / saved, directory)
    what = f"{page} (line numbers are the page's)"
    output = run([sys.executable, str(script)], directory, what, seconds)

    printed = iter(output.splitlines())
    for promise in PRINTS.findall(source):
        if promise not in printed:
            pytest.fail(f"{page} does not print {promise!r}, but:\n{output}", pytrace=False)


SCRIPTS = [page for page in pages() if script_of(page)]
ON_RAY = [page for page in SCRIPTS if "RayTaskRunner" in script_of(page)]


def skip_without_what_it_needs(page: str) -> None:
    package = NEEDS.get(page)
    if package and not importlib.util.find_spec(package):
        pytest.skip(f"{package} is not installed: `uv sync --group gallery`")


@pytest.fixture
def bytecode(page: str, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is large to import is compiled once, and not in each worker, also where Python is told to write no bytecode."""
    if page in LARGE and pytestconfig.cache is not None:
        monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(pytestconfig.cache.mkdir("bytecode")))


@pytest.mark.usefixtures("bytecode")
@pytest.mark.timeout(TIMEOUT_OF_LARGE + 10)
@pytest.mark.parametrize(
    "page",
    [
        page if page in FIRST else pytest.param(page, marks=pytest.mark.slow)
        for page in SCRIPTS
        if page not in ON_RAY
    ],
)
def test_python_blocks_run(page: str, tmp_path: Path) -> None:
    skip_without_what_it_needs(page)
    prepare = STAND_INS.get(page, lambda directory: nullcontext({}))
    with prepare(tmp_path) as replacements:
        run_script(page, tmp_path, replacements, TIMEOUT_OF_LARGE if page in LARGE else TIMEOUT)


@pytest.mark.slow
@pytest.mark.may_leave("processes", reason="a cluster keeps its workers for later")
@pytest.mark.timeout(TIMEOUT_ON_RAY + 2 * STARTS_WITHIN + 10)
@pytest.mark.parametrize("page", ON_RAY)
def test_python_blocks_run_on_ray(page: str, tmp_path: Path, ray_cluster: Head) -> None:
    with ray_clusters.stand_ins(ray_cluster) as replacements:
        run_script(page, tmp_path, replacements, TIMEOUT_ON_RAY)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in SCRIPTS if TESTS.search(script_of(page))])
def test_tests_of_a_page_pass(page: str, tmp_path: Path) -> None:
    script = tmp_path / "test_page.py"
    script.write_text(script_of(page))
    pytest_alone = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", "."]
    run([*pytest_alone, str(script)], tmp_path, f"{page} under pytest")


@pytest.mark.parametrize(
    ("page", "command"),
    [
        (page, command)
        if page in FIRST and command not in LONG
        else pytest.param(page, command, marks=pytest.mark.slow)
        for page in pages()
        for command in commands_of(page)
    ],
)
def test_commands_run(page: str, command: str, tmp_path: Path) -> None:
    for block in blocks_of(page):
        if block.file:
            (tmp_path / block.file).write_text(block.code)
    program, *arguments = shlex.split(command, comments=True)
    installed = shutil.which(program, path=Path(sys.executable).parent)
    assert installed, f"{program} is not installed beside {sys.executable}"
    run([installed, *arguments], tmp_path, f"{page}: {command}")


@pytest.mark.parametrize(("page", "saved"), [(p, saved) for p in SAVED for saved in SAVED[p]])
def test_a_page_shows_all_of_a_file(page: str, saved: str) -> None:
    """In pieces, in order, with the file's name as their title."""
    name = Path(saved).name
    pieces = [block.code for block in blocks_of(page, skipped=True) if block.title == name]
    shown = [line for piece in pieces for line in piece.splitlines() if line.strip()]
    there = [line for line in (ROOT / saved).read_text().splitlines() if line.strip()]
    assert shown == there
