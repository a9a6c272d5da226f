"""Worker processes: how they start, what they find, how they end, and that they never outlive their driver."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from shoal.task_runners.processes import fork_server
from shoal.task_runners.processes.spawning import default_method, start_worker
from shoal.task_runners.processes.worker_process import WorkerProcess
from shoal.testing.tools import PATIENCE, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
ENTRIES = "tests.core.starting_entries"

#: Seconds that processes have to end after their driver.
SOON = 20.0

METHODS = ["forkserver", "spawn"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(default_method() != "forkserver", reason="there is no forking here"),
]


class Started:
    """A worker of a test."""

    def __init__(self, method: str, entry: str, settings: bytes, env: dict[str, str]) -> None:
        self.ends: list[WorkerProcess] = []
        self.called = threading.Event()
        self._read, write = os.pipe()
        self._wait, self._hold = os.pipe()
        self._unread = b""
        try:
            self.process = start_worker(
                method,
                entry,
                [write, self._wait],
                settings,
                env=env,
                on_exit=self._on_exit,
            )
        finally:
            os.close(write)
            os.close(self._wait)

    def _on_exit(self, process: WorkerProcess) -> None:
        self.ends.append(process)
        self.called.set()

    def told(self) -> dict[str, Any]:
        """The next thing that the worker told."""
        while b"\n" not in self._unread:
            assert select.select([self._read], [], [], PATIENCE)[0], "the worker tells nothing"
            chunk = os.read(self._read, 1 << 20)
            assert chunk, f"the worker tells nothing any more: {self.process}"
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        facts: dict[str, Any] = json.loads(line)
        return facts

    def ended(self) -> tuple[int | None, int | None]:
        """Its exit code and signal, once it is dead."""
        assert self.process.join(PATIENCE)
        assert self.called.wait(PATIENCE)
        assert self.ends == [self.process]
        return self.process.exit_code, self.process.signal

    def close(self) -> None:
        self.process.kill()
        self.ended()
        os.close(self._read)
        os.close(self._hold)


@pytest.fixture
def begin() -> Iterator[Callable[..., Started]]:
    """Starts a worker in a function of `starting_entries`; ends it after the test."""
    started: list[Started] = []

    def begin(
        method: str,
        function: str,
        settings: bytes = b"",
        *,
        module: str = ENTRIES,
        **env: str,
    ) -> Started:
        worker = Started(method, f"{module}:{function}", settings, env)
        started.append(worker)
        return worker

    yield begin
    for worker in started:
        worker.close()


@pytest.fixture(params=METHODS)
def start(request: pytest.FixtureRequest, begin: Callable[..., Started]) -> Callable[..., Started]:
    """`begin` with each method."""
    return lambda *args, **options: begin(request.param, *args, **options)


def server_process() -> psutil.Process:
    server = fork_server.SERVERS._server
    assert server is not None
    return psutil.Process(server._pid)


def gone(pids: list[int]) -> bool:
    """Whether none of these processes runs; zombies are not ours to reap, and do not."""
    for pid in pids:
        try:
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                return False
        except psutil.NoSuchProcess:
            pass
    return True


# ------------------------------------------------------------------------ ends

ENDS = {
    "returns": (b"pass", 0, None),
    "raises": (b"1 / 0", 1, None),
    "exits": (b"sys.exit()", 0, None),
    "exits with 3": (b"sys.exit(3)", 3, None),
    "exits with words": (b"sys.exit('for a reason')", 1, None),
    "leaves at once": (b"os._exit(7)", 7, None),
    "is killed": (b"os.kill(os.getpid(), signal.SIGKILL)", None, signal.SIGKILL),
    "is told to end": (b"os.kill(os.getpid(), signal.SIGTERM)", None, signal.SIGTERM),
    "survives Ctrl-C": (b"os.kill(os.getpid(), signal.SIGINT); sys.exit(5)", 5, None),
}


@pytest.mark.parametrize("how", ENDS)
def test_how_it_ended_is_told_once(start: Callable[..., Started], how: str) -> None:
    code, *expected = ENDS[how]
    worker = start("end", code)
    assert worker.ended() == tuple(expected)
    assert not worker.process.alive
    assert worker.process.error is None
    worker.process.kill()  # nobody any more
    time.sleep(0.02)
    assert len(worker.ends) == 1


def test_an_exception_is_written_where_the_driver_writes(
    start: Callable[..., Started], capfd: pytest.CaptureFixture[str]
) -> None:
    assert start("end", b"1 / 0").ended() == (1, None)
    written = capfd.readouterr().err
    assert "Traceback" in written
    assert "ZeroDivisionError" in written


def test_an_entry_that_is_not_there(
    start: Callable[..., Started], capfd: pytest.CaptureFixture[str]
) -> None:
    assert start("main", module="tests.no_such_module").ended() == (1, None)
    assert "no_such_module" in capfd.readouterr().err


def test_it_ends_like_an_interpreter(
    start: Callable[..., Started], capfd: pytest.CaptureFixture[str]
) -> None:
    worker = start("leave_things_to_do")
    assert [worker.told()["step"] for _ in range(3)] == ["entry", "thread", "atexit"]
    assert worker.ended() == (0, None)
    assert capfd.readouterr().out == "without an end of line"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda s: s.name)
def test_kill(start: Callable[..., Started], number: signal.Signals) -> None:
    worker = start("wait")
    assert worker.told()["pid"] == worker.process.wait_pid(PATIENCE)
    assert worker.process.alive
    assert not worker.process.join(0.01)
    worker.process.kill(number)
    assert worker.ended() == (None, number)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda s: s.name)
def test_kill_what_is_just_starting(start: Callable[..., Started], number: signal.Signals) -> None:
    for _ in range(5):
        worker = start("wait")
        worker.process.kill(number)
        assert worker.ended() == (None, number)


def test_failing_callbacks_do_no_harm(
    begin: Callable[..., Started], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(process: WorkerProcess) -> None:
        raise Exception("from the callback")

    for method in METHODS:
        process = start_worker(method, f"{ENTRIES}:end", [], b"", env={}, on_exit=fail)
        assert process.join(PATIENCE)
    assert begin("forkserver", "end").ended() == (0, None)
    eventually(lambda: caplog.text.count("Exception: from the callback") == 2, "both are logged")


def test_a_callback_may_start_the_next(begin: Callable[..., Started]) -> None:
    done = threading.Event()
    left = [3]

    def again(process: WorkerProcess) -> None:
        left[0] -= 1
        if not left[0]:
            done.set()
        else:
            start_worker("forkserver", f"{ENTRIES}:end", [], b"", env={}, on_exit=again)

    start_worker("forkserver", f"{ENTRIES}:end", [], b"", env={}, on_exit=again)
    assert done.wait(PATIENCE)


# ---------------------------------------------------------------- surroundings


def test_it_finds_the_surroundings_of_the_driver_as_they_are_now(
    start: Callable[..., Started], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOAL_TEST_GOES", "soon")
    start("surroundings").told()
    monkeypatch.delenv("SHOAL_TEST_GOES")
    monkeypatch.setenv("SHOAL_TEST_STAYS", "a=b \udcff")
    monkeypatch.setenv("SHOAL_TEST_OWN", "the driver's")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "argv", ["program", "--option"])
    for own in ("first", "second"):
        facts = start("surroundings", SHOAL_TEST_OWN=own).told()
        environ = facts["environ"]
        assert "SHOAL_TEST_GOES" not in environ
        assert environ == {**os.environ, "SHOAL_TEST_OWN": own}
        assert facts["cwd"] == str(tmp_path)
        assert facts["path"] == sys.path
        assert facts["argv"] == ["program", "--option"]
        assert facts["main"] == []
        assert facts["main_file"] is None
        assert facts["stdin"] == ""
        assert facts["stdin_target"] == os.devnull


def test_the_time_zone(
    begin: Callable[..., Started],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begin("forkserver", "end").ended()
    code = b"import time; print(time.timezone)"
    assert begin("forkserver", "end", code, TZ="XYZ5").ended() == (0, None)
    assert capfd.readouterr().out == "18000\n"


def test_a_working_directory_that_was_deleted(
    begin: Callable[..., Started], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin("forkserver", "end").ended()
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    here.rmdir()
    assert begin("forkserver", "end").ended() == (0, None)


def test_output_appears_where_the_driver_writes_now(
    start: Callable[..., Started], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert start("say", b"first").ended() == (0, None)
    assert capfd.readouterr() == ("out first\nraw\n", "err first\n")
    saved = os.dup(1), os.dup(2)
    try:
        with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
        assert start("say", b"second").ended() == (0, None)
    finally:
        os.dup2(saved[0], 1)
        os.dup2(saved[1], 2)
        os.close(saved[0])
        os.close(saved[1])
    assert (tmp_path / "out").read_text() == "out second\nraw\n"
    assert (tmp_path / "err").read_text() == "err second\n"
    assert capfd.readouterr() == ("", "")


def test_nothing_of_the_server_is_in_the_worker(start: Callable[..., Started]) -> None:
    seen = set()
    for _ in range(3):
        facts = start("insides").told()
        assert facts["opened"] == sorted([0, 1, 2, *facts["fds"]])
        assert len(facts["fds"]) == 2
        assert facts["inheritable"] == []
        assert facts["sigint"]
        assert facts["sigterm"]
        assert facts["sigchld"]
        assert facts["blocked"] == []
        seen.add(facts["random"])
    assert len(seen) == 3


def test_large_settings_and_environments(start: Callable[..., Started]) -> None:
    settings = bytes(range(256)) * 20_000
    worker = start("settings", settings, SHOAL_TEST_LARGE="x" * 100_000)
    assert worker.told() == {"length": len(settings), "sum": sum(settings)}
    assert worker.ended() == (0, None)


# ---------------------------------------------------------------------- bounds


def test_a_hundred_workers_leave_nothing(begin: Callable[..., Started]) -> None:
    begin("forkserver", "end").ended()
    server = server_process()
    mine, theirs = psutil.Process().num_fds(), server.num_fds()
    workers = [Started("forkserver", f"{ENTRIES}:wait", b"", {}) for _ in range(50)]
    assert len({worker.told()["pid"] for worker in workers}) == 50
    workers += [Started("forkserver", f"{ENTRIES}:end", b"", {}) for _ in range(50)]
    for worker in workers:
        worker.close()
    assert server.children() == []
    assert server_process() == server
    assert (psutil.Process().num_fds(), server.num_fds()) == (mine, theirs)


def test_many_threads_start_workers(begin: Callable[..., Started]) -> None:
    codes: list[object] = []

    def work() -> None:
        for method in ("forkserver", "forkserver", "forkserver", "spawn"):
            worker = Started(method, f"{ENTRIES}:end", b"sys.exit(4)", {})
            codes.append(worker.ended())
            worker.close()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [(4, None)] * 32


def test_a_descriptor_that_is_closed(begin: Callable[..., Started]) -> None:
    fd = os.open(os.devnull, os.O_RDONLY)
    os.close(fd)
    called: list[WorkerProcess] = []
    with pytest.raises(OSError, match="Bad file descriptor"):
        start_worker("forkserver", f"{ENTRIES}:end", [fd], b"", env={}, on_exit=called.append)
    assert begin("forkserver", "end").ended() == (0, None)
    assert called == []


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits another process")
def test_a_server_that_is_out_of_descriptors(begin: Callable[..., Started]) -> None:
    begin("forkserver", "end").ended()
    server = server_process()
    limits = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (server.num_fds() + 2, limits[1]))
    try:
        worker = begin("forkserver", "end")
        assert worker.ended() == (None, None)
        assert worker.process.wait_pid() is None
        assert "could not be forked" in (worker.process.error or "")
    finally:
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, limits)
    assert begin("forkserver", "end").ended() == (0, None)


# ---------------------------------------------------------------- the server's end


def test_a_killed_server_takes_its_workers_along(begin: Callable[..., Started]) -> None:
    workers = [begin("forkserver", "wait") for _ in range(3)]
    pids = [worker.told()["pid"] for worker in workers]
    server = server_process()
    os.kill(server.pid, signal.SIGKILL)
    for worker in workers:
        assert worker.ended() == (None, None)
        assert "ended by signal 9" in (worker.process.error or "")
        worker.process.kill()
    eventually(lambda: gone(pids), "the workers are dead", SOON)
    worker = begin("forkserver", "wait")
    assert worker.told()["parent"] == server_process().pid != server.pid


def test_starting_while_the_server_dies(begin: Callable[..., Started]) -> None:
    for _ in range(5):
        begin("forkserver", "end").ended()
        os.kill(server_process().pid, signal.SIGKILL)
        worker = begin("forkserver", "end")
        assert worker.ended() in [(0, None), (None, None)]


def test_it_does_not_end_with_what_the_terminal_sends(begin: Callable[..., Started]) -> None:
    worker = begin("forkserver", "wait")
    worker.told()
    server = server_process()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(server.pid, number)
    assert begin("forkserver", "end").ended() == (0, None)
    assert server_process() == server
    assert worker.process.alive
    assert os.getpgid(server.pid) == os.getpgid(0)
    assert os.getpgid(worker.process.pid or 0) == worker.process.pid


def test_a_server_that_was_stopped_is_continued(
    begin: Callable[..., Started], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """SPEC 7.3, 7.5. Nothing waits for ever for what it was asked to start, or to kill."""
    monkeypatch.setattr(fork_server, "ANSWERS_WITHIN", 0.1)
    first = begin("forkserver", "wait")
    first.told()
    server = server_process()
    server.suspend()
    second = begin("forkserver", "end")
    assert second.ended() == (0, None)
    server.suspend()
    first.process.kill()
    assert first.ended() == (None, signal.SIGKILL)
    assert server_process() == server
    assert len([r for r in caplog.records if "was stopped" in r.getMessage()]) == 2


def test_what_a_killed_worker_has_started_ends_with_it(start: Callable[..., Started]) -> None:
    """SPEC 7.5."""
    worker = start("has_a_program")
    program = psutil.Process(worker.told()["program"])
    worker.process.kill()
    assert worker.ended() == (None, signal.SIGKILL)
    assert gone([program.pid]) or program.wait(PATIENCE) is None


def test_what_a_worker_has_started_outlives_its_end_in_peace(start: Callable[..., Started]) -> None:
    worker = start("leaves_a_program")
    program = psutil.Process(worker.told()["program"])
    try:
        assert worker.ended() == (0, None)
        assert not gone([program.pid])
    finally:
        program.kill()


def test_programs_of_workers_take_notice_of_ctrl_c(start: Callable[..., Started]) -> None:
    """Workers take none of SIGINT, and nobody else is to learn that from them."""
    assert start("interrupts_others").told() == {"program": -signal.SIGINT, "child": 3}


# ---------------------------------------------------------------- the driver's end

PRELUDE = f"""
import json, os, signal, socket, sys, threading, time
from shoal.task_runners.processes import fork_server
from shoal.task_runners.processes.spawning import start_worker

