"""A task runner for Shoal: worker processes that a command starts, spoken to through their standard input and output.

    driver    SubprocessBackend ──Outbox──▶ stdin ─▶ Worker: a thread receives, the main thread runs batches
              `hear`, a thread a worker ◀── stdout ◀──┘
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
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import count
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from shoal.engine.services import Calls
from shoal.scheduling.capabilities import LedgerRules
from shoal.scheduling.dispatchers import LedgerDispatcher
from shoal.scheduling.in_flight import Departure
from shoal.serialization import loads
from shoal.task_runners import BaseTaskRunner
from shoal.task_runners.remote import messages
from shoal.task_runners.remote.batch_serializer import BatchSerializer
from shoal.task_runners.remote.cluster_backend import ClusterBackend
from shoal.task_runners.remote.cluster_listener import ClusterListener
from shoal.task_runners.remote.cluster_worker import ClusterWorker
from shoal.task_runners.remote.file_store import FileStore, FileValue
from shoal.task_runners.remote.members import ClusterMember
from shoal.task_runners.remote.messages import Message
from shoal.task_runners.remote.outbox import Outbox


class Line:
    """One end of the line between driver and worker."""

    def __init__(self, reads: Connection, writes: Connection) -> None:
        self._reads, self._writes = reads, writes
        self._lock = threading.Lock()

    def send(self, kind: int, body: bytes = b"") -> None:
        with self._lock:
            self._writes.send_bytes(bytes([kind]) + body)

    def messages(self) -> Iterator[Message]:
        """What the other side says, until it has gone."""
        with suppress(EOFError, OSError):
            while True:
                data = self._reads.recv_bytes()
                yield Message(data[0], data[1:], [])

    def close(self) -> None:
        self._reads.close()
        self._writes.close()

    def leave_to_parent(self) -> None:
        """In a child that a run has forked, which is no worker."""
        self._lock = threading.Lock()  # another thread may have held it
        self.close()


class Worker(ClusterWorker):
    """This process, if it is a worker."""

    channel: Line

    def __init__(self, line: Line) -> None:
        super().__init__(line, report_every=0.005)
        self.store: FileStore

    def receive(self) -> None:
        for message in self.channel.messages():
            self.hear(message)

    def hear_more(self, message: Message) -> None:
        if message.kind == messages.NUMBERS:
            base, size, entropy, folder, sys.path[:] = loads(message.body)
            self.store = FileStore(folder)
            self.join(base, size, entropy, folder)
        else:
            self.take(message)

    def keep(self, batch: Any, position: int, call: Any, value: Any, packed: Any) -> Any:
        try:
            path = self.store.write(value)
        except OSError:
            return None  # there is no room, so it travels
        batch.lane.put_kept(position, path)
        return partial(self.load, path)

    def load(self, number: Any) -> Any:
        return FileValue(number).value()

    def handle_of(self, number: Any) -> FileValue:
        return FileValue(number)


def serve() -> None:
    """What a worker process does, from its start to its end."""
    line = Line(Connection(os.dup(0), writable=False), Connection(os.dup(1), readable=False))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # what tasks read must be none of the messages,
    os.dup2(2, 1)  # and what they print must not get in among them
    worker = Worker(line)
    worker.serve(worker.receive)


class Member(ClusterMember):
    """A worker as the driver knows it."""

    channel: Outbox

    def __init__(self, number: int, slot: int, backend: SubprocessBackend) -> None:
        ours, theirs = Pipe()
        with theirs:
            end = theirs.fileno()
            self.process = subprocess.Popen(backend.command, stdin=end, stdout=end, process_group=0)
        self.line = Line(ours, ours)
        super().__init__(number, Outbox(self.line, backend.events.failed), number)
        self.slot = slot
        self.reader = threading.Thread(target=backend.hear, args=(self,), daemon=True)

    def kill(self) -> None:
        """Kills it with all that it has started: it leads a process group."""
        with suppress(OSError):
            if self.process.returncode is None:  # else its number may be another's
                os.killpg(self.process.pid, signal.SIGKILL)


class SubprocessBackend(ClusterBackend):
    """The driver's side."""

    def __init__(self, workers: int, command: tuple[str, ...], folder: str) -> None:
        super().__init__(LedgerRules("a subprocess", spares_coroutines=False), queues=False)
        self.workers, self.command, self.folder = workers, command, folder
        self.store = FileStore(folder)
        self.numbers = count()
        self.at: dict[int, Member] = {}

    def start(self, events: LedgerDispatcher) -> None:
        self.events, self.ledger = events, events.ledger
        self.serializer = BatchSerializer(events, self.store.keep)
        self.listener = ClusterListener(self)
        self.calls = Calls("subprocess-listener", events.failed)
        events.slots(list(range(self.workers)))

    def member_at(self, slot: int) -> Member:
        member = self.at.get(slot)
        if member is None:
            member = self.at[slot] = Member(next(self.numbers), slot, self)
            self.welcome(member, self.folder, sys.path)
            member.reader.start()
        return member

    def slot_gone(self, slot: int) -> None:
        if (member := self.at.pop(slot, None)) is not None:
            member.channel.send(messages.STOP)

    def hear(self, member: Member) -> None:
        """What a worker says, from its start to its end; on a thread of its own."""
        for message in member.line.messages():
            self.calls.do(partial(self.listener.take, member, message))
        member.kill()
        member.process.wait()
        member.channel.close(1.0)
        member.line.close()
        self.calls.do(partial(self.gone, member))

    def gone(self, member: Member) -> None:
        code = member.process.returncode
        if self.at.get(member.slot) is member:
            del self.at[member.slot]
            if not (member.hello or self.stopping):
                text = f"{self.command} ended with {code} before it said anything"
                self.events.broken(lambda run_name: self.died(run_name, text))
        self.ledger.worker_left(member, Departure.of_process(code))

    def is_listening(self) -> bool:
        return self.calls.is_here()

    def kept(self, path: str, member: Any = None) -> FileValue:
        return self.store.own(path)

    def read_outcomes(self, worker: Any) -> None:
        self.ledger.outcomes_read(worker, worker.outcomes(self.kept))

    def kill(self, worker: Any, job: Any, run: Any) -> None:
        worker.kill()

    def stop(self, grace: float) -> None:
        self.stopping, until = True, time.monotonic() + grace
        members = self.ledger.workers()
        for member in members:
            if self.ledger.in_flight_at(member):
                member.kill()  # what it runs was cancelled
            member.channel.send(messages.STOP)
        for member in members:
            member.reader.join(max(until - time.monotonic(), 0.0))
            member.kill()
            member.reader.join()
        self.calls.close(grace)
        self.ledger.close()


class SubprocessTaskRunner(BaseTaskRunner):
    """Runs tasks on worker processes that a command starts.

    Args:
        workers: how many.
        command: what starts one; `("ssh", "host", "python", "subprocess_runner.py")` is another.
        folder: where large values are, and what workers write down; all of them share it.
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
