"""The way between a driver and its sessions on the workers, over the streams that Dask has anyway.

    driver ──stream──▶ scheduler (`SchedulerBus`) ──stream──▶ worker (`WorkerBus`) ─▶ its side of the session
           ◀─────────                              ◀─────────

A stream keeps its order, so what is told before a task is submitted is there before the task, and what a task says is
there before its end. Messages are opaque here, but for what only the scheduler can do or know:

    tell       also for workers that join later
    withdraw   a task, wherever it is, unless it has begun
    keep       a worker's value becomes a key that belongs to the driver's client, and that cannot be computed again
    kill       a worker that does nothing else

Dask never runs a task of ours twice: it blames every task that a dead worker was sent, and gives up at once what it would
try again three times (`allowed-failures`); what a retired worker leaves behind is refused by the next.

Each stream on the way sends more often while a session is open (see `pace`).

Imported by schedulers and workers too. May import `distributed` and `pace`, and of ours nothing that a driver alone needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import sys
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any

from distributed.diagnostics.plugin import SchedulerPlugin, WorkerPlugin

from shoal_dask.pace import hurry, take_time

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Sequence

    from distributed.scheduler import Scheduler, TaskState, WorkerState
    from distributed.worker import Worker

__all__ = [
    "NAME",
    "SESSION",
    "SchedulerBus",
    "WorkerBus",
    "can_profile",
    "key_of",
    "kill",
    "session_in",
]

#: Of the plugins, and of the messages.
NAME = "shoal"
#: What the id of a session begins with.
SESSION = "mh"

#: Sessions that a worker remembers to have ended.
ENDED = 4096
#: Seconds between two looks for workers that have nothing: one that was asked for a task has answered by then, as a rule.
BETWEEN_LOOKS = 0.01
#: Tasks of a session that are looked at then, at most: the scheduler has others to serve.
LOOKED_AT = 500
#: How Dask names the reasons for which a worker is removed that has not left by itself.
DEATHS = (
    "handle-worker-cleanup",
    "worker-send-comm-fail",
    "send-all-comm-fail",
    "check-worker-ttl",
    "nanny-close",
)

logger = logging.getLogger("distributed.shoal")


def key_of(task_name: str, session: str, number: int | str) -> str:
    """A Dask key: the dashboard groups keys by what is before the session."""
    return f"{task_name}-{session}-{number}"


def session_in(key: Any) -> str | None:
    """The session that a Dask key belongs to, if it is one of ours."""
    if type(key) is not str:
        return None
    parts = key.rsplit("-", 2)
    return parts[1] if len(parts) == 3 and parts[1].startswith(SESSION) else None


def kill(pid: int) -> None:
    """Ends a process and the programs that it has started, at once; one that has ended already is no matter."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        worker = psutil.Process(pid)
        try:
            worker.suspend()  # so that it starts no others meanwhile
            for child in worker.children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
        finally:
            worker.kill()


class _Session:
    """A driver's runner, as the scheduler knows it.

    Attributes:
        client: its client.
        every: seconds between what the streams send that its messages take.
        told: what every worker is told, those that join later too.
        entered: keys that were sent to a worker once.
        kept: keys of values that stay on workers.
        refused: keys that may have begun at a worker that has left: no other is to begin them.
        sent: keys that are at a worker, the last one last; each with the address of the worker that was asked to give it
            to one that had nothing, if any was.
    """

    __slots__ = ("client", "entered", "every", "kept", "refused", "sent", "told")

    def __init__(self, client: str, every: float) -> None:
        self.client = client
        self.every = every
        self.told: list[tuple[int, bytes]] = []
        self.entered: set[str] = set()
        self.kept: set[str] = set()
        self.refused: set[str] = set()
        self.sent: dict[str, str | None] = {}


