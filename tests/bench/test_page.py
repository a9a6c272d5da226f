"""What people look at: the page and the picture of a record, the commands that write them, and the page in a browser."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from shoal_bench import cli
from shoal_bench.commands import runners
from shoal_bench.page.charts import colours
from shoal_bench.page.document import NothingToDraw, page, picture
from shoal_bench.page.markdown import BLOCKS, filled
from shoal_bench.page.notes import doubts
from shoal_bench.page.sections import BARE, OTHER, OURS, sections
from shoal_bench.record import Record, Sample

from tests.bench.fakes import FakeLive
from tests.bench.records import example

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.may_leave("fds", reason="vl-convert keeps an interpreter of JavaScript")

MEGABYTE = 1_000_000
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Elements(HTMLParser):
    """The elements of a page outside of its scripts, their attributes, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.said = ""
        self._within = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._within = tag

    def handle_endtag(self, tag: str) -> None:
        self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within not in ("script", "style"):
            self.said += data


def charts_of(text: str) -> dict[str, Any]:
    """The charts that a page draws, by the element that they are drawn in."""
    found = re.search(
        r'<script type="application/json" id="charts">(.*?)</script>', text, re.DOTALL
    )
    assert found is not None
    charts: dict[str, Any] = json.loads(found[1])
    return charts


def rows_of(chart: dict[str, Any]) -> list[dict[str, Any]]:
    """The data of a chart."""
    (rows,) = chart["datasets"].values() if "datasets" in chart else [chart["data"]["values"]]
    return list(rows)


def changed(record: Record, **fields: Any) -> Record:
    """The same record with other fields; validated."""
    return Record.model_validate(record.model_dump() | fields)


def only(record: Record, *scenarios: str) -> Record:
    """The same record with no other scenarios."""
    return record.model_copy(
        update={"scenarios": tuple(s for s in record.scenarios if s.name in scenarios)}
    )


def bench(*arguments: object) -> int:
    """Runs the command in this process; gives its exit code."""
    code = cli.app(
        [str(one) for one in arguments],
        result_action="return_value",
        exit_on_error=False,
        print_error=False,
    )
    assert isinstance(code, int)
    return code


