"""What the page on Dask speaks of and a test does not have: a process with two clusters, and modules of two packages.

`stand_ins` starts and ends it. As a script this module is that process: it writes down where its schedulers are, and
ends with its standard input.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The file that the process writes, and the page finds its scheduler by.
FILE = "scheduler.json"
AUTHORITY, CERTIFICATE, KEY = "ca.pem", "cert.pem", "key.pem"

# Threads of the page's own process: spawned workers would want a guard around its script.
CLUSTER = """
from distributed import LocalCluster


class {name}(LocalCluster):
    def __init__(self, {arguments}, **options):
        options.setdefault("n_workers", 0)
        super().__init__(
            processes=False, threads_per_worker=1, dashboard_address="127.0.0.1:0", **options
        )
{methods}"""

SLURM = CLUSTER.format(
    name="SLURMCluster",
    arguments="queue, cores, processes, memory, walltime",
    methods="""
    def adapt(self, *, minimum_jobs, maximum_jobs):
        return super().adapt(minimum=minimum_jobs, maximum=maximum_jobs)
""",
)
KUBERNETES = CLUSTER.format(name="KubeCluster", arguments="name, image", methods="")


@contextmanager
def stand_ins(directory: Path) -> Iterator[dict[str, str]]:
    """Makes a directory such that the page's script runs in it.

    Yields:
        What to replace in the script, and by what.
    """
    (directory / "dask_jobqueue.py").write_text(SLURM)
    package = directory / "dask_kubernetes" / "operator"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(KUBERNETES)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(directory / AUTHORITY))
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(str(directory / CERTIFICATE))
    issued.private_key_pem.write_to_path(str(directory / KEY))
    with (
        (directory / "clusters.log").open("wb") as log,
        subprocess.Popen(
            [sys.executable, str(Path(__file__))],
            cwd=directory,
            stdin=subprocess.PIPE,
            stderr=log,
        ) as process,
    ):
        deadline = time.monotonic() + 30
        while not (directory / FILE).exists():
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"no clusters:\n{(directory / 'clusters.log').read_text()}")
            time.sleep(0.02)
        found = json.loads((directory / FILE).read_text())
        yield {"tcp://scheduler:8786": found["address"], "tls://scheduler:8787": found["tls"]}


def main() -> None:
    """Two clusters, until standard input ends."""
    from distributed import LocalCluster, Security

    security = Security(
        require_encryption=True,
        **{
            f"tls_{role}_{kind}": file
            for role in ("client", "scheduler", "worker")
            for kind, file in (("cert", CERTIFICATE), ("key", KEY))
        },
        tls_ca_file=AUTHORITY,
    )
    options = {"n_workers": 1, "processes": False, "dashboard_address": "127.0.0.1:0"}
    with (
        LocalCluster(**options, protocol="tcp://", host="127.0.0.1") as plain,
        LocalCluster(**options, protocol="tls://", security=security) as encrypted,
    ):
        found = {"address": plain.scheduler_address, "tls": encrypted.scheduler_address}
        Path("scheduler.tmp").write_text(json.dumps(found))
        Path("scheduler.tmp").rename(FILE)
        sys.stdin.read()


if __name__ == "__main__":
    main()
