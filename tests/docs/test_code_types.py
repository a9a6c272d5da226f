"""Type-checks the documentation: what a page shows is what mypy and pyright let pass.

Each page is one module, as when it is run, and all are checked at once. README files pass `mypy --strict` as they
stand. The pages of `docs/` leave out annotations where these would be in the reader's way, in hooks and in the inside
of a runner; and what arithmetic or an untyped package gives may be returned as it is.

`<!-- test: untyped REASON -->` on the last line of text before a block says that it has an error for both checkers, or
for one of them; then it must have one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.docs.test_code_blocks import LARGE, SCRIPTS, blocks_of, script_of
from tests.typing import checkers
from tests.typing.checkers import Problem

pytestmark = [pytest.mark.slow, pytest.mark.timeout(checkers.TIMEOUT)]

MYPY = """
[mypy]
strict = true
namespace_packages = true
explicit_package_bases = true

[mypy-docs.*]
disallow_untyped_defs = false
disallow_incomplete_defs = false
disallow_untyped_calls = false
warn_return_any = false
disable_error_code = var-annotated

# Have no types.
[mypy-shoal_bench.*,pandas.*,sklearn.*,threadpoolctl.*]
ignore_missing_imports = true

# Does not mark what it exports, though its documentation imports it from there.
[mypy-dask.*]
implicit_reexport = true
"""
PYRIGHT = {"typeCheckingMode": "standard", "reportPrivateImportUsage": False}  # the same of Dask


def module_of(page: str) -> str:
    """The file of a page's script. Not named as the page is, or `dask.py` would be found where Dask is looked for."""
    path = Path(page.replace("-", "_"))
    return str(path.with_name(f"page_{path.stem}.py"))


MODULES = {module_of(page): page for page in SCRIPTS}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with the scripts of all pages, and the configuration for them."""
    for module, page in MODULES.items():
        path = tmp_path / module
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script_of(page))
    (tmp_path / "mypy.ini").write_text(MYPY)
    # Without stubs, pyright takes what pandas and scikit-learn return for more than they say it is.
    exclude = [module for module, page in MODULES.items() if page in LARGE]
    (tmp_path / "pyrightconfig.json").write_text(json.dumps({**PYRIGHT, "exclude": exclude}))
    return tmp_path


def unexpected(problems: Iterable[Problem]) -> list[Problem]:
    """What is found outside of the blocks that are to have errors, by the line of the page; and those without any."""
    expected = {
        (page, line): (page, block.line)
        for page in SCRIPTS
        for block in blocks_of(page)
        if block.untyped
        for line in range(block.line, block.line + block.code.count("\n") + 1)
    }
    missing, others = set(expected.values()), []
    for module, line, text in problems:
        page = MODULES[module]
        if (page, line) in expected:
            missing.discard(expected[page, line])
        else:
            others.append(Problem(page, line, text))
    return others + [Problem(page, line, "no error here") for page, line in sorted(missing)]


def test_python_blocks_are_typed(directory: Path) -> None:
    files = [directory / module for module in MODULES]
    looked_at = [directory / module for module, page in MODULES.items() if page not in LARGE]
    problems = checkers.mypy(directory, files) + checkers.pyright(directory, looked_at)
    assert not (found := unexpected(problems)), checkers.told(found)
