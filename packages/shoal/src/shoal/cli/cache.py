"""`shoal cache`: what of results is kept, and how to be rid of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from shoal.cli.console import UsageError
from shoal.cli.tables import AsJson, Output, local, print_facts, print_json, table_of
from shoal.recording.report.words import many, size
from shoal.spelling import did_you_mean

if TYPE_CHECKING:
    from shoal.results.changes import Change
    from shoal.results.storage import Entry, Storage

__all__ = ["cache"]

cache = App(help="See what results are kept, and remove them.")

Where = Annotated[
    str | None,
    Parameter(name=["--storage", "-s"], help="The folder or URL; by default that of the settings"),
]
Task = Annotated[str | None, Parameter(name=["--task", "-t"], help="Of this task only")]
Key = Annotated[str, Parameter(help="The key, or its beginning", allow_leading_hyphen=True)]

#: So many characters of a key tell it apart from others, in a list that a person reads.
_SHORT = 12


@cache.command
def ls(
    *, task: Task = None, storage: Where = None, json: AsJson = False, output: Output = None
) -> None:
    """List the results that are kept, those used last first."""
    opened = _opened(storage)
    entries = sorted(_entries(opened, task), key=lambda entry: entry.used, reverse=True)
    if json or output:
        print_json([_as_json(entry) for entry in entries])
    elif not entries:
        print(f"No results{_of(task)} are kept in {opened}.")
    else:
        table_of(
            ("KEY", "TASK", "RUN", "MADE", "USED", "EXPIRES", "SIZE"),
            [
                (
                    _short(entry.record.key),
                    entry.record.task_name or "-",
                    entry.record.run_name or "-",
                    _when(entry.record.created),
                    _when(entry.used),
                    _when(entry.record.expires),
                    size(entry.size),
                )
                for entry in entries
            ],
        )


@cache.command
def info(
    key: Annotated[str | None, Parameter(help="The key of a result, or its beginning")] = None,
    /,
    *,
    storage: Where = None,
    json: AsJson = False,
    output: Output = None,
) -> None:
    """Show where results are kept and how much that is; or, with a key, one result."""
    opened = _opened(storage)
    facts = _facts_of_all(opened) if key is None else _facts_of(opened, key)
    if json or output:
        print_json(facts)
    else:
        print_facts({name: _fact(name, value) for name, value in facts.items()})


@cache.command
def explain(
    run: Annotated[
        str,
        Parameter(
            help="A task run, or a flow run for all in it, or a key", allow_leading_hyphen=True
        ),
    ],
    /,
    *,
    storage: Where = None,
    json: AsJson = False,
    output: Output = None,
) -> None:
    """Say why a run computed its result: which argument, or line of code, is not as in an earlier run of its task."""
    from shoal.results.changes import changes_of

    opened = _opened(storage)
    changes = changes_of(opened, run)
    if json or output:
        print_json([_change_as_json(change) for change in changes])
    elif changes:
        for change in changes:
            print(_told(change))
    else:
        raise UsageError(
            f"no result that {run!r} computed is kept in {opened}. A run that was `Cached` computed none; `shoal cache ls`"
            " lists those that did."
        )


@cache.command
def rm(
    *keys: Key,
    task: Task = None,
    all_of_them: Annotated[bool, Parameter(name="--all", negative=(), help="All")] = False,
    storage: Where = None,
) -> None:
    """Remove results: by key, of a task, or all; what needs them computes them again."""
    if bool(keys) + (task is not None) + all_of_them != 1:
        raise UsageError("say which results are to go: one key or more, --task NAME, or --all")
    opened = _opened(storage)
    entries = _entries(opened, task)
    if keys:
        entries = [_entry(entries, key) for key in keys]
    removed = [entry for entry in entries if opened.remove(entry.record.key)]
    print(_removed(len(removed), sum(entry.size for entry in removed)))


@cache.command
def prune(
    *,
    max_gb: Annotated[float | None, Parameter(help="Keep no more than so many GB")] = None,
    max_days: Annotated[
        float | None, Parameter(help="Keep nothing that was not used for so many days")
    ] = None,
    storage: Where = None,
) -> None:
    """Remove results that have expired or do not verify, were not used for long, or are too many.

    What is not said is as the settings have it, SHOAL_RESULTS_MAX_GB and SHOAL_RESULTS_MAX_DAYS; 0 stands for no limit.
    """
    from shoal.results import settings

    pruned = _opened(storage).prune(
        settings.max_bytes() if max_gb is None else _limit("--max-gb", max_gb) * 1e9,
        settings.max_age() if max_days is None else _limit("--max-days", max_days) * 86400,
    )
    print(_removed(pruned.count, pruned.size))


def _limit(option: str, value: float) -> float:
    if not value >= 0:
        raise UsageError(f"{option} {value:g} is not a number from 0 up")
    return value or float("inf")


def _opened(where: str | None) -> Storage:
    from shoal.results.storage import open_storage

    return open_storage(where)


def _entries(storage: Storage, task: str | None) -> list[Entry]:
    """The results of a task, or all; the error, if there are none of it, suggests what may have been meant."""
    entries = storage.list()
    if task is None:
        return entries
    of_task = [entry for entry in entries if entry.record.task_name == task]
    if not of_task:
        names = {entry.record.task_name for entry in entries}
        raise UsageError(f"no result of a task {task!r} is kept. {did_you_mean(task, names)}")
    return of_task


def _entry(entries: list[Entry], key: str) -> Entry:
    if not key:  # of a variable of the shell that is not set, and all keys begin so
        raise UsageError("a key, or its beginning, is not empty")
    found = [entry for entry in entries if entry.record.key == key]
    found = found or [entry for entry in entries if entry.record.key.startswith(key)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError(f"no result is kept under the key {key!r}. `shoal cache ls` lists them.")
    raise UsageError(f"{len(found)} keys begin with {key!r}: give more of it.")


# ---------------------------------------------------------------------- words


def _facts_of_all(storage: Storage) -> dict[str, Any]:
    entries = storage.list()
    tasks: dict[str, int] = {}
    for entry in entries:
        tasks[entry.record.task_name] = tasks.get(entry.record.task_name, 0) + 1
    return {
        "storage": str(storage),
        "results": len(entries),
        "size": sum(entry.size for entry in entries),
        "tasks": tasks,
    }


def _facts_of(storage: Storage, key: str) -> dict[str, Any]:
    return _as_json(_entry(storage.list(), key))


def _as_json(entry: Entry) -> dict[str, Any]:
    record = entry.record
    return {
        "key": record.key,
        "task": record.task_name,
        "run": record.run_name,
        "flow_run": record.flow_run_name,
        "serializer": record.serializer,
        "made": _iso(record.created),
        "used": _iso(entry.used),
        "expires": _iso(record.expires),
        "size": entry.size,
        "name": entry.name,
    }


def _change_as_json(change: Change) -> dict[str, Any]:
    before = change.before
    return {
        "key": change.record.key,
        "task": change.record.task_name,
        "run": change.record.run_name,
        "beside": None if before is None else before.run_name,
        "beside_key": None if before is None else before.key,
        "changes": list(change.sentences),
    }


def _told(change: Change) -> str:
    name = change.record.run_name or change.record.key
    before = change.before
    if before is None:
        return f"{name}: no earlier result of task {change.record.task_name!r}, of another flow run, is kept to compare it with."
    beside = f"{name}, beside {before.run_name or before.key} of {_when(before.created)}:"
    changes = change.sentences or ["nothing that its key tells has changed"]
    return "\n  ".join([beside, *changes])


def _iso(when: float | None) -> str | None:
    return None if when is None else datetime.fromtimestamp(when, UTC).isoformat()


def _fact(name: str, value: Any) -> object:
    if name == "size":
        return size(value)
    if name == "results":
        return f"{value:,}"
    if name == "tasks":
        return ", ".join(f"{task or '-'} ({count:,})" for task, count in value.items()) or "-"
    if name in ("made", "used", "expires") and value is not None:
        return local(datetime.fromisoformat(value))
    return "-" if value in (None, "") else value


def _when(when: float | None) -> str:
    return "-" if when is None else local(datetime.fromtimestamp(when, UTC))


def _short(key: str) -> str:
    is_digest = len(key) >= 32 and all(letter in "0123456789abcdef" for letter in key)
    return key[:_SHORT] if is_digest else key


def _removed(count: int, freed: int) -> str:
    return f"Removed {many(count, 'result')}, {size(freed)}."


def _of(task: str | None) -> str:
    return "" if task is None else f" of task {task!r}"
