"""The report page in a browser."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from shoal.recording.record import Record
from shoal.recording.report import page

from tests.recording.made import Made, small
from tests.recording.test_report import NASTY

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
#: A flow with an upstream, a retry, a failure and nested runs.
STUDY = """
import sys
import shoal
from shoal.runtime import task_run

@shoal.task
def load(n):
    return n

@shoal.task(retries=1, retry_condition_fn=lambda task, run, state: "once" in state.message)
def check(n):
    if n == 3:
        raise ValueError("three")
    if n == 4 and task_run.run_count == 1:
        raise ValueError("once")
    return n

@shoal.task
def inner(n):
    return n

@shoal.task
def outer():
    return sum(inner.map(range(4)).result())

@shoal.flow
def study():
    checked = check.map(load.map(range(6)))
    checked.wait()
    return outer.submit().result()

if __name__ == "__main__":
    with shoal.record() as recording:
        study.with_options(task_runner=sys.argv[1])()
    recording.report(sys.argv[2])
"""


@pytest.fixture
def browser() -> Iterator[Browser]:
    """Headless Chromium, without a network."""
    if CHROMIUM is None:
        pytest.skip("there is no chromium: `apt-get install chromium`")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


class Opened:
    """A page in a browser, of a record or one that is there; `close()` fails if it said or asked for anything."""

    def __init__(
        self, browser: Browser, record: Record | None, folder: Path, **options: Any
    ) -> None:
        file = folder / "report.html"
        if record is not None:
            file.write_text(page(record), encoding="utf-8")
        options.setdefault("viewport", {"width": 1200, "height": 800})
        self._context = browser.new_context(offline=True, **options)
        self.page: Page = self._context.new_page()
        self._said: list[str] = []
        self._asked: list[str] = []
        self._uri = file.as_uri()
        self.page.on("console", lambda message: self._said.append(message.text))
        self.page.on("pageerror", lambda error: self._said.append(str(error)))
        self.page.on("request", lambda request: self._asked.append(request.url))
        self.page.goto(self._uri)
        self.page.locator("html[data-drawn]").wait_for(state="attached", timeout=30_000)

    def view(self) -> tuple[float, float]:
        """From when to when the timeline shows."""
        view: dict[str, float] = self.page.evaluate("window.shoalTimeline.view")
        return view["from"], view["to"]

    def ink(self) -> int:
        """How many pixels of the timeline are drawn."""
        count: int = self.page.evaluate(
            """() => { const c = document.getElementById("timeline");
            const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
            let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n; }"""
        )
        return count

    def close(self) -> None:
        assert self._said == []
        assert self._asked == [self._uri]
        self._context.close()


@pytest.mark.slow
class TestInABrowser:
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("width", [1200, 400])
    def test_it_draws_and_asks_for_nothing(
        self, browser: Browser, tmp_path: Path, scheme: Any, width: int
    ) -> None:
        viewport = {"width": width, "height": 800}
        opened = Opened(browser, small(), tmp_path, color_scheme=scheme, viewport=viewport)
        assert opened.ink() > 1_000
        ink = opened.page.evaluate("getComputedStyle(document.querySelector('h2')).color")
        assert (sum(map(int, re.findall(r"\d+", ink))) > 380) == (scheme == "dark")
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
        opened.close()

    def test_zoom_by_keys_wheel_and_buttons(self, browser: Browser, tmp_path: Path) -> None:
        opened = Opened(browser, small(), tmp_path)
        keys = opened.page.keyboard
        assert opened.view() == (0, 10)
        opened.page.locator("#timeline").focus()
        keys.press("+")
        assert opened.view() == (2.5, 7.5)
        keys.press("ArrowRight")
        assert opened.view() == (3.5, 8.5)
        keys.press("0")
        assert opened.view() == (0, 10)
        opened.page.locator("#timeline").hover(position={"x": 700, "y": 30})
        keys.down("Control")
        opened.page.mouse.wheel(0, -100)
        keys.up("Control")
        opened.page.wait_for_function("window.shoalTimeline.view.to < 10")
        opened.page.locator("#whole").click()
        assert opened.view() == (0, 10)
        opened.page.locator("#closer").click()
        assert opened.view() == (2.5, 7.5)
        opened.close()

    def test_it_is_dragged(self, browser: Browser, tmp_path: Path) -> None:
        opened = Opened(browser, small(), tmp_path)
        opened.page.locator("#closer").click()
        opened.page.locator("#timeline").scroll_into_view_if_needed()
        mouse, box = opened.page.mouse, opened.page.locator("#timeline").bounding_box()
        assert box is not None
        mouse.move(box["x"] + 800, box["y"] + 30)
        mouse.down()
        mouse.move(box["x"] + 600, box["y"] + 30, steps=3)
        mouse.up()
        start, end = opened.view()
        assert start > 2.5
        assert end - start == pytest.approx(5)
        opened.close()

    def test_search_finds_tasks_states_runs_and_workers(
        self, browser: Browser, tmp_path: Path
    ) -> None:
        record = small()
        record.names[10] = "the one"
        opened = Opened(browser, record, tmp_path)
        search, found = opened.page.locator("#search"), opened.page.locator("#found")
        name = record.run_name(3, record.columns.task[1])
        for text, count in (
            *(("load", 8), ("FAILED", 1), ("worker-1", 7), ("#3", 1), ("the one", 1)),
            *((name, 1), ("nothing of it", 0)),
        ):
            search.fill(text)
            assert found.inner_text() == f"{count} found", text
        search.fill("retrying")
        search.press("Enter")
        said = opened.page.locator("#said")
        assert "fetch-" in said.inner_text()
        assert "Retrying" in said.inner_text()
        search.press("Escape")
        assert found.inner_text() == ""
        opened.page.locator(".legend button", has_text="fit").click()
        assert found.inner_text() == "3 found"
        opened.close()

    def test_a_run_tells_of_itself(self, browser: Browser, tmp_path: Path) -> None:
        opened = Opened(browser, small(), tmp_path)
        tooltip = opened.page.locator("#tooltip")
        assert tooltip.is_hidden()
        opened.page.locator("#timeline").hover(position={"x": 700, "y": 30})
        told = tooltip.inner_text()
        assert re.match(r"fit-[0-9a-f]{3}: Completed\nbegan at 4\.50 s, took 2\.50 s", told)
        assert "shoal-worker-0" in told
        # Without a mouse: from run to run.
        opened.page.locator("#timeline").focus()
        opened.page.keyboard.press("n")
        assert "load-" in opened.page.locator("#said").inner_text()
        opened.close()

    @pytest.mark.parametrize("workers", [40, 10_000])
    def test_many_workers(self, browser: Browser, tmp_path: Path, workers: int) -> None:
        made = Made(workers=workers, seconds=2)
        for worker in range(workers):
            made.run("step", 0, 1, worker=worker)
        opened = Opened(browser, made.record, tmp_path)
        height = opened.page.evaluate("document.getElementById('rows').scrollHeight")
        assert height == pytest.approx(22 + 18 * workers, abs=4)
        opened.page.evaluate("document.getElementById('rows').scrollTop = 1e9")
        opened.page.locator("#timeline").focus()
        for _ in range(workers if workers < 100 else 3):
            opened.page.keyboard.press("n")
        assert "step-" in opened.page.locator("#said").inner_text()
        opened.page.locator("#squeeze").click()
        assert opened.ink() > 100_000
        thin = opened.page.locator("#thin")
        if workers > 1_000:
            opened.page.wait_for_function("document.getElementById('thin').textContent !== ''")
            assert thin.inner_text().startswith("One row in ")
        opened.close()

    def test_it_prints(self, browser: Browser, tmp_path: Path) -> None:
        opened = Opened(browser, small(), tmp_path, color_scheme="dark")
        opened.page.emulate_media(media="print")
        assert opened.page.locator("#search").is_hidden()
        assert opened.page.locator("#timeline").is_visible()
        assert opened.page.evaluate("getComputedStyle(document.body).backgroundColor") == (
            "rgb(255, 255, 255)"
        )
        opened.close()

    @pytest.mark.timeout(150)
    @pytest.mark.parametrize("runner", ["threads:2", "processes:2", "dask:2", "ray:2"])
    def test_of_a_real_run(self, browser: Browser, tmp_path: Path, runner: str) -> None:
        name = runner.partition(":")[0]
        if name in ("dask", "ray"):
            pytest.importorskip(f"shoal_{name}")
        (tmp_path / "study.py").write_text(STUDY)
        command = [sys.executable, "study.py", runner, "report.html"]
        environment = os.environ | {"SHOAL_LOGGING_LEVEL": "CRITICAL"}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        opened = Opened(browser, None, tmp_path)
        assert opened.ink() > 1_000
        said = opened.page.locator("main").inner_text()
        assert "1 of 6 runs of check did not complete; the reason was ValueError." in said
        assert 'raise ValueError("three")' in said
        found = opened.page.locator("#found")
        for text, count in (
            ("load", 6),
            ("check", 7),
            ("failed", 1),
            ("retrying", 1),
            ("inner", 4),
        ):
            opened.page.locator("#search").fill(text)
            assert found.inner_text() == f"{count} found", text
        opened.close()

    def test_names_that_are_markup(self, browser: Browser, tmp_path: Path) -> None:
        made = Made()
        made.run(NASTY, 0, 5, state="Failed", error=NASTY)
        opened = Opened(browser, made.record, tmp_path)
        assert opened.page.locator(".legend button").first.inner_text() == NASTY[:40]
        assert opened.page.locator("b[title]").count() == 0
        opened.close()

    def test_a_file_that_was_cut_off_says_so(self, browser: Browser, tmp_path: Path) -> None:
        text = page(small())
        broken = re.sub(r'(id="columns">\n.{20})[^<]*', r"\1\n", text)
        file = tmp_path / "broken.html"
        file.write_text(broken, encoding="utf-8")
        opened = browser.new_page()
        opened.goto(file.as_uri())
        opened.locator("#untold").wait_for(state="visible", timeout=10_000)
        opened.close()