@pytest.fixture(scope="module")
def text() -> str:
    """The page of a made-up record."""
    return page(example())


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A record that was saved, of one scenario."""
    file = tmp_path / "record.json"
    file.write_text(only(example(), "overhead").to_json())
    return file


class TestPage:
    def test_a_figure_is_in_the_table_and_in_a_chart(self, text: str) -> None:
        place = example().scenario("overhead")
        assert place is not None
        entry = place.cases[0].entry("dask")
        assert entry is not None
        assert entry.figure is not None
        (row,) = [r for r in rows_of(charts_of(text)["overhead-1"]) if r["contestant"] == "dask"]
        assert row["value"] == entry.figure.median
        assert f"<td>{row['label']}<small>dask-client" in text

    def test_nothing_is_asked_for_elsewhere(self, text: str) -> None:
        for tag, attributes in Elements(text).found:
            assert not {"src", "href", "srcset", "action"} & attributes.keys(), tag
        assert "default-src 'none'" in text
        style = text.partition("<style>")[2].partition("</style>")[0]
        assert not re.search(r"url\(|@import", style)

    def test_it_is_small(self, text: str) -> None:
        assert len(text.encode()) < 3 * MEGABYTE

    def test_recommendation_and_table_come_before_scripts(self, text: str) -> None:
        order = ["Take ray for more than one machine", "futures-processes 7", "<script>"]
        assert [text.index(part) for part in order] == sorted(text.index(part) for part in order)

    def test_every_chart_has_its_place_and_a_table(self, text: str) -> None:
        elements = Elements(text).found
        places = {a["id"] for _, a in elements if a.get("class") == "chart"}
        assert places == charts_of(text).keys()
        assert sum(tag == "details" for tag, _ in elements) == len(sections(example()))

    def test_machine_noise_and_void_results_are_said(self, text: str) -> None:
        said = Elements(text).said
        assert "Linux x86_64, 2 of 2 processors usable" in said
        assert "distributed 2026.8.0" in said
        assert "parsl did not take part: is not installed" in said
        assert "Void: cannot do this (joblib in overhead: round-trip)." in said
        assert "figures is too noisy to conclude from" in said
        assert "Void: joblib\n" in said  # below its chart

    def test_names_are_escaped(self) -> None:
        nasty = "</script><b>&'\""
        data = json.loads(example().to_json().replace("futures-threads", "NASTY"))
        record = Record.model_validate_json(
            json.dumps(data).replace("NASTY", json.dumps(nasty)[1:-1])
        )
        made = page(record)
        assert nasty not in made
        assert nasty in Elements(made).said
        assert nasty in {r["contestant"] for r in rows_of(charts_of(made)["overhead-1"])}

    def test_what_was_not_measured_has_no_chart(self) -> None:
        made = page(only(example(), "metg"))
        assert {name.partition("-")[0] for name in charts_of(made)} == {"metg"}
        assert "How long must my tasks be?" not in made

    def test_a_record_of_nothing_is_a_page_too(self) -> None:
        made = page(only(example()))
        assert "too few or too noisy to recommend" in made
        assert "<script" not in made

    def test_one_length_makes_no_line(self) -> None:
        record = only(example(), "efficiency")
        (scenario,) = record.scenarios
        short = scenario.model_copy(update={"cases": scenario.cases[:1]})
        assert sections(record.model_copy(update={"scenarios": (short,)})) == []

    def test_noisy_and_interrupted(self) -> None:
        data = example(complete=False).model_dump()
        data["scenarios"][0]["cases"][0]["entries"][0]["noisy"] = True
        record = Record.model_validate(data)
        said = " ".join(doubts(record))
        assert "interrupted" in said
        assert "1 of 89 figures are too noisy" in said
        assert "overhead: map (threads)" in said
        (section,) = [s for s in sections(record) if s.name == "overhead"]
        assert "on threads" not in section.answer
        assert "on processes" in section.answer

    def test_a_machine_that_was_too_busy_is_named_once(self) -> None:
        data = example().model_dump()
        for scenario in data["scenarios"][:3]:
            for case in scenario["cases"]:
                for entry in case["entries"]:
                    entry["noisy"] = True
        record = Record.model_validate(data)
        (line,) = [one for one in doubts(record) if "noisy" in one]
        headings = {s.name: s.panels[0].heading for s in sections(record)}
        assert headings["start"] == "Until the first result (too noisy)"
        assert headings["efficiency"] == "A map of tasks that compute"
        assert line.endswith("the machine was too busy. Measure again when it is quiet.")

    def test_costs_by_number_and_shares_by_workers_are_lines(self) -> None:
        record = only(example(), "efficiency")
        (scenario,) = record.scenarios
        cases = [
            case.model_copy(update={"axes": {axis: value}})
            for axis, values in (("tasks", (100, 10_000)), ("workers", (1, 2)))
            for case, value in zip(scenario.cases, values, strict=False)
        ]
        scale = scenario.model_copy(update={"name": "scale", "cases": tuple(cases)})
        counts, workers = sections(record.model_copy(update={"scenarios": (scale,)}))
        assert (counts.name, counts.kind) == ("counts", "seconds")
        assert {mark.at for mark in counts.panels[0].marks} == {100, 10_000}
        assert (workers.name, workers.kind) == ("workers", "share")
        assert all(mark.figure.high <= 1 for mark in workers.panels[0].marks)

    def test_peak_memory_has_its_chart(self) -> None:
        record = only(example(), "overhead")
        (scenario,) = record.scenarios
        case = scenario.cases[0]
        sample = Sample(round=1, value=1e-6, wall=1, quantities={"peak_memory": 2.5e8})
        entry = case.entries[0].model_copy(update={"samples": (sample,)})
        million = scenario.model_copy(
            update={"name": "million", "cases": (case.model_copy(update={"entries": (entry,)}),)}
        )
        (section,) = sections(record.model_copy(update={"scenarios": (million,)}))
        assert [mark.text for mark in section.panels[0].marks] == ["250 MB"]

    def test_roles(self) -> None:
        (section,) = sections(only(example(), "start"))
        roles = {mark.contestant: mark.role for mark in section.panels[0].marks}
        assert (roles["processes"], roles["futures-processes"], roles["joblib"]) == (
            *(OURS, BARE, OTHER),
        )

    def test_each_engine_has_a_colour_of_its_own(self) -> None:
        known = colours(["threads", "processes", "dask", "ray", "tcp://host:8786", "mpi"])
        assert len(set(known.values())) == 6


class TestPicture:
    def test_it_is_a_picture(self) -> None:
        drawn = picture(only(example(), "overhead"))
        assert drawn.startswith(b"\x89PNG")
        assert 20_000 < len(drawn) < MEGABYTE

    def test_without_figures_there_is_none(self) -> None:
        with pytest.raises(NothingToDraw, match="overhead"):
            picture(only(example()))


class TestMarkdown:
    def test_blocks_go_between_their_markers(self) -> None:
        end = "<!-- end of what was measured -->"
        text = f"before\n<!-- measured: runners -->\nold\n{end}\nafter\n"
        made = filled(text, example())
        assert made.startswith("before\n<!-- measured: runners -->\n\n| | a task of a map |")
        assert made.endswith(f"\n\n{end}\nafter\n")
        assert "old" not in made
        assert "| dask | 11.1 µs (144x) |" in made
        assert filled(made, example()) == made

    def test_there_is_no_picture_of_what_was_not_measured(self) -> None:
        made = BLOCKS["charts"](only(example(), "metg"))
        assert re.findall(r"\]\((.*?)\)", made) == ["pictures/bench/metg.svg"]


class TestCommands:
    @pytest.mark.slow
    def test_a_page_of_a_record_that_was_saved(self, saved: Path, tmp_path: Path) -> None:
        out, plot = tmp_path / "out.html", tmp_path / "out.png"
        assert bench("report", saved, "--report", out, "--plot", plot) == 0
        assert out.read_text(encoding="utf-8").startswith("<!doctype html>")
        assert plot.read_bytes().startswith(b"\x89PNG")

    def test_a_page_of_what_was_just_measured(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            runners, "_open", lambda spec, workers, speed, python: FakeLive(spec.name, [])
        )
        out = tmp_path / "out.html"
        done = bench(
            "--scenario", "overhead", "--runner", "threads", "--rounds", 3, "--report", out
        )
        assert done == 0
        assert "overhead-1" in charts_of(out.read_text(encoding="utf-8"))

    @pytest.mark.parametrize("option", ["--report", "--plot"])
    def test_a_file_where_the_folder_should_be(
        self,
        option: str,
        saved: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(runners, "_compare", lambda *_, **__: pytest.fail("it was measured"))
        assert bench(option, saved / "out") == 2
        assert "is a file, where the folder of out should be" in capsys.readouterr().err
        assert bench("report", saved, option, tmp_path / "nowhere" / "out") == 2
        assert "there is no folder" in capsys.readouterr().err

    def test_one_file_for_two_things(
        self, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert bench("report", saved, "--report", saved) == 2
        assert "cannot be two files" in capsys.readouterr().err

    @pytest.mark.skipif(
        getattr(os, "geteuid", lambda: 1)() == 0, reason="root may write everywhere"
    )
    def test_a_folder_that_may_not_be_written(
        self, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = tmp_path / "closed"
        folder.mkdir(mode=0o500)
        assert bench("report", saved, "--report", folder / "out.html") == 2
        assert "may not be written" in capsys.readouterr().err

    def test_no_record(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert bench("report", tmp_path / "nothing", "--report", tmp_path / "out.html") == 2
        assert "No such file" in capsys.readouterr().err

    def test_nothing_to_write(self, saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert bench("report", saved) == 2
        assert "say what to write" in capsys.readouterr().err

    def test_nothing_to_draw(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        file, plot = tmp_path / "empty.json", tmp_path / "out.png"
        file.write_text(only(example()).to_json())
        assert bench("report", file, "--plot", plot) == 1
        assert "no figures to draw" in capsys.readouterr().err
        assert not plot.exists()

    def test_a_record_of_another_version(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = tmp_path / "old.json"
        file.write_text('{"schema_version": 99}')
        assert bench("report", file, "--report", tmp_path / "out.html") == 2
        assert "its schema_version is 99" in capsys.readouterr().err

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a full disk at hand")
    def test_a_full_disk_is_one_line(self, saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert bench("report", saved, "--report", "/dev/full") == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line == "Error: /dev/full could not be written: No space left on device"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium, without a network."""
    if CHROMIUM is None:
        pytest.skip("there is no chromium: `apt-get install chromium`")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.mark.slow
