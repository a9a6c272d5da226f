"""Goes on with a flow run: finds its journal, says what of it will be reused, and makes the flow that goes on.

May import the other files of the package.
"""

from __future__ import annotations

import inspect
import sys
from collections import Counter, defaultdict
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from shoal.exceptions import InvalidOption, JournalError, ResultStorageError
from shoal.logs import library_logger, set_up
from shoal.names import go_on_as
from shoal.results.journal.file import JOURNAL, VALUES, JournalFile
from shoal.results.journal.journal import Resumption, parts_of, source_of
from shoal.results.journal.journals import check_trust, find
from shoal.results.journal.observing import keep_journals
from shoal.results.journal.places import key_of_parameters
from shoal.results.journal.reading import read_contents
from shoal.results.journal.values import Values, loads_beside
from shoal.results.keys import may_read_parameters
from shoal.results.storage import open_storage
from shoal.safely import in_words
from shoal.specs import TaskSpec, bind_error
from shoal.spelling import or_perhaps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from shoal.results.journal.contents import KnownTask
    from shoal.results.journal.reading import Facts

__all__ = ["plan", "resumed"]


def resumed(
    flow: Any,
    name: str,
    parameters: Mapping[str, Any],
    *,
    keep: Iterable[str] = (),
    runner: str | None = None,
) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """The flow that goes on with a run, and its arguments. See `Flow.resume`.

    Args:
        flow: as the code has it today.
        name: of the run.
        parameters: in the place of those that the run was begun with.
        keep: names of tasks whose results are reused although their code has changed.
        runner: in the place of the one that it was begun on, and that counts if it is empty; `None`: the flow's own, if it
            names one.
    """
    found = find(name)
    if found.facts is None:
        raise JournalError(path=str(found.folder / JOURNAL), problem=found.problem)
    header = found.facts.header
    if header.flow != flow.name:
        raise JournalError(
            path=str(found.folder),
            problem=f"it is of a run of the flow {header.flow!r}, and not of {flow.name!r}",
        )
    keep_journals()
    check_trust(found.folder)
    try:
        file = JournalFile(found.folder, header.name)
    except ResultStorageError as error:
        raise JournalError(path=str(found.folder), problem=str(error)) from error
    try:
        contents = read_contents(file.path)
        names = getattr(flow.fn, "__globals__", {})
        kept = _kept(contents.facts, keep, header.name)
        storage = open_storage(found.folder / VALUES)
        values = Values(contents, storage, names, header.name)
        _tell_damage(contents.facts, file.path)
        known = _parameters(contents.facts, flow.signature, names, parameters)
        bound = _bound(flow, known, parameters)
        options: dict[str, Any] = {
            "flow_run_name": header.name.replace("{", "{{").replace("}", "}}")
        }
        own = flow.task_runner if runner is None else runner
        options["task_runner"] = own or _runner(contents.facts, names) or flow.task_runner
        copy = flow.with_options(**options)
        file.go_on(contents.facts.sign, contents.facts.end)
    except OSError as error:
        file.close()
        raise JournalError(path=str(found.folder), problem=str(error)) from error
    except BaseException:
        file.close()
        raise
    begun, damaged = contents.facts.begun, contents.facts.damaged  # where one may have begun, too
    copy.run_number = go_on_as(header.run, len(begun) + len(damaged))
    copy.resumes = Resumption(file, contents, values, bool(parameters), kept)
    set_up()
    parameters_now = cache(lambda: _key_of_parameters(flow, bound))  # of no use to most
    reused = plan(contents.facts, names, kept, parameters_now)
    library_logger().info("Flow run %r goes on: %s", header.name, reused)
    return copy, bound.args, bound.kwargs


