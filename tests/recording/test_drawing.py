"""`flow.visualize`: what is drawn, that no task is executed, and what a flow is told that cannot be drawn."""

from __future__ import annotations

import asyncio
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NoReturn
from xml.etree import ElementTree

import pytest
from shoal import allow_failure, flow, quote, task, unmapped
from shoal.exceptions import (
    InvalidOption,
    MappingLengthMismatch,
    MappingMissingIterable,
    ParameterBindError,
    ParameterTypeError,
    VisualizationError,
)
from shoal.futures import as_completed, wait
from shoal.recording.drawing import Drawing, DrawnFlow, DrawnTask, Link
from shoal.states import State
from shoal.task_runners import ThreadPoolTaskRunner


def never() -> NoReturn:
    raise AssertionError("a task was executed")


@task
def load(path: str = "x") -> Any:
    never()


@task
def clean(rows: Any, *more: Any, **named: Any) -> Any:
    never()


@task
def merge(*parts: Any) -> Any:
    never()


@task(viz_return_value=[1, 2, 3])
def three() -> Any:
    never()


def arrows(drawing: Drawing) -> list[str]:
    """`load -> clean` for what is passed, `load .> clean` for what is only waited for."""
    labels = {task.id: task.label for task in drawing.tasks}
    labels |= {flow.id: flow.name for flow in drawing.flows}
    return [
        f"{labels[link.source]} {'.' if link.waits else '-'}> {labels[link.target]}"
        for link in drawing.links
    ]


def labels(drawing: Drawing) -> list[str]:
    return [task.label for task in drawing.tasks]


# ---------------------------------------------------------------------- what is drawn


def test_submits_with_futures_results_and_waits() -> None:
    @flow
    def etl() -> None:
        first = load.submit("a")
        second = load.submit("b")
        cleaned = clean.submit(first, {"deep": [second]}, wait_for=[second])
        merge.submit(cleaned.result(), wait_for=[first])
        clean.submit(cleaned.state, more=allow_failure(second), quoted=quote(first))

    drawing = etl.visualize()
    assert labels(drawing) == ["load", "load", "clean", "merge", "clean"]
    assert arrows(drawing) == [
        "load -> clean",
        "load -> clean",
        "clean -> merge",
        "load .> merge",
        "clean -> clean",
        "load -> clean",
    ]
    assert [link[:2] for link in drawing.links[:2]] == [("t0", "t2"), ("t1", "t2")]


def test_direct_calls_pass_values() -> None:
    @flow
    def main() -> None:
        rows = load()
        both = [rows, three()]
        merge(both, {"key": rows})
        state = load(return_state=True)
        assert isinstance(state, State)
        assert state.is_completed()
        clean(state, wait_for=[rows])

    assert arrows(main.visualize()) == [
        "load -> merge",
        "three -> merge",
        "load -> clean",
        "load .> clean",
    ]


def test_maps_are_one_node() -> None:
    @flow
    def main() -> None:
        cleaned = clean.map(["a", "b"], unmapped(load.submit()))
        merge.submit(cleaned)
        merge.submit(cleaned[1])
        merge.submit(*cleaned.result(), wait_for=cleaned)
        clean.map(cleaned)

    drawing = main.visualize()
    assert labels(drawing) == ["load", "clean ×2", "merge", "merge", "merge", "clean ×2"]
    assert arrows(drawing) == [
        "load -> clean ×2",
        *["clean ×2 -> merge"] * 3,
        "clean ×2 -> clean ×2",
    ]


def test_a_map_over_what_is_not_known_yet() -> None:
    @flow
    def main() -> None:
        cleaned = clean.map(load.submit(), more=unmapped(load()))
        merge.submit(cleaned)
        clean.map(three.submit())
        assert len(clean.map(load(), ["a", "b"], return_state=True)) == 2

    drawing = main.visualize()
    assert labels(drawing) == [
        *("load", "load", "clean ×?", "merge", "three", "clean ×3", "load", "clean ×2"),
    ]
    assert arrows(drawing)[:4] == [
        *("load -> clean ×?", "load -> clean ×?", "clean ×? -> merge", "three -> clean ×3"),
    ]


