"""A PostgreSQL server of the test session's own, in a temporary folder; it is reached by a Unix socket there."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import psycopg

if TYPE_CHECKING:
    from collections.abc import Iterator

#: It is for tests, so a crash of the machine may cost it its data.
OPTIONS = {"listen_addresses": "", "fsync": "off", "full_page_writes": "off"}


def programs() -> Path | None:
    """Where the newest PostgreSQL's programs are; `None` if there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=_version)
    if found:
        return found[-1].parent
    on_path = shutil.which("postgres")
    return None if on_path is None else Path(on_path).parent


def _version(program: Path) -> int:
    name = program.parent.parent.name
    return int(name) if name.isdecimal() else 0


class Server:
    """The server, which can be ended and started again.

    Attributes:
        url: the address of its database, as SHOAL_LIMITS_URL.
    """

    def __init__(self, folder: Path, bin: Path) -> None:
        self._folder, self._bin = folder, bin
        self.url = f"postgresql://shoal@/postgres?host={folder}"
        self._process: subprocess.Popen[bytes] | None = None
        self._run("initdb", "-A", "trust", "-U", "shoal", "--no-sync", "--locale=C", "-E", "UTF8")

    def _command(self, program: str, *arguments: str) -> list[str]:
        command = [str(self._bin / program), "-D", str(self._folder / "data"), *arguments]
        return [*_as_somebody_else(), *command]

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            self._command(program, *arguments), capture_output=True, cwd=self._folder, check=False
        )
        assert done.returncode == 0, done.stderr.decode()

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        given = {**OPTIONS, "unix_socket_directories": str(self._folder)}
        options = [word for name, value in given.items() for word in ("-c", f"{name}={value}")]
        with open(self._folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                self._command("postgres", *options), stdout=log, stderr=log, cwd=self._folder
            )
        deadline = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(self.url).close()
            except psycopg.OperationalError:
                assert self._process.poll() is None, (self._folder / "log").read_text()
                assert time.monotonic() < deadline, (self._folder / "log").read_text()
                time.sleep(0.02)
            else:
                return

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Ends it and all its connections; by SIGQUIT as a crash would, by SIGKILL by one."""
        assert self._process is not None
        sessions = psutil.Process(self._process.pid).children()
        self._process.send_signal(how)
        self._process.wait(30)
        self._process = None
        # They end by themselves, and until then the server cannot be started again.
        psutil.wait_procs(sessions, 30)

    def empty(self) -> None:
        """Forgets all limits."""
        with psycopg.connect(self.url) as connection:
            connection.execute("SET lock_timeout = '10s'; DROP SCHEMA IF EXISTS shoal CASCADE")


def _as_somebody_else() -> list[str]:
    """PostgreSQL refuses to run as root. It dies with these tests."""
    dies = ["setpriv", "--pdeathsig", "INT"] if shutil.which("setpriv") else []
    if os.getuid() != 0:
        return dies
    return [*dies, "--reuid", str(_user().pw_uid), "--regid", str(_user().pw_gid), "--clear-groups"]


def _user() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise LookupError("there is neither a user postgres nor nobody")


@contextmanager
def server(bin: Path) -> Iterator[Server]:
    """A running server."""
    folder = Path(tempfile.mkdtemp(prefix="shoal-pg-", dir="/tmp"))
    try:
        if os.getuid() == 0:
            os.chown(folder, _user().pw_uid, _user().pw_gid)
        made = Server(folder, bin)
        made.start()
        try:
            yield made
        finally:
            made.stop()
    finally:
        shutil.rmtree(folder)
