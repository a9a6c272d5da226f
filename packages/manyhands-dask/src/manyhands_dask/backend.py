"""The driver's side of Dask: batches become Dask tasks; what workers say comes over the bus.

    scheduler ──launch──▶ pack ─▶ `Client.submit(execute, …)` ─▶ Dask's scheduler ─▶ a worker's side
                                                                                        │
    scheduler ◀──reported, handed back, waiting, lost── I/O thread ◀──bus───────────────┘

A slot is a thread of some worker: Dask decides of which. What Dask tells of its tasks matters only where a batch ends
without having been reported: then the worker's record says what had begun (see `deaths`).

Who does what:

    any thread    launches (one at a time, the dispatcher sees to that), interrupts
    Dask's loop   sends, and puts what the bus brings into the inbox (see `link`)
    I/O thread    takes it from there, in order (see `listening`). Ends with the runner.

    members, sent, settling   under `lock`, which may be taken under the core's `LOCK`, never the other way about

May import all of this package but `task_runners`.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from contextvars import Context
from itertools import count
from typing import TYPE_CHECKING, Any

from dask.base import annotate
from distributed.client import _current_client
from distributed.worker import Worker  # noqa: F401  # so that its cost is here, not in the first submit
from manyhands.calls import (
    DONE,
    FAILED,
    SENT,
    WAITING,
    Batch,
    Outcome,
    Report,
)
from manyhands.context import LOCK
from manyhands.exceptions import InvalidOption
from manyhands.futures.maps import MapRecord, Span
from manyhands.futures.run import TaskFuture
from manyhands.logs import library_logger
from manyhands.names import process_entropy
from manyhands.scheduling.backend import Capabilities
from manyhands.scheduling.batching import BatchPolicy
from manyhands.serialization import dumps
from manyhands.task_runners.remote import messages
from manyhands.task_runners.remote.contents import Contents
from manyhands.task_runners.remote.modules import shipped_by_value
from manyhands.task_runners.remote.parcels import Packed, pack
from manyhands.task_runners.remote.record import CAPACITY

from manyhands_dask.bus import SESSION, key_of
from manyhands_dask.clients import CURRENT
from manyhands_dask.deaths import Deaths
from manyhands_dask.environment import check_environment
from manyhands_dask.handles import NOTHING, Kept
from manyhands_dask.link import Link
from manyhands_dask.listening import Listener
from manyhands_dask.members import DaskMember, Sent, died
from manyhands_dask.natives import Borrowed, borrowing
from manyhands_dask.options import Options, captured
from manyhands_dask.relays import Relays
from manyhands_dask.side import execute, execute_async
from manyhands_dask.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from distributed import Client, Future
    from manyhands.futures.blocking import Wanted
    from manyhands.scheduling.dispatcher import Dispatcher
    from manyhands.scheduling.pushing import Helper

    from manyhands_dask.connection import Connection

__all__ = ["DaskBackend"]

#: Seconds of work in a message: what Dask spends on one (1 to 2 ms) shall be little beside it.
TARGET = 0.1
#: Seconds of work below which a message is not made smaller to spread it over more workers.
LEAST = 0.005
#: Runs from this many seconds travel alone.
ALONE = 0.05
#: Seconds after which a task whose first runs have not ended counts as slow, and an idle worker gets what others hold.
PATIENCE = 0.05
#: Seconds of work handed over for each thread: twice what Dask's adaptive scaling wants to have done in (5 s).
WINDOW = 10.0
#: Bytes of arguments from which a batch goes to a worker first, and not with Dask's graph.
SCATTERED = 1 << 20
#: Seconds that a cancel waits until it is certain that what was queued will not begin.
SETTLES_WITHIN = 1.0
#: Seconds that the first worker may take to be heard of.
ARRIVED_WITHIN = 1.0
#: Seconds that a large argument may take to be given to a worker.
SCATTERED_WITHIN = 5
#: Seconds that what was stopped has to say so when the runner is left; then it is stopped by force.
LAST_WORDS = 0.6
#: Times that a batch may come back without having begun, for no known reason.
FRUITLESS = 5

_sessions = count(1)


class DaskBackend:
    """A Dask cluster.

    Args:
        connection: to it.
        check_environment: whether versions are compared.
        ship_modules: see `DaskTaskRunner`.
    """

    captures = True

    def __init__(
        self,
        connection: Connection,
        *,
        check_environment: bool = True,
        ship_modules: str | Sequence[str] = "auto",
    ) -> None:
        self.capabilities = Capabilities(
            isolated=True,
            stops_hard=True,
            fuses=True,
            loops=True,
            queues=True,
            sorts=True,
            resources=True,
            policy=BatchPolicy(
                target=TARGET,
                alone=ALONE,
                cap=CAPACITY,
                growth=256,
                seconds=WINDOW,
                most=128,
                least=LEAST,
                patience=PATIENCE,
            ),
        )
        self.session = f"{SESSION}{process_entropy() & 0xFFFFFFFF:08x}x{next(_sessions)}"
        self.lock = threading.RLock()
        self.settling: set[int] = set()
        self.settled = threading.Condition(self.lock)
        self.members: dict[str, DaskMember] = {}
        self.arrived = threading.Event()
        self.sent: dict[int, Sent] = {}
        self.events: Dispatcher
        self.client: Client
        self.stopping = False
        self._connection = connection
        self._check = check_environment
        self._shipping = shipped_by_value(ship_modules, "DaskTaskRunner")
        self._contents: Contents
        self._link: Link
        self._told: set[int] = set()
        self._surrounded = False
        self._fruitless: dict[int, int] = {}
        self._wanting: set[tuple[Any, ...]] = set()
        self.deaths = Deaths(self)
        self.relays = Relays(self)
        self.watch = Watch(self)
        self._tokens: list[tuple[Any, Any]] = []

    # ------------------------------------------------------------------ starting and stopping

    def start(self, events: Dispatcher) -> None:
        """See `Backend`: connects, and starts a temporary cluster if one is asked for."""
        self.events = events
        self._contents = Contents(events, self._keep)
        listener = Listener(self, self._contents, check=self._check)
        self._connection.acquire()
        try:
            self.client = self._connection.client
            if self._connection.is_local:  # its workers have the driver's path
                self._shipping = shipped_by_value(())
            self._shipping.__enter__()
            if self._check:
                check_environment(self.client)
            events.slots([0], awaited=True)
            self._link = Link(self.client, self.session, listener.hear, self._link_failed)
            self._link.open()
            _send_more_often(self.client)
            self.watch.start()
        except BaseException:
            self.stop(0.0)
            raise
        # Dask's own API finds this client too, before any ambient one.
        self._tokens = [(CURRENT, CURRENT.set(self.client))]
        self._tokens.append((_current_client, _current_client.set(self.client)))

    def stop(self, grace: float) -> None:
        """See `Backend`."""
        self.watch.stop()
        if hasattr(self, "_link") and self.client.status == "running":
            self._stop_what_runs()
        self.stopping = True
        for variable, token in self._tokens:
            with contextlib.suppress(ValueError):  # it is left in another context
                variable.reset(token)
        if hasattr(self, "_link"):
            self._link.close(max(grace, 1.0))
        self.deaths.join()
        with self.lock:
            self.sent.clear()
        self.relays.clear()
        self._shipping.__exit__(None, None, None)
        self._connection.release(grace)

    def _link_failed(self, error: Exception) -> None:
        text = f"the Dask runner failed: {error!r}"
        self.events.broken(lambda name: died(name, text))

    def send(self, op: str, **message: Any) -> None:
        """Sends a message to the scheduler's part of the bus."""
        self._link.send(op, **message)

    def down(self, member: DaskMember, kind: int, body: bytes) -> None:
        """Sends a message to a worker."""
        self._link.send("down", worker=member.address, kind=kind, body=body)

    def do(self, action: Callable[[], None]) -> None:
        """Has the I/O thread do something, after what the bus brought before."""
        self._link.do(action)

    def living(self) -> list[DaskMember]:
        """The workers that there are."""
        with self.lock:
            return list(self.members.values())

    # ------------------------------------------------------------------ batches go out

    def launch(self, batch: Batch) -> None:
        """See `Backend`."""
        if self.stopping:
            return
        try:
            self._launch(batch)
        except Exception as error:
            with self.lock:
                self.sent.pop(batch.number, None)
            text, cause = f"it could not be sent to Dask: {error!r}", error
            self.events.lost(
                batch.number,
                lambda name: died(name, text, cause),
            )

    def _launch(self, batch: Batch) -> None:
        with borrowing(self.client):
            content, tasks, tags, failed = self._contents.of(batch)
            self._shipping.refresh()
            content, packed = self._contents.pack(content, failed)
            if packed is not None and packed.buffers:
                packed = pack(content, whole=True)
        if failed:
            now = time.time()
            self.events.reported(
                Report(
                    batch.number,
                    list(failed),
                    list(failed.values()),
                    [now] * len(failed),
                    0.0,
                    last=False,
                    count=0,
                )
            )
        if packed is None:
            self.events.reported(Report(batch.number, [], [], [], 0.0))
            return
        self._tell_new(tasks)
        first = batch.runs.record if type(batch.runs) is Span else batch.runs[0]
        task = first.task if isinstance(first, MapRecord) else first._task
        sent = Sent(batch, key_of(task.name, self.session, batch.number), packed.stored)
        blob = dumps((tasks, tags, packed.data))
        options, resources = self._demands(batch, task)
        with self.lock:
            self.sent[batch.number] = sent
        helper = batch.helper
        if helper is not None:
            member, wait = helper.tag
            if not (options or resources or any(isinstance(s, Borrowed) for s in packed.stored)):
                with self.lock:
                    if not member.buried:
                        sent.member = member
                        member.begun.add(batch.number)
                        self.down(member, messages.BATCH, dumps((batch.number, wait, blob)))
                        return
                    self.forget(sent)
                self.events.lost(batch.number, lambda name: died(name, None), [])
                return
            self.down(member, messages.STEP_ASIDE, dumps(wait))
        self._submit(sent, task.is_async, blob, options, resources)

    def _submit(
        self,
        sent: Sent,
        is_async: bool,
        blob: Any,
        options: Options | None,
        resources: dict[str, float],
    ) -> None:
        client = self.client
        given: dict[str, Any] = options.for_submit() if options is not None else {}
        if resources:
            given["resources"] = {**given.get("resources", {}), **resources}
        sent.demands = given.get("resources") or {}
        self.warn_of_demands(sent)
        if len(blob) > SCATTERED:
            with contextlib.suppress(TimeoutError):  # no worker takes it: it travels with the task
                blob = self._scatter(blob)
        handles = [stored.number for stored in sent.stored]
        values = [stored.future for stored in sent.stored]
        function = execute_async if is_async else execute

        def submit() -> Any:
            with annotate(**(options.others() if options is not None else {})):
                return client.submit(
                    function,
                    self.session,
                    sent.batch.number,
                    sent.key,
                    blob,
                    handles,
                    *values,
                    key=sent.key,
                    pure=False,
                    **given,
                )

        def post() -> None:
            try:
                # In a context of its own: what is annotated where this happens to run is of no matter to this batch.
                sent.future = Context().run(submit)
            except Exception as error:
                text, cause = f"it could not be sent to Dask: {error!r}", error
                self.do(lambda: self._not_sent(sent, text, cause))

        sent.is_task = True
        self._link.post(post)

    def _not_sent(self, sent: Sent, text: str, cause: Exception) -> None:
        with self.lock:
            self.forget(sent)
        self.events.lost(sent.batch.number, lambda name: died(name, text, cause))

    def _demands(self, batch: Batch, task: Any) -> tuple[Options | None, dict[str, float]]:
        if type(batch.runs) is Span:
            options = batch.runs.record.options
        else:
            call = batch.runs[0]._call
            options = call.options if call is not None else None
        return options, dict(task.resources)

    def warn_of_demands(self, sent: Sent) -> None:
        """Says once if no worker has what a run asks for."""
        demands = sent.demands
        key = tuple(sorted(demands.items()))
        with self.lock:
            members = list(self.members.values())
            if not demands or key in self._wanting or not members or sent.member is not None:
                return
        for member in members:
            if all(member.resources.get(name, 0) >= amount for name, amount in demands.items()):
                return
        self._wanting.add(key)
        run = self.events.scheduler.run_at(sent.batch, 0)
        library_logger().warning(
            "Task run %r waits for a Dask worker with %s; none of the %d workers has that",
            run.name,
            ", ".join(f"{name}={amount:g}" for name, amount in key),
            len(members),
        )

    def _tell_new(self, tasks: list[int]) -> None:
        """Tells all workers, now and later, of tasks and of what surrounds the runs, once."""
        if not self._surrounded and self._contents.surroundings is not None:
            self._surrounded = True
            self.send("tell", kind=messages.SURROUNDINGS, body=self._contents.surroundings)
        for key in tasks:
            if key not in self._told:
                self._told.add(key)
                body = dumps((key, self._contents.packed_tasks[key]))
                self.send("tell", kind=messages.TASK, body=body)

    def _keep(self, value: Any, packed: Packed) -> Kept:
        """Puts a large argument of a map to a worker, once."""
        if packed.stored:
            raise ValueError("there are handles in it")
        return Kept(self._scatter(value), original=value)

    def _scatter(self, value: Any) -> Any:
        """Gives a value to a worker.

        Raises:
            TimeoutError: there is none to take it.
        """
        if threading.current_thread() is not self._link.thread:
            self.arrived.wait(ARRIVED_WITHIN)
        if not self.members:
            raise TimeoutError
        return self.client.scatter([value], hash=False, timeout=SCATTERED_WITHIN)[0]

    def renew(self, lost: Kept) -> bool:
        """Scatters an argument again that was lost with its worker; whether it is one."""
        if lost.original is NOTHING:
            return False
        try:
            lost.put(self._scatter(lost.original))
        except TimeoutError:
            return False
        return True

    def forget(self, sent: Sent) -> None:
        """A batch has said all; with the lock held."""
        self.sent.pop(sent.batch.number, None)
        self.settling.discard(sent.batch.number)
        self.settled.notify_all()
        if sent.member is not None:
            sent.member.begun.discard(sent.batch.number)
        for helper in sent.wanting:  # whatever has become of it: they may need something else now
            helper.look_again()

    def fail(self, sent: Sent, error: Callable[[str], BaseException], phase: int = FAILED) -> None:
        """Ends every open run of a batch that was not begun."""
        batch = sent.batch
        runs = [self.events.scheduler.run_at(batch, position) for position in range(len(batch))]
        outcomes = [Outcome(phase, error(run.name)) for run in runs]
        now = time.time()
        self.events.reported(
            Report(batch.number, range(len(batch)), outcomes, [now] * len(batch), 0.0, count=0)
        )

    def stuck(self, helper: Helper) -> None:
        """A waiting run can be given nothing now: what it waits for was sent already, or executes elsewhere."""
        member, wait = helper.tag
        with LOCK, self.lock:
            sent = self._first_unbegun(helper.wanted)
            if sent is not None and helper not in sent.wanting:
                sent.wanting.append(helper)
        if sent is not None:
            self._withdraw(sent)
        else:
            self.down(member, messages.STEP_ASIDE, dumps(wait))

    def _first_unbegun(self, wanted: Wanted) -> Sent | None:
        """A batch that nobody has begun, of what a run waits for or what that needs; with the locks held."""
        seen: set[Any] = set()
        stack: list[Any] = list(reversed(wanted))
        while stack:
            item = stack.pop()
            if item in seen or item.done():
                continue
            seen.add(item)
            found: list[Sent] = []
            if isinstance(item, MapRecord):
                found = [
                    sent
                    for sent in self.sent.values()
                    if type(sent.batch.runs) is Span and sent.batch.runs.record is item
                ]
                stack.extend(item.futures.values())
            elif item._phase == SENT:
                sent = self._find(item)
                found = [sent] if sent is not None else []
            elif item._phase == WAITING:
                detail = item._details()
                upstreams = [entry.future for entry in detail.upstreams]
                stack.extend(u for u in upstreams if isinstance(u, TaskFuture))
            stack.extend(item._details().waits_on or () if isinstance(item, TaskFuture) else ())
            for sent in found:
                if sent.member is None and sent.is_task:
                    return sent
        return None

    # ------------------------------------------------------------------ taking back, stopping

    def _withdraw(self, sent: Sent) -> None:
        with self.lock:
            if sent.withdrawn:
                return
            sent.withdrawn = True
        self.send("withdraw", key=sent.key, number=sent.batch.number)

    def withdrawn(self, number: int) -> None:
        """A batch was not begun, and will not be."""
        with self.lock:
            sent = self.sent.get(number)
            if sent is None:
                return
            helper = sent.wanting.pop(0) if sent.wanting else None
            self.forget(sent)
        self.events.taken_back(number, helper)

    def send_again(self, sent: Sent) -> None:
        """A batch was not begun, as far as can be known: its runs are sent again, at no cost in retries."""
        with self.lock:
            if self.sent.get(sent.batch.number) is not sent:
                return
            self.forget(sent)
        first = self.events.scheduler.run_at(sent.batch, 0)._number
        tries = self._fruitless[first] = self._fruitless.get(first, 0) + 1
        if tries > FRUITLESS:
            text = f"Dask gave its batch back {tries} times without beginning it"
            self.events.lost(sent.batch.number, lambda name: died(name, text))
            return
        self.events.lost(sent.batch.number, lambda name: died(name, None), [])

    def _find(self, run: TaskFuture[Any]) -> Sent | None:
        """The batch in which a run was sent last; with the lock held."""
        found: Sent | None = None
        for sent in self.sent.values():
            if sent.position_of(run) is not None and (
                found is None or found.batch.number < sent.batch.number
            ):
                found = sent
        return found

    def interrupt(self, run: TaskFuture[Any]) -> None:
        """See `Backend`."""
        with self.lock:
            sent = self._find(run)
            if sent is None:
                return
            member = sent.member
            if member is None:
                sent.skipped.append(run)
                if sent.is_task:
                    self.settling.add(sent.batch.number)
        if member is None:
            self._withdraw(sent)
            return
        detail = run._detail
        overdue = detail is not None and detail.overdue
        self.down(member, messages.INTERRUPT, dumps((run._number, overdue)))

    def settle(self) -> None:
        """See `Backend`: until each of the batches concerned was given back, or has begun (and is told)."""
        if threading.current_thread() is self._link.thread:
            return
        deadline = time.monotonic() + SETTLES_WITHIN
        with self.settled:
            asked = set(self.settling)
            while asked & self.settling and not self.stopping:
                if not self.settled.wait(max(deadline - time.monotonic(), 0.0)):
                    return

    def force(self, run: TaskFuture[Any]) -> None:
        """See `Backend`: its worker is killed, if it executes nothing else."""
        with self.lock:
            sent = self._find(run)
            if sent is None or sent.member is None:
                return
            member = sent.member
            if any(helper.run is run for helper in list(member.waits.values())):
                return  # what its worker is at is another run, which it waits for
        self._kill(sent, member, run)

    def _kill(self, sent: Sent, member: DaskMember, run: TaskFuture[Any]) -> None:
        """Has a worker killed, if nothing executes there but a run and what waits beneath it."""
        with self.lock:
            stack = [sent.batch]
            while stack[-1].helper is not None:
                stack.append(stack[-1].helper.batch)
            numbers = {batch.number for batch in stack}
            keys = [self.sent[n].key for n in numbers if n in self.sent and self.sent[n].is_task]
            others = [n for n in member.begun - numbers if n in self.sent and self.sent[n].is_task]
        pid = member.hello.get("pid")
        here = pid is None or member.hello.get("record") is None  # it is this process
        if here or others or not keys:
            self.deaths.spared(member.address, sent.key, run._number)
            return
        member.stopped_for = run.name
        self.send("kill", worker=member.address, pid=pid, keys=keys, run=run._number)

    def give_up(self, sent: Sent, member: DaskMember, number: int) -> None:
        """A run does not stop, and its worker cannot be killed."""
        batch = sent.batch
        runs = [self.events.scheduler.run_at(batch, position) for position in range(len(batch))]
        run = next((run for run in runs if run._number == number), None)
        if run is None:
            return
        library_logger().warning(
            "Task run %r did not stop when it was interrupted, and Dask worker %s cannot be killed for it; "
            "its thread is given up and replaced",
            run.name,
            member.address,
        )
        self.down(member, messages.GIVE_UP, dumps((batch.number, number)))
        with LOCK:
            if run._phase < DONE:
                # It has attempts left, but the next must not overlap one that does not end.
                limit = run._task.timeout_seconds or 0.0
                self.events.scheduler.time_out(run, limit, time.time())
        self.events.drain()

    def _stop_what_runs(self) -> None:
        """What was cancelled and does not stop by itself is stopped by force: the cluster may go on without this runner."""
        deadline = time.monotonic() + LAST_WORDS
        with self.settled:
            while any(sent.member is not None for sent in self.sent.values()):
                if not self.settled.wait(max(deadline - time.monotonic(), 0.0)):
                    break
            left = [sent for sent in self.sent.values() if sent.member is not None]
        for sent in left:
            member = sent.member
            run = self.events.scheduler.run_at(sent.batch, 0)
            if member is not None and member.hello.get("record") is not None:
                self._kill(sent, member, run)

    def has_begun(self, run: TaskFuture[Any]) -> bool:
        """See `Backend`: the first of a begun batch that has not been reported."""
        with self.lock:
            sent = self._find(run)
            if sent is None or sent.member is None:
                return False
            entry = self.events.scheduler.batches.get(sent.batch.number)
            return entry is not None and sent.position_of(run) == min(entry[1], default=None)

    def recall(self, batch: Batch) -> None:
        """See `Backend`."""
        with self.lock:
            sent = self.sent.get(batch.number)
            if sent is None:
                return
            if sent.member is None:
                sent.recalled = True
                return
        self.down(sent.member, messages.RECALL, dumps(batch.number))

    def slot_gone(self, slot: int) -> None:
        """A slot is no thing of ours."""

    def refuse(self, helper: Helper, error: Exception) -> None:
        """See `Backend`."""
        member, wait = helper.tag
        self.down(member, messages.REFUSED, dumps((wait, error)))

    def running(self) -> list[TaskFuture[Any]]:
        """Nothing that the scheduler does not know of."""
        return []

    def capture(self) -> Options | None:
        """See `AnyBackend`: Dask's annotations."""
        return captured()

    def native(self, run: TaskFuture[Any]) -> Future[Any]:
        """See `AnyBackend`."""
        return self.relays.native(run)


def _send_more_often(client: Any) -> None:
    """Sets how often Dask's client sends, if `MANYHANDS_DASK_SEND_SECONDS` says so; its own 0.01 is half a round trip."""
    text = os.environ.get("MANYHANDS_DASK_SEND_SECONDS")
    if text is None:
        return
    try:
        seconds = float(text)
    except ValueError:
        raise InvalidOption(
            where="the environment",
            option="MANYHANDS_DASK_SEND_SECONDS",
            value=text,
            problem="a number of seconds is needed",
        ) from None
    client.scheduler_comm.interval = seconds