def test_maps_that_cannot_be_are_refused_as_in_a_run() -> None:
    @flow
    def main(kind: str) -> None:
        if kind == "none":
            clean.map(1)
        if kind == "lengths":
            clean.map([1], [2, 3])
        if kind == "signature":
            load.map(["x"], nonsense=load())

    for kind, error in (
        ("none", MappingMissingIterable),
        ("lengths", MappingLengthMismatch),
        ("signature", ParameterBindError),
    ):
        with pytest.raises(error):
            main.visualize(kind)


def test_nested_flows_are_frames() -> None:
    @flow(name="child")
    def child(rows: int, times: int) -> Any:
        assert times == 2
        return clean.submit(rows)

    @flow(name="parent")
    def parent() -> None:
        rows = load()
        first = child(rows, 2)  # what there is no value of is not validated
        second = child(first, times=2, wait_for=[rows])
        merge.submit(second, child(1, 2, return_state=True))

    drawing = parent.visualize()
    assert drawing.flows == (
        DrawnFlow("f0", "parent", None),
        *(DrawnFlow(f"f{i}", "child", "f0") for i in (1, 2, 3)),
    )
    assert [drawn.flow for drawn in drawing.tasks] == ["f0", "f1", "f2", "f3", "f0"]
    assert arrows(drawing) == [
        "load -> clean",
        "load .> child",
        "clean -> clean",
        "clean -> merge",
        "clean -> merge",
    ]


def test_async_flows_and_tasks() -> None:
    @task
    async def fetch(url: str) -> str:
        never()

    @flow
    async def inner(text: str) -> Any:
        return await clean.submit(text)

    @flow
    async def main() -> None:
        a, b = await asyncio.gather(fetch("a"), fetch("b"))
        c = fetch.submit("c")
        merge(a, b, await c)
        texts = [text async for text in lines()]
        merge.submit(texts, await inner(a), [done async for done in as_completed([c])])

    @task
    async def lines() -> AsyncIterator[str]:
        yield never()

    @flow
    async def items() -> AsyncIterator[Any]:
        yield load.submit()
        yield clean.submit(1)

    expected = [*["fetch -> merge"] * 3, "fetch -> clean", "lines -> merge", "clean -> merge"]
    assert arrows(main.visualize()) == [*expected, "fetch -> merge"]
    assert labels(items.visualize()) == ["load", "clean"]

    async def in_a_notebook() -> Drawing:
        return main.visualize()

    assert len(asyncio.run(in_a_notebook()).tasks) == 7


def test_generators() -> None:
    @task
    def lines() -> Iterator[str]:
        yield never()

    @task(viz_return_value=["a", "b"])
    def words() -> Iterator[str]:
        yield never()

    @flow
    def parts() -> Iterator[Any]:
        yield load.submit()
        yield load.submit()

    @flow
    def main() -> Iterator[Any]:
        for line in lines():
            clean(line)
        assert list(words()) == ["a", "b"]
        for part in parts():
            clean.submit(part)
        yield merge.submit(lines.submit())

    drawing = main.visualize()
    assert arrows(drawing) == [
        *("lines -> clean", "load -> clean", "load -> clean", "lines -> merge"),
    ]
    assert [drawn.flow for drawn in drawing.tasks if drawn.name == "load"] == ["f1", "f1"]


def test_methods() -> None:
    class Job:
        @task
        def work(self, number: int) -> int:
            never()

        @flow
        def main(self, number: int) -> None:
            merge.submit(self.work(number), self.work.submit(1), self.work.map([1, 2]))

    expected = ["work -> merge", "work -> merge", "work ×2 -> merge"]
    assert arrows(Job().main.visualize(1)) == expected


