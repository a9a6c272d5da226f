"""Makes what the documentation shows of a comparison, from the record beside this file: `bench.json`.

Charts go to the folder `bench`, tables into the pages, between their markers. `nox -s pictures` runs this.
"""

from __future__ import annotations

from pathlib import Path

from shoal_bench.page.charts import as_svg
from shoal_bench.page.document import engines_of
from shoal_bench.page.markdown import filled
from shoal_bench.page.sections import PICTURE, sections
from shoal_bench.record import Record, read

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
RECORD, CHARTS = FOLDER / "bench.json", FOLDER / "bench"
PAGES = (ROOT / "README.md", ROOT / "docs" / "which-runner.md")


def main() -> None:
    """Writes charts and tables."""
    record = read(RECORD)
    draw(record)
    for page in PAGES:
        page.write_text(filled(page.read_text("utf-8"), record), "utf-8")


def draw(record: Record) -> None:
    """Writes the charts, and removes those of a record that had more."""
    CHARTS.mkdir(exist_ok=True)
    for old in CHARTS.glob("*.svg"):
        old.unlink()
    for section in sections(record):
        if section.name in PICTURE:
            drawn = as_svg(section, engines_of(record))
            (CHARTS / f"{section.name}.svg").write_text(drawn, "utf-8")


if __name__ == "__main__":
    main()
