"""Run numbers, UUIDs and names (SPEC 8.2)."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import threading
import uuid
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shoal import names
from shoal.exceptions import RunNameError
from shoal.names import (
    flow_run_name,
    function_name_to_flow_name,
    next_number,
    process_entropy,
    render_run_name,
    reserve,
    run_uuid,
    task_run_name,
)

# ---------------------------------------------------------------------- numbers


def test_numbers_are_given_once_whoever_asks() -> None:
    taken: list[int] = []
    start = threading.Barrier(4)

    def take() -> None:
        start.wait()
        mine = []
        for _ in range(500):
            mine.append(next_number())
            base = reserve(3)
            mine.extend(range(base, base + 3))
        taken.extend(mine)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == len(set(taken)) == 4 * 500 * 4
    assert min(taken) > 0
    assert max(taken) < 1 << 48


# ---------------------------------------------------------------------- UUIDs


@given(number=st.integers(1, (1 << 48) - 1), entropy=st.integers(0, (1 << 74) - 1))
def test_uuid_is_well_formed_and_holds_all_bits(number: int, entropy: int) -> None:
    text = run_uuid(number, entropy)
    parsed = uuid.UUID(text)
    assert str(parsed) == text
    assert parsed.variant == uuid.RFC_4122
    assert parsed.version == 8
    assert parsed.node == number
    rest = (parsed.int >> 80) << 26 | (parsed.int >> 64 & 0xFFF) << 14 | parsed.int >> 48 & 0x3FFF
    assert rest == entropy


def test_uuid_uses_this_process_s_entropy() -> None:
    assert run_uuid(7) == run_uuid(7, process_entropy())
    assert run_uuid(7) != run_uuid(8)


def test_other_processes_have_other_uuids() -> None:
    code = "from shoal.names import run_uuid; print(run_uuid(7))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert uuid.UUID(done.stdout.strip()) != uuid.UUID(run_uuid(7))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # other tests' threads
def test_forked_processes_have_other_uuids() -> None:
    mine = run_uuid(7)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, f"{run_uuid(7)} {reserve(1)}".encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs, number = os.read(read, 100).decode().split()
    os.close(read)
    os.close(write)
    assert theirs != mine
    assert theirs.split("-")[-1] == mine.split("-")[-1]
    assert int(number) > 0
    assert run_uuid(7) == mine


def test_uuid_module_is_not_needed() -> None:
    code = (
        "import sys; before = set(sys.modules); from shoal.names import run_uuid; run_uuid(7);"
        "print(*sorted({'uuid', 'random', 'inspect', 'datetime', 'dataclasses'} & (set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


# ---------------------------------------------------------------------- default names


def test_task_run_name() -> None:
    assert re.fullmatch(r"inc-[0-9a-f]{3}", task_run_name("inc", 12))
    assert task_run_name("inc", 12) == task_run_name("inc", 12)


@given(start=st.integers(1, 1 << 48))
def test_neighbours_have_different_names(start: int) -> None:
    assert len({task_run_name("inc", start + i) for i in range(1000)}) == 1000


def test_flow_run_name() -> None:
    seen = {flow_run_name() for _ in range(100)}
    assert len(seen) > 90
    assert all(re.fullmatch(r"[a-z]+-[a-z]+", name) for name in seen)


def test_flow_run_name_leaves_the_user_s_random_numbers_alone() -> None:
    random.seed(1)
    first = flow_run_name(), random.random()
    random.seed(1)
    second = flow_run_name(), random.random()
    assert first[1] == second[1]


@pytest.mark.parametrize(
    "words", [names._ADJECTIVES, names._ANIMALS], ids=["adjectives", "animals"]
)
def test_word_lists(words: list[str]) -> None:
    assert len(words) == len(set(words)) >= 60
    assert all(re.fullmatch(r"[a-z]+", word) for word in words)


def test_function_name_to_flow_name() -> None:
    """SPEC 3.1."""
    assert function_name_to_flow_name("run_text_analysis") == "run-text-analysis"


# ---------------------------------------------------------------------- templates, SPEC 8.2

PARAMETERS: dict[str, Any] = {
    "dataset": SimpleNamespace(name="iris"),
    "sizes": [10, 20],
    "options": {"depth": 3},
    "rate": 0.12345,
}


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("train on {dataset.name}", "train on iris"),
        ("size {sizes[1]}", "size 20"),
        ("depth {options[depth]}", "depth 3"),
        ("rate {rate:.2f}", "rate 0.12"),
        ("plain {{}}", "plain {}"),
        ("", ""),
    ],
)
def test_templates(template: str, name: str) -> None:
    assert render_run_name(template, PARAMETERS, task_name="train") == name


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{nosuch}", "no parameter 'nosuch' (parameters: dataset, sizes, options, rate)"),
        ("{dataset.size}", "size"),
        ("{sizes[9]}", "IndexError"),
        ("{options[width]}", "KeyError: 'width'"),
        ("{}", "ValueError"),
        ("{0}", "ValueError"),
        ("{dataset", "ValueError"),
        ("{rate:nonsense}", "ValueError"),
    ],
)
def test_bad_templates(template: str, problem: str) -> None:
    with pytest.raises(RunNameError) as caught:
        render_run_name(template, PARAMETERS, task_name="train")
    assert caught.value.template == template
    assert caught.value.task_name == "train"
    assert problem in caught.value.problem
    assert caught.value.__cause__ is not None


def test_callables() -> None:
    def of_parameters(parameters: dict[str, Any]) -> str:
        return f"rate {parameters['rate']}"

    assert render_run_name(lambda: "fixed", PARAMETERS, task_name="train") == "fixed"
    assert render_run_name(of_parameters, PARAMETERS, task_name="train") == "rate 0.12345"


def test_bad_callables() -> None:
    def gives_number() -> Any:
        return 3

    def raises() -> str:
        raise LookupError("no name left")

    with pytest.raises(RunNameError, match=r"gives_number\(\).*'train'.*returned 3"):
        render_run_name(gives_number, PARAMETERS, task_name="train")
    with pytest.raises(RunNameError, match=r"raises\(\).*LookupError: no name left"):
        render_run_name(raises, PARAMETERS, task_name="train")