def start(method, function, settings=b""):
    read, write = os.pipe()
    wait, hold = os.pipe()
    process = start_worker(
        method, "{ENTRIES}:" + function, [write, wait], settings, env={{}}, on_exit=lambda p: None
    )
    os.close(write)
    os.close(wait)
    return process, read

def told(read):
    return json.loads(os.read(read, 1 << 20))

def say(facts):
    target = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(target, json.dumps(facts).encode() + b"\\n")
    os.close(target)
"""


class Program:
    """A driver in a process of its own."""

    def __init__(
        self, path: Path, script: str, *, through: tuple[str, ...] = (), job: bool = False
    ) -> None:
        program = path / "program.py"
        program.write_text(PRELUDE + script)
        self._path = path
        self._said = path / "said"
        self.process = subprocess.Popen(
            [*through, sys.executable, "-W", "error", str(program), str(self._said)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "SHOAL_TEST_PROGRAM": str(path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # A job of this session can be stopped; a session whose leader is gone cannot, as nothing would continue it.
            start_new_session=not job,
            process_group=0 if job else None,
        )

    def said(self, count: int = 1) -> list[Any]:
        def lines() -> list[str] | None:
            if self._said.exists() and (text := self._said.read_text()).count("\n") >= count:
                return text.splitlines()
            assert self.process.poll() is None, self.process.communicate()[0]
            return None

        return [json.loads(line) for line in eventually(lines, "the program speaks") or []]

    def is_part(self, process: psutil.Process) -> bool:
        """Whether a process is the driver, or was started by it or by one that it had started."""
        return process.environ().get("SHOAL_TEST_PROGRAM") == str(self._path)

    def output(self) -> str:
        return self.process.communicate(timeout=PATIENCE)[0]


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    programs: list[Program] = []

    def run(script: str, **options: Any) -> Program:
        programs.append(Program(tmp_path, script, **options))
        return programs[-1]

    yield run
    for each in programs:
        each.process.kill()
        each.process.communicate()


OUTLIVING = """
workers = [start("forkserver", "wait") for _ in range(3)] + [start("spawn", "wait_for_end")]
facts = [told(read) for _, read in workers]
say([fact["pid"] for fact in facts] + [facts[0]["parent"]])
"""

DRIVER_ENDS = {
    "SIGKILL": ("time.sleep(60)", signal.SIGKILL),
    "SIGTERM": ("time.sleep(60)", signal.SIGTERM),
    "Ctrl-C": ("time.sleep(60)", signal.SIGINT),
    "returns": ("", None),
    "os._exit": ("os._exit(0)", None),
    "exec": ("os.execv(sys.executable, [sys.executable, '-c', 'pass'])", None),
}


@pytest.mark.parametrize("how", DRIVER_ENDS)
def test_nothing_outlives_the_driver(program: Callable[..., Program], how: str) -> None:
    script, number = DRIVER_ENDS[how]
    driver = program(OUTLIVING + script)
    (pids,) = driver.said()
    if number is not None:
        os.kill(driver.process.pid, number)
    output = driver.output()
    eventually(lambda: gone(pids), f"all of them end: {pids}", SOON)
    assert "Traceback" not in output or how == "Ctrl-C"


def test_nothing_outlives_a_driver_killed_while_it_starts_workers(
    program: Callable[..., Program],
) -> None:
    driver = program(
        """