class SchedulerBus(SchedulerPlugin):
    """The scheduler's part.

    Attributes:
        is_in_use: whether a session was opened, as is done when all workers have their part.
    """

    name = NAME
    idempotent = True

    def __init__(self) -> None:
        self.is_in_use = False
        self._sessions: dict[str, _Session] = {}
        self._scheduler: Any = None
        self._tells_why = True
        self._evens_out = False

    async def start(self, scheduler: Scheduler) -> None:
        """See `SchedulerPlugin`."""
        self._scheduler = scheduler
        # Not before distributed 2025.2.
        self._tells_why = "reason" in inspect.signature(scheduler.stimulus_cancel).parameters
        for name in (
            *("open", "tell", "down", "withdraw", "kill", "close", "ping"),
            *("up", "keep", "returned"),
        ):
            scheduler.stream_handlers[f"{NAME}-{name}"] = self._guarded(getattr(self, f"_{name}"))

    def _guarded(self, handle: Callable[..., None]) -> Callable[..., None]:
        """A handler whose error its driver hears of; else Dask would close the stream, which others use too."""

        def handled(session: str, **message: Any) -> None:
            try:
                handle(session=session, **message)
            except Exception as error:
                logger.exception("A message of session %s could not be handled", session)
                self._say(session, failed=f"on Dask's scheduler: {error!r}")

        return handled

    # ------------------------------------------------------------------ from drivers

    def _open(self, client: str, session: str, every: float) -> None:
        self.is_in_use = True
        self._sessions[session] = _Session(client, every)
        hurry(self._scheduler.client_comms[client], session, every)
        for address in list(self._scheduler.workers):
            self._hurry(session, address)
            self._tell_joined(session, address)

    def _hurry(self, session: str, address: str) -> None:
        """Has the streams to and from a worker send as often as a session wants."""
        every = self._sessions[session].every
        hurry(self._scheduler.stream_comms[address], session, every)
        self._scheduler.worker_send(address, {"op": NAME, "session": session, "every": every})

    def _tell(self, client: str, session: str, kind: int, body: bytes) -> None:
        known = self._sessions.get(session)
        if known is not None:
            known.told.append((kind, body))
            for address in list(self._scheduler.workers):
                self._send(address, session, kind, body)

    def _down(self, client: str, session: str, worker: str, kind: int, body: bytes) -> None:
        if worker in self._scheduler.workers:
            self._send(worker, session, kind, body)

    def _withdraw(self, client: str, session: str, key: str, number: int) -> None:
        """Sees to it that a task is not begun, or has its worker give back what it has not begun of it."""
        task = self._scheduler.tasks.get(key)
        if task is not None and task.processing_on is not None:
            message = {"op": NAME, "session": session, "withdraw": (key, number)}
            self._scheduler.worker_send(task.processing_on.address, message)
        elif task is None or task.state not in ("memory", "erred"):
            self._withdrawn(session, key, number)

    def _withdrawn(self, session: str, key: str, number: int) -> None:
        known = self._sessions.get(session)
        if known is None:
            return
        task = self._scheduler.tasks.get(key)
        if task is not None and task.who_wants:
            # At once: a task that another worker is about to steal would be begun there.
            why = {"reason": "shoal-withdrawn", "msg": "it is sent again"}
            self._scheduler.stimulus_cancel(
                keys=[key],
                client=known.client,
                force=True,
                **(why if self._tells_why else {}),
            )
        self._say(session, withdrawn=number)

    def _kill(
        self, client: str, session: str, worker: str, pid: int, keys: Sequence[str], run: int
    ) -> None:
        """Has a worker's nanny kill it, if nothing can be running there but a run and what waits beneath it."""
        state = self._scheduler.workers.get(worker)
        if state is None:
            return
        others = {task.key for task in state.processing}.difference(keys)
        seceded = {task.key for task in state.long_running}.difference(keys)
        if not state.nanny or seceded or (state.nthreads > 1 and others):
            self._say(session, spared=(worker, keys[0], run))
            return
        self._scheduler.loop.add_callback(self._kill_through, state.nanny, pid)

    async def _kill_through(self, nanny: str, pid: int) -> None:
        from distributed.protocol.pickle import dumps

        try:
            async with self._scheduler.rpc(nanny) as remote:
                await remote.run(function=dumps(kill), args=dumps((pid,)), wait=True)
        except OSError as error:
            logger.warning("The nanny at %s could not be reached: %r", nanny, error)

    def _ping(self, client: str, session: str) -> None:
        # A session that is not known was closed with a connection that has broken, and come back, since.
        message = {"op": NAME, "session": session, "pong": session in self._sessions}
        self._scheduler.client_send(client, message)

    def _close(self, client: str, session: str, held: Sequence[str] = ()) -> None:
        known = self._sessions.pop(session, None)
        if known is not None:
            left = known.kept.difference(held)
            if left:  # the driver was not told of them any more
                self._scheduler.client_releases_keys(
                    keys=list(left), client=client, stimulus_id=f"{NAME}-close"
                )
            for address in list(self._scheduler.workers):
                self._scheduler.worker_send(address, {"op": NAME, "session": session, "end": True})
            streams = self._scheduler.stream_comms.values()
            for stream in (self._scheduler.client_comms.get(client), *streams):
                if stream is not None:  # the client has gone
                    take_time(stream, session)

    # ------------------------------------------------------------------ from workers

    def _up(self, worker: str, session: str, kind: int, body: bytes) -> None:
        self._say(session, worker=worker, kind=kind, body=body)

    def _keep(self, worker: str, session: str, key: str, nbytes: int) -> None:
        known = self._sessions.get(session)
        if known is None or worker not in self._scheduler.workers:
            self._scheduler.worker_send(
                worker, {"op": "free-keys", "keys": [key], "stimulus_id": f"{NAME}-unwanted"}
            )
            return
        known.kept.add(key)
        self._scheduler.update_data(
            who_has={key: [worker]}, nbytes={key: nbytes}, client=known.client
        )

    def _returned(self, worker: str, session: str, key: str, number: int, here: bool) -> None:
        """A worker has answered to a wish to withdraw a task."""
        if here:
            self._withdrawn(session, key, number)
        else:
            self._withdraw("", session, key, number)  # it has been given to another worker

    # ------------------------------------------------------------------ what the scheduler sees

    def transition(
        self, key: Any, start: str, finish: str, *args: Any, stimulus_id: str, **kwargs: Any
    ) -> None:
        """See `SchedulerPlugin`. Called for every task of the cluster: cheap for those of others."""
        if start != "processing" and finish not in ("processing", "forgotten"):
            return
        session = session_in(key)
        known = self._sessions.get(session) if session is not None else None
        if session is None or known is None:
            return
        if start == "processing":
            known.sent.pop(key, None)
            self._even_out_soon()
        if finish == "forgotten":
            known.entered.discard(key)
            known.kept.discard(key)
            known.refused.discard(key)
            return
        if finish != "processing":
            return
        known.sent[key] = None
        task = self._scheduler.tasks[key]
        task.suspicious = max(task.suspicious, self._scheduler.allowed_failures)
        if key not in known.entered:
            known.entered.add(key)
            return
        # Its worker was retired. It may have begun there, and may be going on: any other one is to refuse it, which this
        # message tells them before the task arrives, there or where it is stolen to.
        known.refused.add(key)
        for address in list(self._scheduler.workers):
            self._refuse(address, session, key)
        self._say(session, again=key)

    def _refuse(self, address: str, session: str, key: str) -> None:
        self._scheduler.worker_send(address, {"op": NAME, "session": session, "refuse": key})

    # ------------------------------------------------------------------ workers that have nothing

    def _even_out_soon(self) -> None:
        if not self._evens_out:
            self._evens_out = True
            self._scheduler.loop.call_later(BETWEEN_LOOKS, self._even_out)

    def _even_out(self) -> None:
        """Has workers that have nothing take tasks of ours which wait behind others on their worker.

        Dask's own stealing looks once a second, and leaves alone what it takes for short: a batch is as long as its
        runs turn out to be. The way is Dask's: the worker refuses if it has begun the task, and another is asked for.
        """
        self._evens_out = False
        scheduler = self._scheduler
        stealing = scheduler.extensions.get("stealing")  # there is none where it is switched off
        if stealing is None or scheduler.queued or not scheduler.idle:
            return

        def room(worker: WorkerState) -> int:
            held = len(worker.processing) - len(worker.long_running)
            return int(worker.nthreads - held - stealing.in_flight_tasks[worker])

        waiting = self._waiting_tasks(room, stealing.in_flight)
        for thief in list(scheduler.idle.values()):
            if room(thief) <= 0:
                continue
            task = next(waiting, None)
            if task is None:
                return
            self._even_out_soon()  # when this one has been answered
            stealing.move_task_request(task, task.processing_on, thief)

    def _waiting_tasks(
        self, room: Callable[[WorkerState], int], in_flight: Container[TaskState]
    ) -> Iterator[TaskState]:
        """Tasks of ours that may be waiting on a worker with more than it has threads, and that any other may take; each
        once for the worker where it is. What was sent last, which waits if anything does, comes first.
        """
        for known in self._sessions.values():
            for key in list(islice(reversed(known.sent), LOOKED_AT)):
                task = self._scheduler.tasks[key]
                victim = task.processing_on
                restricted = (
                    task.worker_restrictions or task.host_restrictions or task.resource_restrictions
                )
                if victim.address == known.sent[key] or restricted or room(victim) >= 0:
                    continue
                if task not in in_flight and task not in victim.long_running:
                    known.sent[key] = victim.address
                    yield task

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        """See `SchedulerPlugin`."""
        for session, known in self._sessions.items():
            self._hurry(session, worker)
            for kind, body in known.told:
                self._send(worker, session, kind, body)
            for key in known.refused:
                self._refuse(worker, session, key)
            self._tell_joined(session, worker)

    def remove_worker(
        self, scheduler: Scheduler, worker: str, *, stimulus_id: str, **kwargs: Any
    ) -> None:
        """See `SchedulerPlugin`."""
        for session in list(self._sessions):
            self._say(session, gone=(worker, not stimulus_id.startswith(DEATHS)))

    def remove_client(self, scheduler: Scheduler, client: str) -> None:
        """See `SchedulerPlugin`."""
        for session in [s for s, known in self._sessions.items() if known.client == client]:
            self._close(client, session)

    def _tell_joined(self, session: str, address: str) -> None:
        state = self._scheduler.workers[address]
        joined = {
            "address": address,
            "name": str(state.name),
            "nthreads": state.nthreads,
            "resources": dict(state.resources),
            "nanny": state.nanny,
        }
        self._say(session, joined=joined)

    def _say(self, session: str, **said: Any) -> None:
        known = self._sessions.get(session)
        if known is not None:
            self._scheduler.client_send(known.client, {"op": NAME, "session": session, **said})

    def _send(self, address: str, session: str, kind: int, body: bytes) -> None:
        message = {"op": NAME, "session": session, "kind": kind, "body": body}
        self._scheduler.worker_send(address, message)


