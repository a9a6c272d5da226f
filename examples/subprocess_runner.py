"""A task runner for Shoal: worker processes that a command starts, spoken to through their standard input and output.

    driver    SubprocessBackend ──Outbox──▶ stdin ─▶ Worker: its main thread runs batches, another one receives
              Calls ◀─ one thread a worker ◀─ stdout ◀──┘
    between   files: large values, and what each worker writes down as it goes

The page "Writing a runner" of the documentation explains it step by step.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary, finalize

from shoal.engine.services import Calls
from shoal.exceptions import ResultLost
from shoal.scheduling.dispatchers import EngineDispatcher
from shoal.scheduling.in_flight import Departure, EngineRules, InFlight
from shoal.serialization import loads
from shoal.task_runners import BaseTaskRunner
from shoal.task_runners.remote import messages
from shoal.task_runners.remote.batch_serializer import BatchSerializer
from shoal.task_runners.remote.batches import Batch
from shoal.task_runners.remote.cluster_backend import ClusterBackend
from shoal.task_runners.remote.cluster_listener import ClusterListener
from shoal.task_runners.remote.cluster_members import ClusterMember
from shoal.task_runners.remote.cluster_worker import ClusterWorker
from shoal.task_runners.remote.main_thread import MainThread
from shoal.task_runners.remote.messages import Message
from shoal.task_runners.remote.parcels import Packed, Parcel, pack
from shoal.task_runners.remote.record import outcomes_in, read_record


class Pipes:
    """One end of the pipes between driver and worker."""

    def __init__(self, reads: int, writes: int) -> None:
        self._from = Connection(os.dup(reads), writable=False)
        self._to = Connection(os.dup(writes), readable=False)
        self._lock = threading.Lock()

    def send(self, kind: int, body: bytes = b"") -> None:
        with self._lock:
            self._to.send_bytes(bytes([kind]) + body)

    def messages(self) -> Iterator[Message]:
        """What the other side says, until it has gone."""
        with suppress(EOFError, OSError):
            while True:
                data = self._from.recv_bytes()
                yield Message(data[0], data[1:], [])

    def hang_up(self) -> None:
        """Says nothing any more, as the other side learns."""
        self._to.close()

    def close(self) -> None:
        self._from.close()
        self._to.close()

    def leave_to_parent(self) -> None:
        """In a child that a run has forked: it is no worker."""
        self._lock = threading.Lock()  # another thread may have held it
        self.close()


class StoredValue(Parcel):
    """A large value in a file. The one who `owns` it removes it when nobody can ask for it any more."""

    __slots__ = ("number",)

    def __init__(self, path: str, *, owns: bool) -> None:
        self.number = path
        if owns:
            finalize(self, _remove, path, os.getpid()).atexit = False

    def value(self, run_name: str | None = None) -> Any:
        try:
            return loads(Path(self.number).read_bytes())
        except OSError as error:
            raise ResultLost(run_name=run_name, holder="its file") from error


def _remove(path: str, owner: int) -> None:
    if os.getpid() == owner:  # a forked child has a copy of all that the driver has
        Path(path).unlink(missing_ok=True)


def write_value(value: Any, folder: str) -> str:
    """Writes a value to a new file, and gives its path."""
    descriptor, path = tempfile.mkstemp(prefix="shoal-value-", dir=folder)
    with open(descriptor, "wb") as file:
        file.write(pack(value, whole=True).data)
    return path


class Worker(ClusterWorker):
    """The worker's side: this process."""

    def __init__(self, pipes: Pipes) -> None:
        super().__init__(pipes, report_every=0.005)
        self.main_thread = MainThread(self)
        self.worker_threads.append(self.main_thread)
        self._folder: str

    def serve(self) -> None:
        self.main_thread.begin()
        threading.Thread(target=self._receive, name="receiver", daemon=True).start()
        self.main_thread.serve()

    def _receive(self) -> None:
        for message in self.channel.messages():
            self.guarded(self.hear)(message)
        self.main_thread.end()

    def hear_more(self, message: Message) -> None:
        if message.kind == messages.NUMBERS:
            base, size, entropy, self._folder, sys.path[:] = loads(message.body)
            self.join(base, size, entropy, self._folder)
        else:
            self.take(message)

    def begin_batch(self, batch: Batch) -> None:
        self.main_thread.begin_batch(batch)

    def keep(
        self, batch: Batch, position: int, call: Any, value: Any, packed: Packed
    ) -> Callable[[], Any] | None:
        try:
            path = write_value(value, self._folder)
        except OSError:
            return None  # there is no room: it travels
        batch.lane.put_kept(position, path)
        return partial(self.load, path)

    def load(self, number: Any) -> Any:
        return self.handle_of(number).value()

    def handle_of(self, number: Any) -> StoredValue:
        return StoredValue(number, owns=False)