def test_futures_can_be_waited_for_and_have_callbacks() -> None:
    called: list[Any] = []

    @flow
    def main() -> None:
        futures = [load.submit(), load.submit()]
        assert wait(futures).not_done == set()
        assert set(as_completed(futures)) == set(futures)
        for future in futures:
            future.add_done_callback(called.append)
            assert not future.cancel()
            assert future.native is None

    assert len(main.visualize().tasks) == 2


def test_a_runner_of_its_own_executes_nothing_either() -> None:
    @flow
    def main() -> None:
        with ThreadPoolTaskRunner(max_workers=1) as runner:
            first = runner.submit(load, {"path": "a"})
            runner.map(clean, {"rows": first})

    assert arrows(main.visualize()) == ["load -> clean ×?"]


def test_a_flow_is_drawn_by_another_that_runs() -> None:
    @task
    def real() -> int:
        return 7

    @flow
    def other(given: Any) -> None:
        clean.submit(given)

    @flow
    def main() -> str:
        return f"{real.submit().result()} {arrows(other.visualize(real.submit()))}"

    assert main() == "7 []"


def test_parameters_are_validated() -> None:
    @flow
    def main(count: int) -> None:
        assert count == 3
        load.map(["x"] * count)

    assert labels(main.visualize("3")) == ["load ×3"]  # type: ignore[arg-type]
    with pytest.raises(ParameterTypeError):
        main.visualize("three")  # type: ignore[arg-type]
    with pytest.raises(ParameterBindError):
        main.visualize(1, 2)  # type: ignore[call-arg]


# ---------------------------------------------------------------------- what stands for results


USES: dict[str, Any] = {
    "bool": bool,
    "len": len,
    "iter": list,
    "add": lambda rows: rows + 1,
    "radd": lambda rows: 1 - rows,
    "eq": lambda rows: rows == 1,
    "gt": lambda rows: rows > 1,
    "item": lambda rows: rows["key"],
    "attribute": lambda rows: rows.shape,
    "call": lambda rows: rows(),
    "in": lambda rows: 1 in rows,
    "hasattr": lambda rows: hasattr(rows, "shape"),
    "index": range,
    "path": Path,
}


@pytest.mark.parametrize(
    "use",
    USES.values(),
    ids=USES,
)
def test_a_flow_that_uses_a_result_is_told_what_to_do(use: Any) -> None:
    @flow
    def main() -> None:
        use(load.submit().result())

    with pytest.raises(VisualizationError) as raised:
        main.visualize()
    assert raised.value.task_name == "load"
    assert "@task(viz_return_value=...)" in str(raised.value)


def test_a_placeholder_can_be_printed_and_be_a_key(capsys: pytest.CaptureFixture[str]) -> None:
    @flow
    def main() -> None:
        rows = load()
        print(f"{rows}")
        assert {rows: 1}[rows] == 1

    main.visualize()
    assert capsys.readouterr().out == "<result of task 'load'>\n"


def test_a_value_in_the_place_of_the_result() -> None:
    @flow
    def main() -> None:
        if sum(three()) == 6:
            clean(three())

    assert arrows(main.visualize()) == ["three -> clean"]


def test_the_value_does_not_travel() -> None:
    stand_in = task(name="x", viz_return_value=sys.stdout)(len)
    assert stand_in.with_options(retries=1).viz_return_value is sys.stdout
    assert pickle.loads(pickle.dumps(stand_in)).viz_return_value is None


# ---------------------------------------------------------------------- text and pictures

HOSTILE = "<b>\"x\"</b> & `y`; #1\n\\ 'z'"


def hostile() -> Drawing:
    flows = [DrawnFlow("f0", HOSTILE, None), DrawnFlow("f1", HOSTILE, "f0")]
    tasks = [DrawnTask("t0", HOSTILE, 1, False, "f0"), DrawnTask("t1", "end", None, True, "f1")]
    return Drawing(flows, tasks, [Link("t0", "t1", False), Link("t0", "f1", True)])


