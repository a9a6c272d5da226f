"""The pictures: the drawn ones are what their script gives, and charts and tables are those of the record beside them.

A chart is not compared, because how wide its text is depends on the fonts of a machine.
"""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest
from shoal_bench.page.markdown import UnknownBlock, filled
from shoal_bench.page.sections import PICTURE, sections
from shoal_bench.record import Record, read

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parents[2] / "docs" / "pictures"
#: Taken of a run, by `live.py`, and another one each time.
TAKEN = "live.svg"
PICTURES: dict[str, Callable[[], str]] = runpy.run_path(str(FOLDER / "draw.py"))["PICTURES"]


def test_each_picture_is_drawn() -> None:
    assert sorted({*PICTURES, TAKEN}) == sorted(path.name for path in FOLDER.glob("*.svg"))


def test_the_picture_that_is_taken_of_a_run_is_whole_in_itself() -> None:
    picture = (FOLDER / TAKEN).read_text(encoding="utf-8")
    said = "".join(ElementTree.fromstring(picture).itertext()).replace("\xa0", " ")
    for text in ("1 failed", "retrying", "waits for fetch-"):
        assert text in said
    assert "http" not in picture.replace("http://www.w3.org/2000/svg", "")


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_as_it_is_drawn(name: str) -> None:
    committed = (FOLDER / name).read_text(encoding="utf-8")
    assert committed == PICTURES[name](), "`nox -s pictures` draws it anew"
    assert "(prefers-color-scheme:dark)" in committed
    assert ElementTree.fromstring(committed).findtext("{http://www.w3.org/2000/svg}title")


@pytest.fixture(scope="module")
def record() -> Record:
    """What the documentation shows."""
    return read(FOLDER / "bench.json")


@pytest.mark.parametrize("page", ["README.md", "docs/which-runner.md"])
def test_measured_tables_are_of_the_record(page: str, record: Record) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert "<!-- measured: runners -->" in text
    assert text == filled(text, record), "`nox -s pictures` makes it anew"


def test_measured_charts_are_of_the_record(record: Record) -> None:
    shown = {section.name: section for section in sections(record) if section.name in PICTURE}
    charts = {path.stem: path.read_text(encoding="utf-8") for path in (FOLDER / "bench").iterdir()}
    assert shown.keys() == charts.keys()
    for name, section in shown.items():
        assert "(prefers-color-scheme:dark)" in charts[name]
        svg = ElementTree.fromstring(charts[name])
        assert svg.findtext("{http://www.w3.org/2000/svg}title") == section.title
        if section.form == "bars":
            drawn = {element.text for element in svg.iter("{http://www.w3.org/2000/svg}text")}
            for mark in section.panels[0].marks:
                assert (f"~{mark.text}" if mark.noisy else mark.text) in drawn


def test_pictures_are_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*.svg")) < 300_000


def test_a_block_that_there_is_not(record: Record) -> None:
    with pytest.raises(UnknownBlock, match="no block 'nonsense'"):
        filled("<!-- measured: nonsense -->\n<!-- end of what was measured -->", record)
