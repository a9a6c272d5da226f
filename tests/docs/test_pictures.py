"""The drawn pictures: the committed files are what the script gives."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER = Path(__file__).parents[2] / "docs" / "pictures"
PICTURES: dict[str, Callable[[], str]] = runpy.run_path(str(FOLDER / "draw.py"))["PICTURES"]


def test_each_picture_is_drawn() -> None:
    assert sorted(PICTURES) == sorted(path.name for path in FOLDER.glob("*.svg"))


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_as_it_is_drawn(name: str) -> None:
    committed = (FOLDER / name).read_text(encoding="utf-8")
    assert committed == PICTURES[name](), "`nox -s pictures` draws it anew"
    assert "(prefers-color-scheme:dark)" in committed
    assert ElementTree.fromstring(committed).findtext("{http://www.w3.org/2000/svg}title")
