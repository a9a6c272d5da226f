"""Draws live progress as a terminal shows it, as SVG beside this file: `nox -s pictures`, or `python docs/pictures/live.py`.

It runs a flow in tmux, takes what is on the screen when the flow is half through, and draws that with rich. Needs `tmux`.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

HERE = Path(__file__).parent
COLUMNS, LINES = 100, 9
#: When it is looked at, in seconds after the first row.
AFTER = 1.5

FLOW = """
import time
from shoal import flow, task
from shoal.task_runners import ThreadPoolTaskRunner

@task
def load(shop):
    time.sleep(0.02)
    if shop == 40:
        raise ValueError("no such shop")
    return shop

@task(retries=1, retry_delay_seconds=2)
def fetch(shop):
    time.sleep(0.25 + shop % 7 * 0.05)
    if shop % 11 == 5:
        raise ConnectionError("the server closed the connection")
    return shop

@task
def clean(shop):
    time.sleep(0.1)
    return shop

@task
def total(shops):
    return len(shops)

@flow(task_runner=ThreadPoolTaskRunner(max_workers=8))
def etl():
    loaded = load.map(range(60))
    loaded.wait()
    print("60 shops")
    cleaned = [clean.submit(one) for one in fetch.map(loaded)]
    return total.submit(cleaned).wait()

etl()
"""

#: Colours that can be read on dark: background, foreground, then the eight of a terminal, dim and bright.
THEME = TerminalTheme(
    (22, 27, 34),
    (201, 209, 217),
    [(72, 79, 88), (255, 123, 114), (63, 185, 80), (210, 153, 34), (88, 166, 255), (188, 140, 255), (57, 197, 207), (177, 186, 196)],
    [(110, 118, 129), (255, 161, 152), (86, 211, 100), (227, 179, 65), (121, 192, 255), (210, 168, 255), (86, 212, 221), (240, 246, 252)],
)  # fmt: skip

#: rich's own form refers to a font on the network.
FORM = """<svg class="rich-terminal" viewBox="0 0 {width} {terminal_height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; font-size: {char_height}px; line-height: {line_height}px; font-variant-east-asian: full-width; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal"><rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/></clipPath>
{lines}
</defs>
<rect width="{width}" height="{terminal_height}" rx="8" fill="#161b22"/>
<g transform="translate({terminal_x}, 6)" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def screen() -> str:
    """What the terminal shows, with its colours."""
    if shutil.which("tmux") is None:
        sys.exit("there is no tmux: `apt-get install tmux`")
    with tempfile.TemporaryDirectory() as folder:

        def tmux(*words: str) -> str:
            command = ["tmux", "-S", str(Path(folder, "socket")), *words]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout

        Path(folder, "etl.py").write_text(FLOW, encoding="utf-8")
        command = f"env -u CI -u NO_COLOR -u SHOAL_PROGRESS SHOAL_LOGGING_LEVEL=CRITICAL {sys.executable} etl.py; cat"
        size = ("-x", str(COLUMNS), "-y", str(LINES))
        tmux("-f", os.devnull, "new-session", "-d", *size, "-c", folder, "sh", "-c", command)
        try:
            end = time.monotonic() + 30
            while "fetch" not in tmux("capture-pane", "-p"):
                if time.monotonic() > end:
                    sys.exit("no rows appeared")
                time.sleep(0.02)
            time.sleep(AFTER)
            return tmux("capture-pane", "-p", "-e")
        finally:
            tmux("kill-server")


def main() -> None:
    """Draws the picture."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(f"$ python etl.py\n{screen().rstrip()}\n"))
    picture = console.export_svg(theme=THEME, code_format=FORM, unique_id="live", title="")
    (HERE / "live.svg").write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()
