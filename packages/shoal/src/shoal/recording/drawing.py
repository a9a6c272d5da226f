"""`Drawing`: the tasks of a flow and what they pass, as Mermaid text, as Graphviz' DOT and as a picture.

Plain data: `dry_run` makes it. Graphviz' `dot` is looked for when a picture is asked for. May import `exceptions`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from shoal.exceptions import InvalidOption, VisualizationError
from shoal.recording.whole import written_whole

__all__ = ["Drawing", "DrawnFlow", "DrawnTask", "Link"]

#: Nodes from which on runs that are alike share one: nobody reads more, and Mermaid refuses 500 arrows.
MOST = 100
#: Seconds that `dot` may take.
PATIENCE = 60.0

_TEXTS = (".mmd", ".mermaid")
_SOURCES = (".dot", ".gv")
_PICTURES = (".svg", ".png", ".pdf")


class DrawnTask(NamedTuple):
    """Runs of a task: one, those of a map, or several that are alike.

    Attributes:
        id: of the node; unique in a drawing.
        name: the task's.
        runs: how many, `None` where that is not known before it runs.
        is_map: whether they are a map's.
        flow: id of the flow run that submits them.
    """

    id: str
    name: str
    runs: int | None
    is_map: bool
    flow: str

    @property
    def label(self) -> str:
        """Name and count: `load`, `load ×3`, or `load ×?`."""
        if self.runs is None:
            return f"{self.name} ×?"
        return self.name if self.runs == 1 and not self.is_map else f"{self.name} ×{self.runs}"


class DrawnFlow(NamedTuple):
    """A run of a flow; `parent` is the id of the one around it, `None` for the outermost."""

    id: str
    name: str
    parent: str | None


class Link(NamedTuple):
    """An arrow between the ids of two nodes: what the one returns is passed to the other, or only waited for."""

    source: str
    target: str
    waits: bool


class Drawing:
    """The tasks of a flow and what they pass to each other. Made by `flow.visualize`.

    `str()` gives Mermaid text, which GitHub and notebooks draw. A notebook shows the drawing itself: by Graphviz where
    its `dot` is installed, else by Mermaid.

    Args:
        flows: the flow run first, then those inside it.
        tasks: in the order in which they were submitted.
        links: what is passed, each once.

    Attributes:
        flows: see above.
        tasks: see above; beyond 100 nodes, runs of a task that get their input from the same runs are one.
        links: see above.
    """

    def __init__(
        self, flows: Iterable[DrawnFlow], tasks: Iterable[DrawnTask], links: Iterable[Link]
    ) -> None:
        self.flows = tuple(flows)
        self.tasks, self.links = _joined(tuple(tasks), tuple(links))

    @property
    def name(self) -> str:
        """The flow's name."""
        return self.flows[0].name

    def __str__(self) -> str:
        return "\n".join([f"graph TD  %% {_line(self.name)}", *self._mermaid(self.flows[0], 1)])

    def __repr__(self) -> str:
        return f"<Drawing of {self.name!r}: {len(self.tasks)} nodes, {len(self.links)} links>"

    def _mermaid(self, flow: DrawnFlow, depth: int) -> Iterator[str]:
        indent = "    " * depth
        for task in self._tasks_of(flow):
            opening, closing = ("[[", "]]") if task.is_map else ("[", "]")
            yield f'{indent}{task.id}{opening}"{_entities(task.label)}"{closing}'
        for inner in self._flows_in(flow):
            yield f'{indent}subgraph {inner.id}["{_entities(inner.name)}"]'
            yield from self._mermaid(inner, depth + 1)
            yield f"{indent}end"
        if flow.parent is None:
            for link in self.links:
                yield f"{indent}{link.source} {'-.->' if link.waits else '-->'} {link.target}"

    def dot(self) -> str:
        """The same for Graphviz."""
        settings = "graph [compound=true, fontname=Helvetica]; node [shape=box, style=rounded, fontname=Helvetica];"
        lines = [f"digraph {_quoted(self.name)} {{", f"    {settings}"]
        lines += self._dot(self.flows[0], 1, {end for link in self.links for end in link[:2]})
        for link in self.links:
            style = ["style=dashed"] if link.waits else []
            ends = {"ltail": link.source, "lhead": link.target}
            style += [f"{key}=cluster_{end}" for key, end in ends.items() if end.startswith("f")]
            lines.append(f"    {link.source} -> {link.target} [{', '.join(style)}];")
        return "\n".join([*lines, "}"])

    def _dot(self, flow: DrawnFlow, depth: int, ends: set[str]) -> Iterator[str]:
        indent = "    " * depth
        if flow.id in ends:  # an arrow needs a node to end at, and is cut at the frame
            yield f'{indent}{flow.id} [shape=point, style=invis, label=""];'
        for task in self._tasks_of(flow):
            more = ", peripheries=2" if task.is_map else ""
            yield f"{indent}{task.id} [label={_quoted(task.label)}{more}];"
        for inner in self._flows_in(flow):
            yield f"{indent}subgraph cluster_{inner.id} {{ label={_quoted(inner.name)};"
            yield from self._dot(inner, depth + 1, ends)
            yield f"{indent}}}"

    def _tasks_of(self, flow: DrawnFlow) -> list[DrawnTask]:
        return [task for task in self.tasks if task.flow == flow.id]

    def _flows_in(self, flow: DrawnFlow) -> list[DrawnFlow]:
        return [inner for inner in self.flows if inner.parent == flow.id]

    def svg(self) -> str:
        """The picture.

        Raises:
            VisualizationError: Graphviz' `dot` is not installed, or fails.
        """
        return self._drawn("svg").decode("utf-8")

    def _drawn(self, kind: str) -> bytes:
        program = shutil.which("dot")
        if program is None:
            raise VisualizationError(
                problem=f"a picture needs Graphviz' program `dot`, which is not installed (on Debian: apt install "
                f"graphviz); {', '.join(_TEXTS)}, .md and {', '.join(_SOURCES)} need nothing"
            )
        try:
            done = subprocess.run(
                [program, f"-T{kind}"],
                input=self.dot().encode(),
                capture_output=True,
                timeout=PATIENCE,
                check=True,
            )
        except subprocess.SubprocessError as error:
            said: bytes = getattr(error, "stderr", None) or b""
            problem = f"{program} failed: {error} {said.decode(errors='replace')}".rstrip()
            raise VisualizationError(problem=problem) from error
        return done.stdout

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the drawing; what it is written as follows from the name's ending.

        Args:
            path: `.mmd` or `.mermaid` for Mermaid text, `.md` for a page that GitHub draws, `.dot` or `.gv` for
                Graphviz, `.svg`, `.png` or `.pdf` for a picture.

        Raises:
            InvalidOption: the ending is another.
            VisualizationError: a picture needs Graphviz.
            OSError: it cannot be written.
        """
        target = Path(path)
        kind = target.suffix.lower()
        if kind in _PICTURES:
            content = self._drawn(kind[1:])
        elif kind in _TEXTS:
            content = f"{self}\n".encode()
        elif kind in _SOURCES:
            content = f"{self.dot()}\n".encode()
        elif kind == ".md":
            content = f"```mermaid\n{self}\n```\n".encode()
        else:
            raise InvalidOption(
                where="Drawing.save",
                option="path",
                value=os.fspath(path),
                problem=f"its ending must be one of {', '.join([*_TEXTS, '.md', *_SOURCES, *_PICTURES])}",
            )
        with written_whole(str(target)) as part:
            Path(part).write_bytes(content)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Mapping[str, str]:
        found = {"text/plain": str(self), "text/vnd.mermaid": str(self)}
        if shutil.which("dot") is not None:
            try:
                found["image/svg+xml"] = self.svg()
            except (
                VisualizationError
            ) as error:  # there is the other, and a notebook shows something
                found["text/plain"] += f"\n%% {_line(str(error))}"
        return found


def _joined(
    tasks: tuple[DrawnTask, ...], links: tuple[Link, ...]
) -> tuple[tuple[DrawnTask, ...], tuple[Link, ...]]:
    """The nodes and links as they are drawn: all, or where they are too many, one node for runs that are alike."""
    if len(tasks) <= MOST:
        return tasks, tuple(dict.fromkeys(links))
    into: dict[str, list[Link]] = {}
    for link in links:
        into.setdefault(link.target, []).append(link)
    stands_for: dict[str, str] = {}  # of each id, the id of the node that is drawn
    kept: dict[Any, DrawnTask] = {}
    for task in tasks:  # whatever one needs comes before it
        inputs = frozenset(
            (stands_for.get(link.source, link.source), link.waits) for link in into.get(task.id, ())
        )
        key = task.name, task.flow, inputs
        known = kept.get(key)
        stands_for[task.id] = task.id if known is None else known.id
        if known is None:
            kept[key] = task
        else:
            count = (
                None if None in (known.runs, task.runs) else (known.runs or 0) + (task.runs or 0)
            )
            kept[key] = known._replace(runs=count, is_map=True)
    drawn = (
        Link(
            stands_for.get(link.source, link.source),
            stands_for.get(link.target, link.target),
            link.waits,
        )
        for link in links
    )
    return tuple(kept.values()), tuple(dict.fromkeys(drawn))


def _line(text: str) -> str:
    return " ".join(text.split())


def _entities(text: str) -> str:
    """As Mermaid has it: what means something to it, or to HTML, is a number."""
    return "".join(f"#{ord(c)};" if c in "\"#&<>`;\\'" else c for c in _line(text))


def _quoted(text: str) -> str:
    return '"{}"'.format(_line(text).replace("\\", "\\\\").replace('"', '\\"'))
