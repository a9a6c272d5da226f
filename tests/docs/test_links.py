"""Links between the repository's own pages: what the site's builder does not look at.

It checks the links of a page to other pages, headings and names. Here: pictures, the pages that are not part of the
site, and that the site has every page.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FENCED = re.compile(r"^ *(```+|~~~+).*?^ *\1 *$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)[^)]*\)|^\[[^\]]+\]: *(\S+)", re.MULTILINE)
HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)


def pages() -> list[Path]:
    folders = [ROOT, *ROOT.glob("packages/*")]
    outside = [page for folder in folders for page in folder.glob("*.md")]
    return sorted([*outside, *ROOT.glob("docs/**/*.md")])


def anchors_of(page: Path) -> set[str]:
    """As GitHub and the site make them of headings."""
    headings = HEADING.findall(FENCED.sub("", page.read_text()))
    plain = (re.sub(r"[^\w\s-]", "", heading.lower()) for heading in headings)
    return {re.sub(r"\s+", "-", heading.strip()) for heading in plain}


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_links_to_is_there(page: Path) -> None:
    wrong = []
    for match in LINK.finditer(FENCED.sub("", page.read_text())):
        link = match[1] or match[2]
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if "://" in link or (target.exists() and (not anchor or anchor in anchors_of(target))):
            continue
        wrong.append(link)
    assert not wrong


def test_the_site_has_every_page() -> None:
    nav = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2].partition("\n\n")[0]
    listed = re.findall(r": (\S+\.md)$", nav, flags=re.MULTILINE)
    there = [str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")]
    assert sorted(listed) == sorted(there)