say(os.getpid())
while True:
    start("forkserver", "wait")
"""
    )
    driver.said()
    time.sleep(0.15)
    driver.process.kill()

    def members() -> list[int]:
        found = []
        for process in psutil.process_iter():
            try:
                if driver.is_part(process):
                    found.append(process.pid)
            except psutil.Error:
                pass
        return found

    assert driver.process.wait(PATIENCE) == -signal.SIGKILL
    eventually(lambda: gone(members()), "all that it started ends", SOON)


def test_ctrl_c_of_the_terminal_reaches_the_driver_only(program: Callable[..., Program]) -> None:
    driver = program(
        """
caught = []
signal.signal(signal.SIGINT, lambda *_: caught.append(1))
workers = [start("forkserver", "wait_for_end"), start("spawn", "wait_for_end")]
for _, read in workers:
    told(read)
server = fork_server.SERVERS._server
say("ready")
while not caught:
    time.sleep(0.01)
another, _ = start("forkserver", "end", b"sys.exit(6)")
another.join()
time.sleep(0.05)
say([[process.alive for process, _ in workers], another.exit_code, server is fork_server.SERVERS._server])
"""
    )
    driver.said()
    os.killpg(driver.process.pid, signal.SIGINT)
    assert driver.said(2)[1] == [[True, True], 6, True]
    assert driver.output() == ""


PROGRAMS = """
process, read = start("forkserver", "has_a_program")
say([process.wait_pid(), told(read)["program"], fork_server.SERVERS._server._pid])
time.sleep(60)
"""


@pytest.mark.parametrize("killed", ["driver", "server"])
def test_programs_of_workers_end_with_who_started_these(
    program: Callable[..., Program], killed: str
) -> None:
    driver = program(PROGRAMS)
    ((worker, theirs, server),) = driver.said()
    os.kill(driver.process.pid if killed == "driver" else server, signal.SIGKILL)
    eventually(lambda: gone([worker, theirs, server]), "all of them end", SOON)


def test_job_control_is_for_workers_too(program: Callable[..., Program]) -> None:
    driver = program(PROGRAMS, job=True)
    ((worker, theirs, server),) = driver.said()
    for number, expected in (signal.SIGTSTP, True), (signal.SIGCONT, False):
        os.killpg(driver.process.pid, number)
        for pid in worker, theirs, server, driver.process.pid:
            eventually(
                lambda pid=pid, expected=expected: (
                    (psutil.Process(pid).status() == psutil.STATUS_STOPPED) is expected
                ),
                f"{number.name} reaches process {pid}",
            )


def test_nobody_is_stopped_who_could_not_be_continued(program: Callable[..., Program]) -> None:
    driver = program(
        PROGRAMS.replace(
            "time.sleep(60)",
            "os.killpg(0, signal.SIGTSTP); another, _ = start('forkserver', 'end', b''); another.join(); say(another.exit_code)",
        )
    )
    assert driver.said(2)[1] == 0


def test_a_fork_of_the_driver_has_a_server_of_its_own(program: Callable[..., Program]) -> None:
    driver = program(
        """
