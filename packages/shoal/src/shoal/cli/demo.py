"""A flow to learn from: what is in Python's standard library? Start reading at `survey`, the last function.

    measure         one run for each file: parse it, count what is in it              (a map)
    add_up          one run for each folder, over the futures of its files            (a map over a map's futures)
    rank            one run for each ranking, over the futures of all folders
    publish         one run, which starts a run for each section of a report          (a task that maps a task)
    write_section   takes turns with its like, by retrying

Every task is a function of this module, with plain data in and out, so that any runner can send it anywhere.
`shoal demo` runs the flow and shows how it gets on; by yourself it is `survey(Path("report.md"))`.
"""

from __future__ import annotations

import ast
import os
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from heapq import nlargest
from pathlib import Path

from shoal import State, allow_failure, flow, task, unmapped
from shoal.futures import TaskFuture, wait
from shoal.runtime import task_run
from shoal.states import get_state_exception

__all__ = ["Module", "Ranking", "Survey", "survey"]

#: Folders left out: what is not the library's own, and its tests. Folders named `tests` are not among them: those of
#: lib2to3 hold Python 2 files, which do not parse, and `allow_failure` is for such.
SKIPPED = {"site-packages", "test", "idle_test"}

#: How many rows a ranking has.
TOP = 10

Rows = list[tuple[str, int]]

#: What can hold statements. Expressions cannot, and are the most of a file.
_HOLDERS = (ast.stmt, ast.ExceptHandler, ast.match_case)


@dataclass
class Module:
    """What is in one file."""

    name: str
    lines: int
    classes: int
    functions: int
    longest: Rows  # its longest functions and their lines
    imports: set[str]  # top-level names
    seconds: float = 0.0  # of a processor, that measuring it took


@dataclass
class Folder:
    """What is in the files of one folder, and what went wrong with some."""

    modules: list[Module]
    failures: dict[str, str]  # by path


@dataclass
class Ranking:
    """The largest of their kind."""

    title: str
    unit: str
    rows: Rows


@dataclass
class Survey:
    """What the flow found."""

    modules: list[Module]
    failures: dict[str, str]  # files that could not be measured, and why
    rankings: list[Ranking]
    imports: dict[str, set[str]]  # the import graph, by top-level names
    attempts: list[int]  # that each section of the report needed
    task_runs: int
    seconds: float  # from the first line of the flow to its last


def stdlib() -> Path:
    """Where the standard library is: asked by every worker for itself, because machines differ."""
    return Path(sysconfig.get_paths()["stdlib"])


# ---------------------------------------------------------------------- tasks


@task
def measure(path: str) -> Module:
    """Parses one file of the standard library and counts what is in it."""
    began = time.thread_time()
    source = (stdlib() / path).read_bytes()
    module = Module(
        _dotted(path), source.count(b"\n"), classes=0, functions=0, longest=[], imports=set()
    )
    functions: Rows = []
    for scope, node in _statements(ast.parse(source, path), module.name):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                functions.append((scope, (node.end_lineno or node.lineno) - node.lineno + 1))
            case ast.ClassDef():
                module.classes += 1
            case ast.Import():
                module.imports.update(alias.name.partition(".")[0] for alias in node.names)
            case ast.ImportFrom(module=str(name), level=0):
                module.imports.add(name.partition(".")[0])
    module.functions, module.longest = len(functions), _largest(functions)
    module.seconds = time.thread_time() - began
    return module


@task
def add_up(paths: list[str], measured: list[Module | Exception]) -> Folder:
    """Puts the files of a folder together; of a run that failed there is the exception."""
    return Folder(
        modules=[outcome for outcome in measured if isinstance(outcome, Module)],
        failures={
            path: str(outcome)
            for path, outcome in zip(paths, measured, strict=True)
            if isinstance(outcome, Exception)
        },
    )


@task
def rank(by: Callable[[list[Module]], Ranking], folders: list[Folder]) -> Ranking:
    """Makes one ranking of all modules."""
    return by(_modules_of(folders))


@task
def publish(report: Path, sections: dict[str, list[str]]) -> list[int]:
    """Writes a report, its sections side by side, in whatever order they come.

    Returns:
        How many attempts each section needed.
    """
    heading = write_heading.submit(report, "The standard library")
    # The sections take nothing from the heading; it only has to be there first.
    titles, lines = sections.keys(), sections.values()
    return write_section.map(titles, lines, unmapped(report), wait_for=heading).result()


@task
def write_heading(report: Path, title: str) -> None:
    """Begins a report."""
    report.write_text(f"# {title}\n", encoding="utf-8")


def is_locked(task: object, run: object, state: State[object]) -> bool:
    """Whether an attempt failed because somebody else was writing, which passes, so that a retry makes sense."""
    return isinstance(get_state_exception(state), FileExistsError)