class TestInABrowser:
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("width", [1200, 400])
    def test_it_draws_and_asks_for_nothing(
        self, browser: Browser, text: str, tmp_path: Path, scheme: Any, width: int
    ) -> None:
        file = tmp_path / "page.html"
        file.write_text(text, encoding="utf-8")
        context = browser.new_context(
            color_scheme=scheme, viewport={"width": width, "height": 800}, offline=True
        )
        opened = context.new_page()
        said: list[str] = []
        asked: list[str] = []
        opened.on("console", lambda message: said.append(message.text))
        opened.on("pageerror", lambda error: said.append(str(error)))
        opened.on("request", lambda request: asked.append(request.url))
        opened.goto(file.as_uri())
        charts = charts_of(text)
        for name in charts:
            opened.locator(f"#{name} svg").wait_for(timeout=20_000)
        assert said == []
        assert asked == [file.as_uri()]
        ink = opened.evaluate("getComputedStyle(document.querySelector('.chart text')).fill")
        assert (sum(map(int, re.findall(r"\d+", ink))) > 380) == (scheme == "dark")
        assert opened.evaluate("document.documentElement.scrollWidth") <= width
        # By keyboard: a contestant goes and comes back.
        labels = opened.locator("#start-1 svg text", has_text=re.compile("^ray-remote$"))
        assert labels.count() == 1
        opened.locator("input[value=ray-remote]").focus()
        opened.keyboard.press("Space")
        labels.wait_for(state="detached", timeout=10_000)
        opened.keyboard.press("Space")
        labels.wait_for(timeout=10_000)
        assert said == []
        context.close()