def test_mermaid() -> None:
    @flow(name="inner")
    def inner(rows: Any) -> Any:
        return clean.map(rows)

    @flow(name="outer")
    def outer() -> None:
        merge.submit(inner(load()), wait_for=[load.submit()])

    assert str(outer.visualize()) == (
        "graph TD  %% outer\n"
        '    t0["load"]\n'
        '    t2["load"]\n'
        '    t3["merge"]\n'
        '    subgraph f1["inner"]\n'
        '        t1[["clean ×?"]]\n'
        "    end\n"
        "    t0 --> t1\n"
        "    t1 --> t3\n"
        "    t2 -.-> t3"
    )


def test_names_are_escaped() -> None:
    label = "#60;b#62;#34;x#34;#60;/b#62; #38; #96;y#96;#59; #35;1 #92; #39;z#39;"
    lines = str(hostile()).splitlines()
    assert lines[1:4] == [
        f'    t0["{label}"]',
        f'    subgraph f1["{label}"]',
        '        t1[["end ×?"]]',
    ]
    quoted = r"<b>\"x\"</b> & `y`; #1 \\ 'z'"
    assert f't0 [label="{quoted}"];' in hostile().dot()


def test_runs_that_are_alike_are_one_node_where_there_are_many() -> None:
    @flow
    def main(count: int) -> None:
        cleaned = [clean.submit(load.submit()) for _ in range(count)]
        merge.submit(cleaned)

    few = main.visualize(10)
    assert len(few.tasks), len(few.links) == (21, 20)
    many = main.visualize(1000)
    assert labels(many) == ["load ×1000", "clean ×1000", "merge"]
    assert arrows(many) == ["load ×1000 -> clean ×1000", "clean ×1000 -> merge"]


def test_saving(tmp_path: Path) -> None:
    drawing = hostile()
    for name, content in {
        "x.mmd": f"{drawing}\n",
        "x.mermaid": f"{drawing}\n",
        "x.md": f"```mermaid\n{drawing}\n```\n",
        "x.dot": f"{drawing.dot()}\n",
    }.items():
        drawing.save(tmp_path / name)
        assert (tmp_path / name).read_text(encoding="utf-8") == content
    with pytest.raises(InvalidOption, match=r"\.svg"):
        drawing.save(tmp_path / "x.docx")
    with pytest.raises(FileNotFoundError):
        drawing.save(tmp_path / "nowhere" / "x.mmd")


def test_without_graphviz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(VisualizationError, match="apt install graphviz"):
        hostile().save(tmp_path / "x.svg")
    assert not (tmp_path / "x.svg").exists()
    bundle = hostile()._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/vnd.mermaid"}


def test_a_graphviz_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "dot"
    program.write_text("#!/bin/sh\necho no fonts >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(VisualizationError, match="no fonts"):
        hostile().svg()
    bundle = hostile()._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/vnd.mermaid"}
    assert "no fonts" in bundle["text/plain"]


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_pictures_of_graphviz(tmp_path: Path) -> None:
    svg = ElementTree.fromstring(hostile().svg())
    texts = ["".join(text.itertext()) for text in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert sorted(texts) == sorted([" ".join(HOSTILE.split())] * 2 + ["end ×?"])
    assert len([g for g in svg.iter() if g.get("class") == "edge"]) == 2
    assert "image/svg+xml" in hostile()._repr_mimebundle_()
    hostile().save(tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_not_drawn_costs_nothing() -> None:
    code = (
        "import json, sys; from shoal import flow, task\n"
        "@flow(task_runner='threads:1')\n"
        "def main(): task(len)('x'); return task(len).map(['x']).result()\n"
        "main(); print(json.dumps(sorted(name for name in sys.modules if name[:5] == 'shoal')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = json.loads(done.stdout.splitlines()[-1])
    assert "shoal.flows" in loaded
    assert not {"shoal.recording.drawing", "shoal.recording.dry_run"} & set(loaded)