def can_profile(version: tuple[Any, ...] = sys.version_info) -> bool:
    """Whether a version of Python can look at the frames of its threads, as Dask's profiler does all the time.

    Before 3.11.12, a garbage collection at that moment can hang the process for good (python/cpython#106883); 3.12.0 and
    3.12.1 can crash (python/cpython#111049).
    """
    return version >= (3, 12, 2) or (3, 11, 12) <= version < (3, 12)


def _stop_profiling(worker: Worker) -> None:
    profiling = worker.periodic_callbacks.pop("profile", None)
    if profiling is not None:
        profiling.stop()
        logger.info("Without the statistical profiler, which can hang this version of Python")


class WorkerBus(WorkerPlugin):
    """A worker's part: its sessions, one a session."""

    name = NAME

    def setup(self, worker: Worker) -> None:
        """See `WorkerPlugin`. Another driver may have set it up before: the sessions stay."""
        self._worker: Any = worker
        known = vars(worker)
        known.setdefault("shoal_sessions", {})
        known.setdefault("shoal_ended", deque(maxlen=ENDED))
        if not can_profile():
            _stop_profiling(worker)
        worker.stream_handlers[NAME] = self._take
        worker.stream_handlers["worker-status-change"] = self._take_status

    async def teardown(self, worker: Worker) -> None:
        """See `WorkerPlugin`: each side says what it has to say."""
        if not worker.status.name.startswith("clos"):
            return  # it is set up anew
        sessions = list(self._worker.shoal_sessions.values())
        for worker_session in sessions:
            worker_session.stopping = True
        await asyncio.gather(*(worker_session.farewell() for worker_session in sessions))

    def _take_status(self, status: str, stimulus_id: str) -> None:
        """The scheduler says what a worker is to be. One that closes does so, whatever was said before that was known.

        A worker at the end of its lifetime closes though the scheduler does not retire it, as nobody else can have its values:
        it is told that it runs on, which Dask would take for its status then, so that nothing would say farewell.
        """
        if self._worker.status.name not in ("closing", "closed"):
            self._worker.handle_worker_status_change(status, stimulus_id)

    def _take(self, session: str, **message: Any) -> None:
        """On the worker's loop."""
        from shoal_dask.session import session_of

        if "every" in message:
            hurry(self._worker.batched_stream, session, message["every"])
            return
        if "end" in message:
            take_time(self._worker.batched_stream, session)
            self._worker.shoal_ended.append(session)
            worker_session = self._worker.shoal_sessions.pop(session, None)
            if worker_session is not None:
                worker_session.end()
            return
        worker_session = session_of(self._worker, session)
        if worker_session is not None:
            worker_session.brought(message)
