"""Draws the pictures of the documentation, as SVG beside this file: `nox -s pictures`, or `python docs/pictures/draw.py`.

    flow.svg     what the library does: a flow, and where its runs execute
    call.svg     the way of a call
    layers.svg   who may import whom, as pyproject.toml has it

A test compares them with the committed ones. They follow the reader's choice of light or dark, and have a ground of
their own, so that they can be read on any page. Uses the standard library only.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from xml.sax.saxutils import escape

__all__ = ["PICTURES", "call", "flow", "layers"]

HERE = Path(__file__).parent
PYPROJECT = HERE.parents[1] / "pyproject.toml"

#: By class: what it colours, in the light, in the dark.
COLOURS = {
    "ground": ("fill", "#ffffff", "#1b2225"),
    "room": ("fill", "#edf3f2", "#242e32"),
    "box": ("fill", "#ffffff", "#313e43"),
    "key": ("fill", "#d5ebe7", "#1d4f4a"),
    "edge": ("stroke", "#8fa5a3", "#647c82"),
    "line": ("stroke", "#00796b", "#4db6ac"),
    "head": ("fill", "#00796b", "#4db6ac"),
    "ink": ("fill", "#1c2b2a", "#eaf1f0"),
    "faint": ("fill", "#4c5f5d", "#b3c4c3"),
    "disc": ("fill", "#00796b", "#4db6ac"),
    "number": ("fill", "#ffffff", "#12201e"),
}
#: By class: size of the letters, their face, and how wide one is at most, as a part of its size.
LETTERS = {
    "name": (15, "600 {}px ui-monospace, Menlo, Consolas, monospace", 0.62),
    "note": (13.5, "{}px system-ui, 'Segoe UI', Helvetica, Arial, sans-serif", 0.52),
    "title": (14, "600 {}px system-ui, 'Segoe UI', Helvetica, Arial, sans-serif", 0.60),
}
LINE = 17.5  # from one line of notes to the next


class Picture:
    """A picture in the making; units are pixels at full size.

    Args:
        width, height: of the picture.
        title: read aloud instead of it.
    """

    def __init__(self, width: int, height: int, title: str) -> None:
        self._size = (width, height)
        self._title = title
        self._shapes: list[str] = []
        self.rectangle(0, 0, width, height, "ground", round_by=10)

    def rectangle(
        self, x: float, y: float, width: float, height: float, kind: str, *, round_by: int = 6
    ) -> None:
        """A rectangle with round corners."""
        self._shapes.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{round_by}" '
            f'class="{kind}"/>'
        )

    def text(
        self, x: float, y: float, words: str, kind: str, *, middle: bool = True, within: float
    ) -> None:
        """A line of text.

        Args:
            x, y: its middle or left end; its base line.
            words: what it says.
            kind: classes of colour and letters.
            middle: whether `x` is its middle.
            within: the room that it has.

        Raises:
            ValueError: it has no room there.
        """
        size, _, width = next(LETTERS[name] for name in kind.split() if name in LETTERS)
        if len(words) * size * width > within:
            raise ValueError(f"{words!r} is too long for {within:g} pixels")
        anchor = ' text-anchor="middle"' if middle else ""
        self._shapes.append(
            f'<text x="{x:g}" y="{y:g}" class="{kind}"{anchor}>{escape(words)}</text>'
        )

    def box(
        self, x: float, y: float, width: float, name: str, *notes: str, key: bool = False
    ) -> float:
        """A named box, with some lines of notes. Returns where it ends, below."""
        height = 34 + LINE * len(notes)
        self.rectangle(x, y, width, height, f"{'key' if key else 'box'} edge")
        self.text(x + width / 2, y + 22, name, "ink name", within=width - 12)
        for number, note in enumerate(notes):
            baseline = y + 41 + LINE * number
            self.text(x + width / 2, baseline, note, "faint note", within=width - 12)
        return y + height

    def arrow(self, x: float, y: float, to_x: float, to_y: float) -> None:
        """A straight arrow, along one of the axes."""
        dx, dy = (to_x > x) - (to_x < x), (to_y > y) - (to_y < y)
        self.path(x, y, to_x - 8 * dx, to_y - 8 * dy)
        self._head(to_x, to_y, dx, dy)

    def _head(self, x: float, y: float, dx: int, dy: int) -> None:
        end_x, end_y = x - 8 * dx, y - 8 * dy
        corners = [
            (x, y),
            (end_x - 5 * dy, end_y - 5 * dx),
            (end_x + 5 * dy, end_y + 5 * dx),
        ]
        points = " ".join(f"{a:g},{b:g}" for a, b in corners)
        self._shapes.append(f'<polygon points="{points}" class="head"/>')

    def path(self, x: float, y: float, to_x: float, to_y: float) -> None:
        """A straight line."""
        self._shapes.append(f'<path d="M{x:g} {y:g}L{to_x:g} {to_y:g}" class="line"/>')

    def again(self, x: float, y: float, size: float) -> None:
        """An arrow out of the upper edge of a box and back into it, for what is repeated."""
        left, top = x - size / 2, y - 20
        self._shapes.append(
            f'<path d="M{left:g} {y:g}C{left:g} {top:g} {x + size / 2:g} {top:g} '
            f'{x + size / 2:g} {y - 7:g}" class="line"/>'
        )
        self._head(x + size / 2, y, 0, 1)

    def step(self, x: float, y: float, number: int, words: str) -> None:
        """What happens along an arrow: its number in a disc, and a word or two to its right."""
        self._shapes.append(f'<circle cx="{x:g}" cy="{y:g}" r="9" class="disc"/>')
        self.text(x, y + 4.5, str(number), "number title", within=18)
        self.text(x + 13, y + 4.5, words, "ink note", middle=False, within=90)

    def svg(self) -> str:
        """The file."""
        width, height = self._size
        light = "".join(f".{name}{{{what}:{day}}}" for name, (what, day, _) in COLOURS.items())
        dark = "".join(f".{name}{{{what}:{night}}}" for name, (what, _, night) in COLOURS.items())
        fonts = "".join(
            f".{name}{{font:{font.format(size)}}}" for name, (size, font, _) in LETTERS.items()
        )
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
                f'width="{width}" height="{height}" role="img">',
                f"<title>{escape(self._title)}</title>",
                "<!-- Drawn by draw.py: change that. -->",
                f"<style>.line{{fill:none;stroke-width:1.8}}{fonts}{light}"
                f"@media (prefers-color-scheme:dark){{{dark}}}</style>",
                *self._shapes,
                "</svg>\n",
            ]
        )


def flow() -> str:
    """What the library does."""
    title = "A flow maps two tasks over four pages and adds up; its runs go to workers of any kind"
    picture = Picture(920, 348, title)
    picture.rectangle(12, 12, 574, 324, "room", round_by=8)
    picture.text(30, 36, "your flow", "faint title", middle=False, within=200)
    picture.rectangle(690, 12, 218, 324, "room", round_by=8)
    picture.text(706, 36, "workers, by one word", "faint title", middle=False, within=200)

    pitch, height = 56, 34
    middles = [54 + height / 2 + pitch * row for row in range(4)]
    for row, middle in enumerate(middles):
        picture.box(104, middle - height / 2, 104, "read")
        picture.box(262, middle - height / 2, 104, "count")
        picture.text(30, middle + 5, f"page {row + 1}", "ink note", middle=False, within=60)
        picture.arrow(86, middle, 104, middle)
        picture.arrow(208, middle, 262, middle)
        picture.path(366, middle, 456, middle)
    retried = middles[1]
    picture.again(176, retried - height / 2, 28)
    between = (middles[1] + middles[2]) / 2
    picture.path(456, middles[0], 456, middles[-1])
    picture.arrow(456, between, 480, between)
    picture.rectangle(480, between - height / 2, 90, height, "key edge")
    picture.text(525, between + 5, "sum", "ink name", within=80)
    says = (
        (156, "fails now and then:", "is tried again"),
        (314, "each starts when its", "own page has come"),
        (500, "in the flow,", "when all have ended"),
    )
    for x, *lines in says:
        for number, line in enumerate(lines):
            picture.text(x, 292 + LINE * number, line, "faint note", within=180)

    picture.arrow(586, 100, 690, 100)
    picture.text(638, 92, "runs", "ink note", within=90)
    picture.arrow(690, 248, 586, 248)
    picture.text(638, 240, "results", "ink note", within=90)
    picture.text(638, 268, "the rules are", "faint note", within=104)
    picture.text(638, 268 + LINE, "the same", "faint note", within=104)
    picture.text(638, 268 + 2 * LINE, "on each", "faint note", within=104)
    where = {
        '"threads"': "of your process",
        '"processes"': "of your machine",
        '"dask"': "a cluster, or here",
        '"ray"': "a cluster, or here",
    }
    for number, (name, note) in enumerate(where.items()):
        picture.box(706, 52 + 70 * number, 186, name, note, key=not number)
    return picture.svg()


def call() -> str:
    """The way of a call."""
    title = "A submitted call goes to the scheduler, in a batch to a worker, and its outcome back"
    picture = Picture(920, 424, title)
    picture.rectangle(12, 12, 612, 400, "room", round_by=8)
    picture.text(30, 36, "your process", "faint title", middle=False, within=200)
    picture.rectangle(706, 12, 202, 400, "room", round_by=8)
    picture.text(722, 36, "a worker", "faint title", middle=False, within=170)

    above, below = 54, 230
    submit_ends = picture.box(
        30, above, 164, "task.submit(x)", "checks arguments,", "finds futures in them"
    )
    decides = "decides what may start,", "what travels together, what is retried,"
    scheduler_ends = picture.box(
        280, above, 328, "Scheduler", *decides, "what a cancel reaches", key=True
    )
    values = "with the values of the", "futures among its x"
    function_ends = picture.box(722, above, 170, "your function", *values, key=True)
    future = "the run, as its", "submitter knows it:", "state and result"
    future_ends = picture.box(30, below, 164, "TaskFuture", *future)
    picture.box(
        280, below, 140, "Dispatcher", "carries that out:", "launches, wakes,", "sets timers"
    )
    picture.box(496, below, 112, "Backend", "takes batches", "there, brings", "reports back")
    picture.box(722, below, 170, "Engine", "runs one attempt", "of each call,", "says how it ended")

    between = (scheduler_ends + below) / 2
    picture.arrow(194, above + 38, 280, above + 38)
    picture.step(209, above + 23, 1, "a call")
    picture.arrow(112, submit_ends, 112, below)
    picture.text(124, between + 4.5, "returned at once", "ink note", middle=False, within=120)
    picture.arrow(350, scheduler_ends, 350, below)
    picture.step(367, between, 2, "what to do")
    picture.arrow(420, below + 44, 496, below + 44)
    picture.step(434, below + 29, 3, "batch")
    picture.arrow(608, below + 24, 722, below + 24)
    picture.step(636, below + 9, 4, "message")
    picture.arrow(722, below + 64, 608, below + 64)
    picture.step(636, below + 82, 5, "report")
    picture.arrow(552, below, 552, scheduler_ends)
    picture.step(569, between, 6, "event")
    picture.arrow(280, below + 44, 194, below + 44)
    picture.step(209, below + 29, 7, "the end")
    picture.arrow(787, below, 787, function_ends)
    picture.arrow(827, function_ends, 827, below)
    picture.arrow(112, future_ends, 112, future_ends + 34)
    picture.text(112, future_ends + 54, "result · wait · await", "ink note", within=164)
    picture.text(112, future_ends + 54 + LINE, "wake up", "ink note", within=164)
    aside = (
        "Threads do without 3 to 6: they take runs from",
        "the scheduler themselves. What is sent to other",
        "processes and machines goes in batches.",
    )
    for number, line in enumerate(aside):
        baseline = 358 + LINE * number
        picture.text(280, baseline, line, "faint note", middle=False, within=335)
    return picture.svg()


#: What each module of the core's layers is for.
PURPOSES = {
    "cli": "the command shoal",
    "testing": "the suite that every runner passes, for authors of further ones",
    "flows": "@flow: a flow run, and the runner that it enters and leaves",
    "tasks": "@task: to call, submit and map",
    "concurrency": "slots and rates",
    "direct_calls": "a task called like a function, and what it has to hold meanwhile",
    "logging": "names, as elsewhere",
    "utilities": "names, as elsewhere",
    "checks": "what tasks and flows have alike",
    "signatures": "for type checkers",
    "task_runners": "threads, processes, executors; and what Dask's and Ray's have in common",
    "locking": "names, as elsewhere",
    "serializers": "names, as elsewhere",
    "cache_policies": "what a kept result depends on",
    "transactions": "all done, or all undone",
    "results": "results that are kept: their keys, and where they are",
    "recording": "what ran when: as the scheduler tells it, in a file, and what is made of that",
    "limits": "slots of tags, shared by the processes of a machine",
    "scheduling": "what runs when: decided by pure code, and carried out by the dispatcher",
    "engine": "one attempt of a run; the only code that calls your functions",
    "futures": "what a submitter holds of a run: its state, its result; and waiting for it",
    "calls": "a run to be: function, arguments, options",
    "runtime": "about the run one is in",
    "names": "what runs are called",
    "logs": "lines about runs",
    "context": "what surrounds a run",
    "run_records": "runs as hooks and logs see them",
    "markup": "text in HTML",
    "serialization": "pickles",
    "validation": "parameters",
    "settings": "variables",
    "annotations": "unmapped(…)",
    "states": "of runs",
    "specs": "what a task and a flow are",
    "tracebacks": "without our frames; as they cross to another process",
    "exceptions": "of all kinds",
    "safely": "words about objects that misbehave",
    "spelling": "which word was meant",
    "backoff": "delays of retries",
    "elsewhere": "what each of these, and of further names, was for",
    "absent": "modules that Prefect has and Shoal has not: each says so",
}
#: The layer that the others are there for.
HEART = "scheduling"


def core_layers() -> list[list[str]]:
    """The layers of the core as import-linter is told them: the highest first, each a list of modules."""
    contracts = tomllib.loads(PYPROJECT.read_text())["tool"]["importlinter"]["contracts"]
    contract = next(found for found in contracts if found.get("containers") == ["shoal"])
    return [re.findall(r"\w+", layer) for layer in contract["layers"]]


def layers() -> str:
    """Who may import whom."""
    rows = core_layers()
    left, width, pitch, gap = 24, 872, 46, 8
    picture = Picture(920, 96 + pitch * len(rows), "The layers of the library, the highest first")

    def shelf(y: float, modules: dict[str, str]) -> None:
        each = (width - gap * (len(modules) - 1)) / len(modules)
        for number, (name, purpose) in enumerate(modules.items()):
            x = left + number * (each + gap)
            picture.rectangle(x, y, each, pitch - 8, f"{'key' if name == HEART else 'box'} edge")
            if len(modules) == 1:
                picture.text(x + 14, y + 24, name, "ink name", middle=False, within=180)
                picture.text(
                    x + 190, y + 24, purpose, "faint note", middle=False, within=each - 200
                )
            else:
                picture.text(x + each / 2, y + 17, name, "ink name", within=each)
                picture.text(x + each / 2, y + 33, purpose, "faint note", within=each)

    plugins = {
        "shoal_dask": "the runner for Dask: a package of its own",
        "shoal_ray": "the runner for Ray: a package of its own",
    }
    shelf(16, plugins)
    words = "shoal: each imports only from what is below it; nothing in it knows of the two above"
    picture.rectangle(12, 16 + pitch, 896, pitch * len(rows) + 28, "room", round_by=8)
    picture.text(left, 36 + pitch, words, "faint title", middle=False, within=width)
    for number, modules in enumerate(rows):
        unknown = [name for name in modules if name not in PURPOSES]
        if unknown:
            raise ValueError(f"say in PURPOSES what {', '.join(unknown)} is for")
        shelf(46 + pitch * (number + 1), {name: PURPOSES[name] for name in modules})
    return picture.svg()


#: By the name of its file, what draws a picture.
PICTURES = {"flow.svg": flow, "call.svg": call, "layers.svg": layers}

if __name__ == "__main__":
    for name, draw in PICTURES.items():
        (HERE / name).write_text(draw(), encoding="utf-8")
