"""Begins and ends the journals of this process: an observer, that has the runners of remembered flow runs keep theirs.

    flow run begins ─▶ a folder, a file, a thread that writes it ─▶ flow run ends
          └─ its attempt enters a runner ─▶ `KeptRunner`, `KeptScope`       └─ and what is beneath it

May import the other files but `resuming`.
"""

from __future__ import annotations

import os
import pickle
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.context import CALL, LOCK
from shoal.engine.observing import add_observer
from shoal.exceptions import JournalError, ResultStorageError
from shoal.logs import library_logger, log_failure
from shoal.results import settings
from shoal.results.journal import contents
from shoal.results.journal.calls import KeptScope
from shoal.results.journal.contents import Header
from shoal.results.journal.file import JournalFile
from shoal.results.journal.frames import frame
from shoal.results.journal.journal import Journal, Resumption
from shoal.results.journal.journals import folder_of, prune
from shoal.results.journal.keeping import KeptRunner
from shoal.results.journal.places import Place, key_of_names, key_of_parameters
from shoal.results.journal.writer import Writer
from shoal.results.keys import digest
from shoal.safely import in_words, is_error, repr_of
from shoal.serialization import dumps
from shoal.settings import journal as journal_is_wanted

if TYPE_CHECKING:
    from shoal.calls import Call, Outcome
    from shoal.context import FlowRun
    from shoal.states import State

__all__ = ["keep_journals"]

#: The key of a flow run that no other is around. The run is told by whose journal it is.
_ROOT = key_of_names(b"flow run")

_journals: _Journals | None = None


def keep_journals() -> None:
    """From now on flow runs of this process have journals, where they are to have one.

    Raises:
        JournalError: the folder of journals cannot be written; nothing has run.
    """
    global _journals
    folder = Path(settings.journals())
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError("it cannot be written")
    except OSError as error:
        raise JournalError(
            path=str(folder),
            problem=f"{error.strerror or error}: name another folder by SHOAL_HOME, or run the flow without a journal",
        ) from None  # its text is in the problem
    with LOCK:
        if _journals is None:
            _journals = _Journals()
            add_observer(_journals)


class _Kept:
    """A flow run with a journal.

    Attributes:
        journal: what is known of its runs.
        flows: where it and the flow runs beneath it submit runs, by number.
        resumes: what it goes on with, if it does.
        runner_known: whether it was said on which runner it began.
    """

    def __init__(self, run: FlowRun, journal: Journal, resumes: Resumption | None) -> None:
        self.journal = journal
        self.flows: dict[int, Place] = {run.number: Place(_ROOT)}
        self.resumes = resumes
        self.runner_known = resumes is not None


