"""Each package says in its first comment what lives where."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: Packages with a list of their modules; those in `absent` stand for what is not there.
PACKAGES = [
    path.parent
    for path in sorted(ROOT.glob("packages/*/src/**/__init__.py"))
    if "absent" not in path.parts
]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_every_module_is_named_in_the_comment_of_its_package(package: Path) -> None:
    source = (package / "__init__.py").read_text(encoding="utf-8")
    comment = re.split(r"^(?:from|import|def|class) ", source, maxsplit=1, flags=re.MULTILINE)[0]
    named = set(re.findall(r"\w+", comment))
    modules = {path.stem for path in package.glob("*.py")} | {
        path.parent.name for path in package.glob("*/__init__.py")
    }
    left = modules - named - {"__init__", "__main__", "absent"}
    if "section_*.py" in comment:
        left = {module for module in left if not module.startswith("section_")}
    assert not left
