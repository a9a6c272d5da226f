"""Takes the picture of a report page, as PNG beside this file: `nox -s pictures`, or `python docs/pictures/report.py`.

It runs a flow with a slow chain, a failing task and idle workers, makes its report, and looks at that with Chromium.
Needs `playwright`, and the `chromium` of the system.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from shoal import allow_failure, flow, record, task, unmapped
from shoal.runtime import task_run
from shoal.task_runners import ThreadPoolTaskRunner

HERE = Path(__file__).parent


@task(retries=1, retry_delay_seconds=0.2)
def download(part: int) -> int:
    """Some parts need a second attempt."""
    time.sleep(0.08 + part % 5 * 0.03)
    if part == 7 and task_run.run_count == 1:
        raise ConnectionError("the server closed the connection")
    return part


@task
def clean(part: int) -> int:
    """One part has no prices."""
    time.sleep(0.05 + part % 3 * 0.04)
    if part == 17:
        raise KeyError("price")
    return part


@task
def combine(parts: list[int]) -> int:
    """Takes what is there."""
    time.sleep(0.2)
    return len(parts)


@task
def fit(model: int) -> int:
    """Each needs the one before."""
    time.sleep(0.6)
    return model + 1


@task
def evaluate(model: int, part: int) -> int:
    """Some runs side by side."""
    time.sleep(0.1 + part * 0.05)
    return model + part


@flow(task_runner=ThreadPoolTaskRunner(max_workers=6))
def study(parts: int) -> int:
    """One slow chain between two broad steps."""
    # `Any`, because this repository has its own code checked with futures that do not pass for their values.
    downloaded: Any = download.map(range(parts))
    cleaned = clean.map(downloaded)
    model: Any = combine.submit(allow_failure(cleaned))
    for _ in range(5):
        model = fit.submit(model)
    return len(evaluate.map(unmapped(model), range(6)).result())


def main() -> None:
    """Takes the picture."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("there is no chromium: `apt-get install chromium`")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        page = Path(folder, "report.html")
        with record() as recording:
            study(40)
        recording.report(page)
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1000, "height": 1000})
        opened.goto(page.as_uri())
        opened.locator("html[data-drawn]").wait_for(state="attached")
        # As far as the picture of the timeline; what follows is longer than anybody looks at in a README.
        end = opened.locator("#rows").bounding_box()
        assert end is not None
        height = end["y"] + end["height"] + 12
        opened.screenshot(
            path=HERE / "report.png", clip={"x": 0, "y": 0, "width": 1000, "height": height}
        )
        browser.close()


if __name__ == "__main__":
    main()