class _Journals:
    """An observer that keeps a journal of each flow run that is to have one."""

    def __init__(self) -> None:
        self._kept: dict[int, _Kept] = {}

    # ------------------------------------------------------------------ flow runs

    def flow_run_began(self, run: FlowRun) -> None:
        """See `Observer`."""
        if run.parent is not None and run.flow.resumes is None:
            kept = self._kept_of(run)
            if kept is not None and CALL.get() is None:  # what a task calls is a part of its run
                self._nested(kept, run)
            return
        wanted = run.flow.journal
        if run.flow.resumes is None and not (journal_is_wanted() if wanted is None else wanted):
            return
        try:
            self._kept[run.number] = self._begin(run)
        except (OSError, ResultStorageError, JournalError) as error:
            library_logger().warning(
                "Flow run %r is not remembered: its journal cannot be written (%s). The run goes on",
                run.name,
                in_words(error),
            )

    def _kept_of(self, run: FlowRun) -> _Kept | None:
        """What is kept of a flow run, or of the closest one around it of which something is."""
        around: FlowRun | None = run
        while around is not None:
            kept = self._kept.get(around.number)
            if kept is not None:
                return kept
            around = around.parent
        return None

    def _begin(self, run: FlowRun) -> _Kept:
        resumes: Resumption | None = run.flow.resumes
        begun = {"time": time.time(), "pid": os.getpid()}
        data = [frame(contents.BEGUN, contents.to_json(begun))]
        if resumes is None:
            folder = folder_of(run.id)
            folder.mkdir(mode=0o700)
            file = JournalFile(folder, run.name)
            file.open()
            data.insert(0, frame(contents.HEADER, contents.to_json(_header(run))))
            journal = Journal({}, None, {}, key_of_parameters(run.parameters))
        else:
            file = resumes.file
            journal = Journal(
                resumes.contents.facts.tasks,
                resumes.values,
                resumes.kept,
                key_of_parameters(run.parameters),
            )
        if resumes is None or resumes.given:
            data.append(frame(contents.PARAMETERS, _pickled_parameters(run)))
        writer = journal.writer = Writer(file, run.name, journal)
        try:  # at once: a process that is killed in the next moment has a journal
            file.write(*data)
        except OSError as error:
            writer.give_up(error)
        if resumes is None:
            writer.afterwards(_prune)
        return _Kept(run, journal, resumes)

    def _nested(self, kept: _Kept, run: FlowRun) -> None:
        assert run.parent is not None  # it is nested
        parent = kept.flows.get(run.parent.number)
        if parent is None:
            return
        try:
            given = digest(run.parameters)
        except Exception:  # of the user's objects, too
            given = b""  # it is told from others by its order
        with LOCK:
            key = parent.key_for(key_of_names(b"flow", run.flow.name.encode()), given)
            kept.flows[run.number] = Place(key)

    def flow_run_entered(self, run: FlowRun, runner: Any) -> None:
        """See `Observer`."""
        kept = self._kept_of(run)
        if kept is None or run.number not in kept.flows:
            return
        dispatcher = getattr(runner, "_dispatcher", None)
        if dispatcher is None:  # it is made by other means than ours
            library_logger().warning(
                "Flow run %r is not remembered: its runner %s is no `BaseTaskRunner`",
                run.name,
                repr_of(runner),
            )
            return
        if not kept.runner_known:
            kept.runner_known = True
            self._tell_runner(kept, runner)
        # Each attempt has the same places: it submits the same again.
        body = kept.flows[run.number] = Place(kept.flows[run.number].key)
        KeptRunner(kept.journal, body, dispatcher)
        make_scope = runner.scope
        runner.scope = lambda flow_run=None: KeptScope(make_scope(flow_run), kept.journal, body)

    def _tell_runner(self, kept: _Kept, runner: Any) -> None:
        try:
            data = pickle.dumps(runner)
        except Exception:  # it goes on with the flow's own
            return
        kept.journal.writer.frame(contents.RUNNER, data)

    def flow_run_ended(self, run: FlowRun, state: State[Any]) -> None:
        """See `Observer`."""
        kept = self._kept.pop(run.number, None)
        if kept is None:
            if run.flow.resumes is not None:  # its parameters did not fit
                run.flow.resumes.file.close()
            return
        journal = kept.journal
        said = {"time": time.time(), "state": state.name, "type": state.type.value}
        journal.writer.ended(contents.to_json(said))
        journal.writer.close()
        if kept.resumes is not None:
            library_logger().info("Flow run %r: %s", run.name, _reused(journal))
        if not state.is_completed() and not journal.writer.broken:
            _tell_way_on(run, state)

    def runner_entered(self, runner: Any) -> None:
        """See `Observer`."""

    def called(self, call: Call, outcome: Outcome, began: float, ended: float) -> None:
        """See `Observer`."""

    def leave_to_parent(self) -> None:
        """In a child that was forked: nothing of its parent's is written here."""
        for kept in self._kept.values():
            kept.journal.writer.leave_to_parent()
        self._kept = {}


def _header(run: FlowRun) -> Header:
    function = run.flow.fn
    code = getattr(function, "__code__", None)
    path = code.co_filename if code is not None else ""
    module = str(getattr(function, "__module__", ""))
    if module == "__main__":
        # `python -m package.module` has another name, too, by which it imports what is beside it.
        spec = getattr(sys.modules[module], "__spec__", None)
        module = module if spec is None else spec.name
    return Header(
        run=run.id,
        name=run.name,
        flow=run.flow.name,
        module=module,
        qualname=str(getattr(function, "__qualname__", "")),
        path=os.path.abspath(path) if os.path.exists(path) else "",
        created=time.time(),
        shoal=version("shoal"),
        python=platform.python_version(),
    )


def _pickled_parameters(run: FlowRun) -> bytes:
    try:
        return dumps(run.parameters)
    except Exception as error:
        log_failure(
            error,
            "The parameters of flow run %r are not remembered: to go on, they have to be given anew",
            run.name,
        )
        return b""


def _reused(journal: Journal) -> str:
    """What a run that went on has reused, and what it executed."""
    submitted = journal.counts()
    reused = sum(journal.reused.values())
    more = sum(submitted.values()) - reused
    return (
        f"{reused:,} run{' was' if reused == 1 else 's were'} reused, "
        f"{more:,} more {'was' if more == 1 else 'were'} submitted"
    )


def _tell_way_on(run: FlowRun, state: State[Any]) -> None:
    header = _header(run)
    if header.path and header.qualname.isidentifier():
        way = f"To go on where it stopped: shoal resume {run.name}"
    else:
        way = f"To go on where it stopped, in Python: {header.call}"
    error = state.data if state.is_failed() or state.is_crashed() else None
    if is_error(error):
        try:
            error.add_note(way)
        except Exception:  # the user's class may refuse it
            library_logger().error("%s", way)
    else:
        library_logger().error("%s", way)


def _prune() -> None:
    try:
        prune()
    except Exception as error:
        library_logger().warning("Old journals could not be removed: %s", in_words(error))


def _after_fork() -> None:
    if _journals is not None:
        _journals.leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
