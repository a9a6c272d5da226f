"""What the workers of test_processes_start run; a worker's first descriptor is where it tells."""

from __future__ import annotations

import atexit
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time


def tell(fds: list[int], /, **facts: object) -> None:
    os.write(fds[0], json.dumps(facts).encode() + b"\n")


def settings(fds: list[int], settings: bytes) -> None:
    tell(fds, length=len(settings), sum=sum(settings))


def end(fds: list[int], settings: bytes) -> None:
    """Ends as it is told."""
    exec(settings, {"os": os, "sys": sys, "signal": signal})


def wait(fds: list[int], settings: bytes) -> None:
    """Runs until it is killed."""
    tell(fds, pid=os.getpid(), parent=os.getppid())
    while True:
        time.sleep(60)


def wait_for_end(fds: list[int], settings: bytes) -> None:
    """Runs until whoever started it is gone, or closes its descriptor."""
    tell(fds, pid=os.getpid(), parent=os.getppid())
    os.read(fds[1], 1)


def say(fds: list[int], settings: bytes) -> None:
    print(f"out {settings.decode()}")
    print(f"err {settings.decode()}", file=sys.stderr)
    os.write(1, b"raw\n")


def surroundings(fds: list[int], settings: bytes) -> None:
    main = sys.modules["__main__"]
    tell(
        fds,
        environ=dict(os.environ),
        cwd=os.getcwd(),
        path=sys.path,
        argv=sys.argv,
        main=[name for name in vars(main) if not name.startswith("__")],
        main_file=getattr(main, "__file__", None),
        stdin=sys.stdin.read() if sys.stdin else None,
        stdin_target=os.path.realpath("/dev/fd/0"),
    )


def insides(fds: list[int], settings: bytes) -> None:
    listing = os.open("/dev/fd", os.O_RDONLY)
    opened = sorted(map(int, os.listdir(listing)))
    os.close(listing)
    # One of them listed the directory.
    opened = [fd for fd in opened if _is_open(fd)]
    tell(
        fds,
        fds=fds,
        opened=opened,
        inheritable=[fd for fd in fds if os.get_inheritable(fd)],
        sigint=signal.getsignal(signal.SIGINT) not in (signal.SIG_DFL, signal.default_int_handler),
        sigterm=signal.getsignal(signal.SIGTERM) == signal.SIG_DFL,
        sigchld=signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL,
        blocked=[int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
        random=random.random(),
    )


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def leave_things_to_do(fds: list[int], settings: bytes) -> None:
    """Returns before all is done."""
    atexit.register(tell, fds, step="atexit")

    def work() -> None:
        threading.main_thread().join(0.05)
        tell(fds, step="thread")

    threading.Thread(target=work).start()
    sys.stdout.write("without an end of line")
    tell(fds, step="entry")


def _start(seconds: int = 60) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", str(seconds)])


def has_a_program(fds: list[int], settings: bytes) -> None:
    """Runs until it is killed, and has started another program."""
    tell(fds, program=_start().pid)
    while True:
        time.sleep(60)


def leaves_a_program(fds: list[int], settings: bytes) -> None:
    """Ends in peace, and leaves a program behind."""
    tell(fds, program=_start().pid)


def interrupts_others(fds: list[int], settings: bytes) -> None:
    """Sends SIGINT to a program and to a child that it forks."""
    program = _start()
    program.send_signal(signal.SIGINT)
    child = os.fork()
    if child == 0:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)
        except KeyboardInterrupt:
            os._exit(3)
    _, status = os.waitpid(child, 0)
    tell(fds, program=program.wait(), child=os.waitstatus_to_exitcode(status))