process, read = start("forkserver", "wait")
parents = told(read)["parent"]
child = os.fork()
if child == 0:
    process.kill()
    mine, read = start("forkserver", "wait")
    fact = told(read)
    say([fact["pid"], fact["parent"], os.getpid()])
    time.sleep(60)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
say([process.wait_pid(), parents, process.alive])
time.sleep(60)
"""
    )
    (theirs, their_server, child), (worker, server, alive) = driver.said(2)
    assert alive
    assert server != their_server
    driver.process.kill()
    driver.process.wait(PATIENCE)
    eventually(lambda: gone([worker, server]), "the child holds nothing of the driver's", SOON)
    assert not gone([theirs])
    assert not gone([their_server])
    os.kill(child, signal.SIGKILL)
    eventually(lambda: gone([theirs, their_server]), "the child's end as well", SOON)


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="only the socket tells of the end here")
def test_a_fork_without_hooks_does_not_hide_the_drivers_end(
    program: Callable[..., Program],
) -> None:
    driver = program(
        """
import ctypes
process, read = start("forkserver", "wait")
fact = told(read)
child = ctypes.PyDLL(None).fork()  # as a library in C may do
if child == 0:
    time.sleep(60)
say([child, fact["pid"], fact["parent"]])
time.sleep(60)
"""
    )
    ((child, *pids),) = driver.said()
    try:
        driver.process.kill()
        driver.process.wait(PATIENCE)
        eventually(lambda: gone(pids), "server and worker end", SOON)
        assert not gone([child])
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("ends", ["signal.signal(signal.SIGCHLD, signal.SIG_IGN)", "reap()"])
def test_a_driver_whose_children_are_reaped_by_others(
    program: Callable[..., Program], ends: str
) -> None:
    driver = program(
        f"""
