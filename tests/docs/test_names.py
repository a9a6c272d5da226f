"""Coming from Prefect: the page lists each public name of these modules, and what it says of each is so.

The lists are facts about Prefect 3, without names that it only imports for its own use.
"""

from __future__ import annotations

import importlib
import re
from functools import cache
from pathlib import Path

import pytest
from shoal.elsewhere import NAMES

PAGE = Path(__file__).parents[2] / "docs" / "coming-from-prefect.md"

PREFECT = {
    "prefect.task_runners": (
        "TaskRunner ThreadPoolTaskRunner ConcurrentTaskRunner ProcessPoolTaskRunner PrefectTaskRunner"
    ),
    "prefect.futures": (
        "PrefectFuture PrefectTaskRunFuture PrefectWrappedFuture PrefectConcurrentFuture"
        " PrefectDistributedFuture PrefectFlowRunFuture PrefectFutureList DoneAndNotDoneFutures"
        " as_completed wait resolve_futures_to_states resolve_futures_to_results"
    ),
    "prefect.states": (
        "State StateDetails StateGroup StateType"
        " AwaitingConcurrencySlot AwaitingRetry Cancelled Cancelling Completed Crashed Failed Late Paused Pending"
        " Retrying Running Scheduled Suspended"
        " aget_state_exception araise_state_exception exception_to_crashed_state exception_to_failed_state"
        " format_exception get_state_exception get_state_result is_state_iterable raise_state_exception"
        " return_value_to_state to_state_create"
    ),
    "prefect.transactions": (
        "transaction atransaction get_transaction Transaction AsyncTransaction BaseTransaction CommitMode IsolationLevel"
        " TransactionState"
    ),
    "prefect_dask": (
        "DaskTaskRunner PrefectDaskClient PrefectDaskFuture get_async_dask_client get_dask_client"
    ),
    "prefect_ray": "PrefectRayFuture RayTaskRunner RemoteOptionsContext remote_options",
}

NAMES_OF_PREFECT = [(module, name) for module, names in PREFECT.items() for name in names.split()]

#: Name, what it is here, and whether it is there: `| name | \`shoal.x\` |`, or `| name | not here: … |`.
ROW = re.compile(r"^\| `(?P<name>\w+)` \| (?P<answer>.*?) \|$")


@cache
def answers() -> dict[tuple[str, str], str]:
    """By Prefect's module and name, what the page says."""
    found: dict[tuple[str, str], str] = {}
    module = ""
    for line in PAGE.read_text().splitlines():
        if heading := re.match(r"^### `(prefect[\w.]*)`$", line):
            module = heading[1]
        elif line.startswith("#"):
            module = ""
        elif module and (row := ROW.match(line)):
            found[module, row["name"]] = row["answer"]
    return found


def imported(path: str) -> object:
    """What `from x import y` gives for `x.y`."""
    module, _, name = path.rpartition(".")
    names: dict[str, object] = {}
    exec(f"from {module} import {name}", names)
    return names[name]


def test_every_name_is_listed_and_no_other() -> None:
    assert set(answers()) == set(NAMES_OF_PREFECT)


@pytest.mark.parametrize(("module", "name"), NAMES_OF_PREFECT)
def test_what_the_page_says_of_a_name(module: str, name: str) -> None:
    answer = answers()[module, name]
    if answer.startswith("not here"):
        ours = module.replace("prefect", "shoal")
        assert name in NAMES[ours]
        with pytest.raises(ImportError, match="is not here"):
            imported(f"{ours}.{name}")
    else:
        path = re.match(r"`([\w.]+)`", answer)
        assert path is not None, "it begins with where it is"
        assert imported(path[1]) is not None


@pytest.mark.parametrize("module", PREFECT)
def test_what_is_said_to_be_missing_is(module: str) -> None:
    ours = module.replace("prefect", "shoal")
    for name in NAMES.get(ours, {}):
        assert answers()[module, name].startswith("not here")


def test_names_in_the_table_of_modules() -> None:
    """What the first table sends to can be imported."""
    text = PAGE.read_text()
    section = text[text.index("## Names") : text.index("## Every name")]
    for path in re.findall(r"`((?:shoal|shoal_dask|shoal_ray)(?:\.\w+)+)`", section):
        try:
            importlib.import_module(path)
        except ModuleNotFoundError:
            assert imported(path) is not None