def _bound(flow: Any, known: Mapping[str, Any], anew: Mapping[str, Any]) -> inspect.BoundArguments:
    """The arguments of a flow whose parameters are known, some of them given anew.

    Raises:
        ParameterBindError: it has no parameter of a name.
    """
    signature: inspect.Signature = flow.signature
    others = next((p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD), None)
    bound = signature.bind_partial()
    for name in signature.parameters:
        if name in anew and name != others:
            bound.arguments[name] = anew[name]
        elif name in known:
            bound.arguments[name] = known[name]
    no_more = [name for name in known if name not in signature.parameters]
    if no_more:
        library_logger().warning(
            "The flow %r takes %s no more: what the run began with is left out",
            flow.name,
            ", ".join(map(repr, no_more)),
        )
    more = {name: value for name, value in anew.items() if name not in signature.parameters}
    if others is not None:
        bound.arguments[others] = {**known.get(others, {}), **more}
    elif more:
        try:
            signature.bind_partial(**more)
        except TypeError as error:
            raise bind_error(flow.name, signature, (), more, error) from None
    return bound


def _key_of_parameters(flow: Any, bound: inspect.BoundArguments) -> bytes:
    try:
        _, _, parameters = flow.validated(bound.args, bound.kwargs)
    except Exception:  # nothing will run: the flow run says why
        return b""
    return key_of_parameters(parameters)


def _tell_damage(facts: Facts, path: Path) -> None:
    parts = len(facts.damaged)
    if parts:
        library_logger().warning(
            "The journal %s is damaged: %s bytes are skipped, in %d part%s of it. Runs that stood there run again",
            path,
            f"{sum(facts.damaged):,}",
            parts,
            "" if parts == 1 else "s",
        )


def _parameters(
    facts: Facts,
    signature: inspect.Signature,
    names: Mapping[str, Any],
    anew: Mapping[str, Any],
) -> dict[str, Any]:
    if not facts.are_parameters_known:
        if signature.parameters and not anew:
            raise JournalError(
                path=facts.header.name,
                problem="it is damaged where the flow's parameters may have stood: give them anew",
            )
        return {}
    if not facts.parameters:
        return {}
    try:
        found: dict[str, Any] = loads_beside(facts.parameters, facts.header.module, names)
    except Exception as error:
        if anew:
            return {}
        raise JournalError(
            path=facts.header.name,
            problem=f"the flow's parameters cannot be read any more ({in_words(error)}): give them anew",
        ) from error
    return found


def _runner(facts: Facts, names: Mapping[str, Any]) -> Any:
    """The runner that a run was begun on; `None` if it is not known any more."""
    if not facts.runner:
        return None
    try:
        return loads_beside(facts.runner, facts.header.module, names)
    except Exception as error:
        library_logger().warning(
            "The runner of flow run %r cannot be had any more (%s): it goes on with the flow's own",
            facts.header.name,
            in_words(error),
        )
        return None


def _kept(facts: Facts, keep: Iterable[str], name: str) -> dict[str, int]:
    """By the name of each task that is to be kept, the index of that of which most has completed.

    Raises:
        InvalidOption: the journal knows none of that name.
    """
    kept: dict[str, int] = {}
    for task in [keep] if isinstance(keep, str) else keep:
        known = [index for index, one in facts.tasks.items() if one.name == task]
        if not known:
            others = {one.name for one in facts.tasks.values()}
            raise InvalidOption(
                option="keep",
                value=task,
                problem=f"flow run {name!r} had no task of this name{or_perhaps(task, others)}",
            )
        kept[task] = max(known, key=facts.completed.__getitem__)
    return kept


# ---------------------------------------------------------------------- what will be reused