@task(retries=100, retry_delay_seconds=0.01, retry_jitter_factor=0.5, retry_condition_fn=is_locked)
def write_section(title: str, lines: list[str], report: Path) -> int:
    """Adds a section to a report that others add to as well: one at a time, whichever process they are in.

    Who finds it locked gives up, and is tried again a little later; it holds no worker until then.

    Returns:
        How many attempts it took.
    """
    lock = report.with_suffix(".lock")
    lock.touch(exist_ok=False)
    try:
        with report.open("a", encoding="utf-8") as file:
            file.write("\n".join(["", f"## {title}", "", *lines, ""]))
            file.flush()
            os.fsync(file.fileno())
    finally:
        lock.unlink()
    return task_run.run_count


# ---------------------------------------------------------------------- rankings


def largest_modules(modules: list[Module]) -> Ranking:
    """By lines."""
    rows = [(module.name, module.lines) for module in modules]
    return Ranking("Largest modules", "lines", _largest(rows))


def longest_functions(modules: list[Module]) -> Ranking:
    """By lines, the definition's own and its docstring included."""
    rows = [row for module in modules for row in module.longest]
    return Ranking("Longest functions", "lines", _largest(rows))


def most_imported(modules: list[Module]) -> Ranking:
    """By how many modules import them."""
    counts = Counter(name for module in modules for name in module.imports)
    return Ranking("Most imported", "modules", _largest(list(counts.items())))


def import_graph(modules: list[Module]) -> dict[str, set[str]]:
    """Which module of the standard library imports which, by their top-level names."""
    graph: dict[str, set[str]] = {}
    for module in modules:
        name = module.name.partition(".")[0]
        graph.setdefault(name, set()).update(module.imports & sys.stdlib_module_names - {name})
    return graph


def _largest(rows: Rows) -> Rows:
    return nlargest(TOP, rows, key=lambda row: (row[1], row[0]))


# ---------------------------------------------------------------------- the flow

#: What is to be done while files are measured: something that waits for their futures.
Watch = Callable[[Sequence[TaskFuture[Module]]], object]


@flow
def survey(report: Path, limit: int | None = None, watch: Watch = wait) -> Survey:
    """Measures the standard library, ranks what is in it, and writes a report.

    Args:
        report: the file to write.
        limit: how many files to measure, the first by name; all by default.
        watch: called with the futures of the files, to wait for them and perhaps to show how many have ended.
    """
    began = time.perf_counter()
    paths = find_files(limit)
    groups = by_folder(paths)

    # None of these lines waits: a run starts as soon as those have ended whose futures it was given.
    files = measure.map(paths)
    file_at = dict(zip(paths, files, strict=True))
    measured = [allow_failure([file_at[path] for path in group]) for group in groups]
    folders = add_up.map(groups, measured)
    rankings = rank.map([largest_modules, longest_functions, most_imported], unmapped(folders))
    watch(files)

    # A flow is plain Python: what is quickly done needs no task.
    modules = _modules_of(folders.result())
    failures = {path: why for folder in folders.result() for path, why in folder.failures.items()}
    graph = import_graph(modules)

    attempts = publish.submit(report, sections_of(rankings.result(), graph)).result()
    publishing = 2 + len(attempts)  # publish itself, the heading, the sections
    task_runs = len(files) + len(folders) + len(rankings) + publishing
    seconds = time.perf_counter() - began
    return Survey(modules, failures, rankings.result(), graph, attempts, task_runs, seconds)


def find_files(limit: int | None) -> list[str]:
    """The files of the standard library, relative to it; the largest first, so that no long run comes last."""
    root = stdlib()
    paths = sorted(path.relative_to(root) for path in root.rglob("*.py"))
    paths = [path for path in paths if not SKIPPED.intersection(path.parts)][:limit]
    paths.sort(key=lambda path: (root / path).stat().st_size, reverse=True)
    return [path.as_posix() for path in paths]


def by_folder(paths: list[str]) -> list[list[str]]:
    """The same paths, a list for each folder."""
    folders: dict[str, list[str]] = {}
    for path in paths:
        folders.setdefault(path.rpartition("/")[0], []).append(path)
    return list(folders.values())


def sections_of(rankings: list[Ranking], graph: dict[str, set[str]]) -> dict[str, list[str]]:
    """The sections of the report, lines by title."""
    sections = {ranking.title: [f"{n} {name}" for name, n in ranking.rows] for ranking in rankings}
    sections["Imports"] = [f"{name}: {' '.join(sorted(graph[name]))}" for name in sorted(graph)]
    return sections


def _modules_of(folders: list[Folder]) -> list[Module]:
    return [module for folder in folders for module in folder.modules]


def _statements(tree: ast.AST, scope: str) -> Iterator[tuple[str, ast.AST]]:
    """Every statement, with the dotted name of the class or function that it is or that is around it."""
    waiting = [(scope, tree)]
    while waiting:
        scope, node = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            scope = f"{scope}.{node.name}"
        yield scope, node
        waiting += [
            (scope, child) for child in ast.iter_child_nodes(node) if isinstance(child, _HOLDERS)
        ]


def _dotted(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