def serve() -> None:
    """What a worker process does, from its start to its end."""
    pipes = Pipes(0, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # what tasks read must be none of the messages
    os.dup2(2, 1)  # and what they print must not get in among them
    Worker(pipes).serve()


class Outbox(Pipes):
    """The driver's end: whoever sends does not wait, as a thread does that."""

    def __init__(self, reads: int, writes: int, failed: Callable[[BaseException], object]) -> None:
        super().__init__(reads, writes)
        self._calls = Calls("subprocess-outbox", failed)

    def send(self, kind: int, body: bytes = b"") -> None:
        self._calls.do(partial(self._send, kind, body))

    def _send(self, kind: int, body: bytes) -> None:
        with suppress(OSError):  # the worker has gone, as the thread that reads sees too
            super().send(kind, body)

    def hang_up(self) -> None:
        self._calls.do(super().hang_up)
        self._calls.close(0)


class Member(ClusterMember):
    """A worker as the driver knows it."""

    def __init__(self, number: int, slot: int, backend: SubprocessBackend) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(backend.command, stdin=pipe, stdout=pipe, process_group=0)
        with self.process.stdin as stdin, self.process.stdout as stdout:
            channel = Outbox(stdout.fileno(), stdin.fileno(), backend.events.failed)
        super().__init__(number, channel, number)
        self.slot = slot
        self.reader = threading.Thread(target=backend.hear, args=(self,), daemon=True)

    def kill(self) -> None:
        """Kills it with all that it has started: it leads a process group."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


class SubprocessBackend(ClusterBackend):
    """The driver's side."""

    def __init__(self, workers: int, command: tuple[str, ...], folder: str) -> None:
        super().__init__(EngineRules("a subprocess", spares_coroutines=False), queues=False)
        self.workers, self.command, self.folder = workers, command, folder
        self._numbers = count()
        self._at: dict[int, Member] = {}
        self._alive: set[Member] = set()
        self._stored: WeakValueDictionary[str, StoredValue] = WeakValueDictionary()

    def start(self, events: EngineDispatcher) -> None:
        self.events, self.engine = events, events.engine
        self.serializer = BatchSerializer(events, self._keep)
        self.listener = ClusterListener(self)
        self._calls = Calls("subprocess-listener", events.failed)
        events.slots(list(range(self.workers)))

    def member_at(self, slot: int) -> Member:
        member = self._at.get(slot)
        if member is None:
            member = self._at[slot] = Member(next(self._numbers), slot, self)
            self._alive.add(member)
            self.welcome(member, self.folder, sys.path)
            member.reader.start()
        return member

    def hear(self, member: Member) -> None:
        for message in member.channel.messages():
            self._calls.do(partial(self.listener.take, member, message))
        member.kill()
        member.process.wait()
        self._calls.do(partial(self._gone, member))

    def _gone(self, member: Member) -> None:
        is_wanted = self._at.get(member.slot) is member and not self.stopping
        if is_wanted:
            del self._at[member.slot]
        self._alive.discard(member)
        member.channel.close()
        if is_wanted and not member.hello:
            text = f"{self.command} ended with {member.process.returncode} before it said anything"
            self.events.broken(lambda run_name: self.died(run_name, text))
        self.engine.worker_left(member, Departure.of_process(member.process.returncode))

    def read_outcomes(self, member: Any) -> None:
        def read() -> None:
            outcomes: Any = {}
            if member.hello:
                content = read_record(member.hello["record"])
                outcomes = outcomes_in(content, self.kept, set(member.batches))
            self.engine.outcomes_read(member, outcomes)

        self._calls.do(read)

    def kill(self, member: Any, job: InFlight, run: Any) -> None:
        member.kill()

    def slot_gone(self, slot: int) -> None:
        if member := self._at.pop(slot, None):
            member.channel.hang_up()

    def is_listening(self) -> bool:
        return self._calls.is_here()

    def kept(self, path: str, member: Any = None) -> StoredValue:
        """What stands for the value in a file: the same for all that are told of it."""
        return self._stored.get(path) or self._stored.setdefault(path, StoredValue(path, owns=True))

    def _keep(self, value: Any, packed: Packed) -> StoredValue:
        if packed.stored:
            raise ValueError("there are handles in it")
        return self.kept(write_value(value, self.folder))

    def stop(self, grace: float) -> None:
        self.stopping = True
        members = list(self._alive)
        for member in members:
            if not member.hello or self.engine.in_flight_at(member):
                member.kill()  # it has not begun, or what it runs was cancelled
            member.channel.hang_up()
        for member in members:
            member.reader.join(grace)
            member.kill()
            member.reader.join()
        self._calls.close(grace)
        self.engine.close()


class SubprocessTaskRunner(BaseTaskRunner):
    """Runs tasks on worker processes that a command starts.

    Args:
        workers: how many.
        command: what starts one; `("ssh", "host", "python", "subprocess_runner.py")` is another.
        folder: where large values are, and what workers write down: one that all of them share.
    """

    name = "subprocesses"

    def __init__(
        self,
        workers: int = 2,
        command: tuple[str, ...] = (sys.executable, __file__),
        folder: str | None = None,
    ) -> None:
        super().__init__()
        self.check_count("workers", workers)
        self.workers, self.command, self.folder = workers, tuple(command), folder

    def settings(self) -> dict[str, Any]:
        return {"workers": self.workers, "command": self.command, "folder": self.folder}

    @classmethod
    def from_argument(cls, argument: str) -> SubprocessTaskRunner:  # of "subprocesses:4"
        return cls(cls.whole_number(argument))

    def make_backend(self) -> tuple[SubprocessBackend, None]:
        folder = self.folder or tempfile.gettempdir()
        return SubprocessBackend(self.workers, self.command, folder), None


if __name__ == "__main__":
    serve()