def wait_for_any():
    while True:
        try:
            os.wait()
        except ChildProcessError:
            time.sleep(0.001)

def reap():
    threading.Thread(target=wait_for_any, daemon=True).start()

{ends}
process, _ = start("forkserver", "end", b"sys.exit(3)")
process.join()
spawned, _ = start("spawn", "end", b"sys.exit(3)")
spawned.join()
os.kill(fork_server.SERVERS._server._pid, signal.SIGKILL)
again, _ = start("forkserver", "wait")
again.kill()
again.join()
say([process.exit_code, spawned.exit_code, spawned.signal])
"""
    )
    assert driver.output() == ""
    ((forked, spawned, number),) = driver.said()
    assert forked == 3
    assert spawned in (3, None)
    assert number is None


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_driver_without_standard_streams(
    program: Callable[..., Program], method: str, closed: str
) -> None:
    driver = program(
        f"""
process, read = start({method!r}, "settings", b"abc")
facts = told(read)
process.join()
other, read = start({method!r}, "say", b"words")
other.join()
say([facts["length"], process.exit_code, other.exit_code])
""",
        through=("sh", "-c", f'exec "$@" {closed}', "sh"),
    )
    output = driver.output()
    assert driver.said() == [[3, 0, 0]]
    assert ("out words" in output) == (">&-" not in closed.replace("2>&-", ""))
    assert ("err words" in output) == ("2>&-" not in closed)
    assert "Traceback" not in output


def test_sockets_that_time_out_by_default(program: Callable[..., Program]) -> None:
    driver = program(
        """
socket.setdefaulttimeout(0.02)
codes = []
for _ in range(2):
    process, _ = start("forkserver", "end", b"sys.exit(2)")
    process.join()
    codes.append(process.exit_code)
    time.sleep(0.2)
    server = fork_server.SERVERS._server
say([codes, server is fork_server.SERVERS._server, server.gone])
"""
    )
    assert driver.output() == ""
    assert driver.said() == [[[2, 2], True, False]]


def test_the_users_program_is_not_imported(program: Callable[..., Program]) -> None:
    driver = program(
        """
say(["imported", __name__])
for method in ("forkserver", "spawn"):
    process, _ = start(method, "end")
    process.join()
"""
    )
    assert driver.output() == ""
    assert driver.said() == [["imported", "__main__"]]
