"""The examples whose output the reference shows, log lines included: run as scripts, as a user would."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

RUNNERS = ["threads", "processes:2"]

LOG_LINE = re.compile(
    r"(?P<time>\d\d:\d\d:\d\d\.\d{3}) \| (?P<level>[A-Z]+ *) \| (?P<kind>Flow|Task) run '(?P<name>.+)' - (?P<text>.*)"
)


def run(script: str, runner: str) -> list[str]:
    """Runs a script of this directory, and gives the lines of its output, log lines at their place."""
    path = Path(__file__).with_name(script)
    done = subprocess.run(
        [sys.executable, "-u", path],
        env=os.environ | {"SHOAL_TASK_RUNNER": runner},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout.splitlines()


def parse(line: str) -> re.Match[str]:
    match = LOG_LINE.fullmatch(line)
    assert match is not None, f"not a log line: {line!r}"
    assert match["level"] == "INFO   "
    return match


def begins_and_ends(lines: list[str], flow_name: str) -> None:
    """The first and the last line are those of the flow run."""
    first, last = parse(lines[0]), parse(lines[-1])
    assert first["kind"] == last["kind"] == "Flow"
    assert first["name"] == last["name"]
    assert re.fullmatch(r"[a-z]+-[a-z]+", first["name"])
    assert first["text"] == f"Beginning flow run '{first['name']}' for flow '{flow_name}'"
    assert last["text"] == "Finished in state Completed()"


def task_runs(lines: list[str]) -> list[str]:
    """The names in log lines about task runs that completed."""
    matches = [parse(line) for line in lines]
    assert {match["kind"] for match in matches} == {"Task"}
    assert {match["text"] for match in matches} == {"Finished in state Completed()"}
    return [match["name"] for match in matches]


@pytest.mark.parametrize("runner", RUNNERS)
def test_text_analysis(runner: str) -> None:
    lines = run("text_analysis.py", runner)
    begins_and_ends(lines, "run-text-analysis")
    assert lines[8:-1] == [
        "",
        "Analysis Results:",
        "  Word counts: [9, 11, 10]",
        "  Extracted emails: [['visitor@example.com'], ['developer@example.com'], ['events@company.org']]",
        "",
    ]
    names = task_runs(lines[1:8])
    assert sorted(re.sub(r"-[0-9a-f]{3}$", "", name) for name in names) == [
        "analyze_texts",
        *["count_words"] * 3,
        *["extract_emails"] * 3,
    ]
    assert names[-1].startswith("analyze_texts"), "what is mapped within a task ends before it"


@pytest.mark.parametrize("runner", RUNNERS)
def test_model_training(runner: str) -> None:
    lines = run("model_training.py", runner)
    begins_and_ends(lines, "evaluate-models")
    datasets, models = ("customers", "products", "orders"), ("random_forest", "gradient_boosting")
    assert sorted(task_runs(lines[1:7])) == sorted(
        f"train on {dataset} with {model}" for dataset in datasets for model in models
    )
    assert lines[7] == ""
    assert lines[8].startswith("Best model: ")
    best = ast.literal_eval(lines[8].removeprefix("Best model: "))
    assert best["dataset"] in datasets
    assert best["model"] in models
    assert len(lines) == 10