def plan(
    facts: Facts, names: Mapping[str, Any], kept: Mapping[str, int], parameters: Callable[[], bytes]
) -> str:
    """What a run that goes on will reuse, as far as that can be told before: a sentence.

    Args:
        facts: of its journal.
        names: what is in the flow's module today.
        kept: by name, the index of a task that counts as what it was.
        parameters: gives the key of the flow's.
    """
    now = {index: _now(task, names, parameters) for index, task in facts.tasks.items()}
    why = {
        index: _why_not(task, found)
        for index, task in facts.tasks.items()
        if (found := now[index]) is not None and found.source != task.source
    }
    changed = [
        index
        for index, task in facts.tasks.items()
        if (kept[task.name] != index if task.name in kept else index in why)
    ]
    known = {task.name for index, task in facts.tasks.items() if now[index] is not None}
    current = {task.name for index, task in facts.tasks.items() if index not in changed}
    runs_again: dict[str, str] = {}
    for index in changed:  # the last one that was spoken of comes last
        name = facts.tasks[index].name
        if name not in current:  # else it is a task as it was before
            had = max(facts.completed[i] for i, task in facts.tasks.items() if task.name == name)
            which = "one" if had == 1 else f"{had:,}"
            way_out = f" (`--keep {name}` reuses the {which} that completed)" if had else ""
            runs_again[name] = why[index] + way_out
    _add_dependents(facts.tasks, changed, runs_again)
    gone = {task.name for task in facts.tasks.values() if _is_gone(task, now[task.index])} - known
    completed: Counter[str] = Counter()
    submitted: defaultdict[str, int] = defaultdict(int)
    for index, task in facts.tasks.items():
        if index not in changed:
            completed[task.name] += facts.completed[index]
        submitted[task.name] = max(
            submitted[task.name], facts.submitted[index], completed[task.name]
        )
    parts = [
        f"{_so_many(completed[name], submitted[name])} of `{name}` can be reused"
        + (f", though {why[kept[name]]}" if kept.get(name) in why else "")
        for name in submitted
        if name not in runs_again and name not in gone and completed[name]
    ]
    parts += [f"`{name}` runs again: {why}" for name, why in runs_again.items()]
    parts += [
        f"no run of `{name}` had completed"
        for name in submitted
        if name not in runs_again and name not in gone and not completed[name]
    ]
    parts += [f"there is no task `{name}` any more" for name in submitted if name in gone]
    return "; ".join(parts) or "nothing of it had completed"


def _so_many(completed: int, submitted: int) -> str:
    return "the one run" if submitted == 1 else f"{completed:,} of {submitted:,} runs"


def _add_dependents(
    tasks: Mapping[int, KnownTask], changed: Iterable[int], runs_again: dict[str, str]
) -> None:
    """Adds tasks that are given results of those whose code changed, and what is given results of theirs."""
    waiting = list(changed)
    seen = set(waiting)
    while waiting:
        upstream = waiting.pop()
        if tasks[upstream].name not in runs_again:
            continue
        for index, task in tasks.items():
            if upstream in task.takes and index not in seen:
                seen.add(index)
                waiting.append(index)
                runs_again.setdefault(task.name, f"it takes what `{tasks[upstream].name}` gives")


class _Now(NamedTuple):
    """What a task is today: see `KnownTask`."""

    source: str
    parts: dict[str, str]


def _is_gone(task: KnownTask, now: _Now | None) -> bool:
    """Whether a task that stood at the top of a module is not there any more. One that a function makes cannot be looked for."""
    return now is None and task.qualname.isidentifier()


def _now(task: KnownTask, names: Mapping[str, Any], parameters: Callable[[], bytes]) -> _Now | None:
    """What a task is today; `None` if it is not found."""
    found: Any = names.get(task.qualname.partition(".")[0])
    if found is None:
        found = getattr(sys.modules.get(task.module), task.qualname.partition(".")[0], None)
    for attribute in task.qualname.split(".")[1:]:
        found = getattr(found, attribute, None)
    if not isinstance(found, TaskSpec):
        found = next(
            (one for one in names.values() if isinstance(one, TaskSpec) and one.name == task.name),
            None,
        )
    if found is None:
        return None
    try:
        given = parameters() if may_read_parameters(found.fn) else b""
        return _Now(source_of(found.fn, given).hex(), parts_of(found.fn))
    except Exception:  # of the user's objects, too
        return _Now("", {})


#: How many names of what has changed are told.
_NAMED = 3


def _why_not(task: KnownTask, now: _Now) -> str:
    """Why runs of a task that is not what it was are not reused."""
    changed = [
        name for name in {**task.parts, **now.parts} if task.parts.get(name) != now.parts.get(name)
    ]
    if now.parts and not changed:
        return "it may read the flow's parameters, and these changed"
    own = next(iter(task.parts), None)
    others = [name for name in changed if name != own]
    if not others or not now.parts:
        return "its code changed"
    told = ", ".join(f"`{name}`" for name in others[:_NAMED])
    if len(others) > _NAMED:
        told += f" and {len(others) - _NAMED:,} more"
    return f"its code changed{', and ' if own in changed else ': '}{told}"
