"""`shoal doctor`: what it finds wrong with which facts, and how it looks at a machine."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import shoal
from shoal.cli import doctor_facts
from shoal.cli.app import invoke
from shoal.cli.doctor_facts import Facts, Package, Place, Setting, memory, place
from shoal.cli.doctor_findings import Finding, Level, findings, is_in

GB = 10**9

#: A machine with which nothing is wrong.
WELL = Facts(
    cpus=8,
    allowed_cpus=4,
    cores=4,
    memory=16 * GB,
    available_memory=9 * GB,
    shared_memory=Place("/dev/shm", 8 * GB, 8 * GB),
    open_files=(1024, 4096),
    temporary=Place("/tmp", 8 * GB, 8 * GB),
    packages=(
        Package("shoal", "0.1.0"),
        Package("shoal-dask", "0.1.0"),
        Package("distributed", "2025.1.0", ">=2025.1", "shoal-dask"),
        Package("shoal-ray", None),
        Package("ray", None),
    ),
    runners=("dask", "threads"),
    settings=(Setting("SHOAL_LOG_BURST", "5"),),
    threads={"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
)


def test_a_machine_that_is_well() -> None:
    assert findings(WELL) == []


def test_facts_that_a_system_does_not_have_are_no_findings() -> None:
    assert findings(Facts()) == []


PROBLEMS = [
    ({"shared_memory": Place("/dev/shm", problem="Read-only")}, "shared memory", "--shm-size"),
    ({"temporary": Place("/tmp", problem="No space left")}, "temporary files", "TMPDIR"),
    ({"home": Place("/home/x", problem="Read-only"), "runners": ("ray",)}, "home", "set HOME"),
    ({"loopback": "Permission denied"}, "ports", "loopback"),
    ({"packages": (Package("shoal", "0.2.0"), Package("shoal-ray", "0.1.0"))}, "shoal-ray", "pip"),
    ({"packages": (Package("ray", None, ">=2.49,<3", "shoal-ray"),)}, "ray", '"ray>=2.49,<3"'),
    ({"packages": (Package("ray", "2.9", ">=2.49,<3", "shoal-ray"),)}, "ray", '"ray>=2.49,<3"'),
    (
        {"settings": (Setting("SHOAL_LOG_BURST", "x", problem="a number"),)},
        "SHOAL_LOG_BURST",
        "unset",
    ),
]

WARNINGS = [
    ({"cores": 2}, "cores", "processes:2"),
    ({"available_memory": 10_000_000}, "memory", "fewer workers"),
    ({"open_files": (256, 4096)}, "open files", "ulimit -n 4096"),
    ({"open_files": (256, 512)}, "open files", "ulimit -n 512"),
    ({"open_files": (256, -1)}, "open files", "ulimit -n 4096"),
    ({"shared_memory": Place("/dev/shm", 64_000_000, 64_000_000)}, "shared memory", "--shm-size"),
    ({"temporary": Place("/tmp", GB, 1_000_000)}, "temporary files", "make room"),
    ({"home": Place("/home/x", problem="Read-only")}, "home", "set HOME"),
    ({"busy_ports": {"dask": 8787}}, "ports", "end what is there"),
    (
        {"settings": (Setting("SHOAL_LOG_BRUST", "5", known=False),)},
        "SHOAL_LOG_BRUST",
        "SHOAL_LOG_BURST",
    ),
    (
        {"settings": (Setting("SHOAL_ABRACADABRA", "5", known=False),)},
        "SHOAL_ABRACADABRA",
        "unset it",
    ),
    ({"threads": {"OMP_NUM_THREADS": "4"}}, "OMP_NUM_THREADS", "unset it"),
]


@pytest.mark.parametrize(("facts", "about", "way_out"), PROBLEMS)
def test_what_is_wrong(facts: dict[str, object], about: str, way_out: str) -> None:
    check_the_only(findings(replace(WELL, **facts)), Level.PROBLEM, about, way_out)  # type: ignore[arg-type]


@pytest.mark.parametrize(("facts", "about", "way_out"), WARNINGS)
def test_what_may_turn_out_badly(facts: dict[str, object], about: str, way_out: str) -> None:
    check_the_only(findings(replace(WELL, **facts)), Level.WARNING, about, way_out)  # type: ignore[arg-type]


def check_the_only(found: list[Finding], level: Level, about: str, way_out: str) -> None:
    assert [(finding.level, finding.about) for finding in found] == [(level, about)]
    assert way_out in found[0].do


def test_variables_that_contradict_each_other() -> None:
    facts = replace(
        WELL, cores=1, allowed_cpus=1, threads={"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "2"}
    )
    (finding,) = findings(facts)
    assert "OMP_NUM_THREADS=1, MKL_NUM_THREADS=2" in finding.says
    assert (
        findings(replace(facts, threads={"OMP_NUM_THREADS": "4,2", "MKL_NUM_THREADS": "x"})) == []
    )


def test_a_home_that_nobody_needs() -> None:
    nobodys = Place("/home/x", problem="Read-only")
    assert findings(replace(WELL, home=nobodys, keeps_limits=False)) == []


def test_problems_come_first() -> None:
    facts = replace(WELL, cores=2, loopback="no", settings=(Setting("SHOAL_X", "1", known=False),))
    assert [finding.level for finding in findings(facts)] == ["problem", "warning", "warning"]


@pytest.mark.parametrize(
    ("version", "wanted", "answer"),
    [
        ("2025.1.0", ">=2025.1", True),
        ("2024.12.1", ">=2025.1", False),
        ("2.49.0", ">=2.49,<3", True),
        ("3.0", ">=2.49,<3", False),
        ("3.0.0rc1", ">=3", True),
        ("0.1.0", "==0.1", True),
        ("0.1.1", "==0.1", False),
        ("2", "<=2.0", True),
        ("2.1", ">2", True),
        ("2.0", ">2", False),
        ("1.2", "", True),
    ],
)
def test_versions(version: str, wanted: str, answer: bool) -> None:
    assert is_in(version, wanted) is answer


# ---------------------------------------------------------------------- looking at a machine

MEMINFO = "MemTotal:  1000 kB\nMemFree:  1 kB\nMemAvailable:  800 kB\nHugePages_Total:  0\n"


@pytest.mark.parametrize(
    ("files", "total", "available"),
    [
        ({}, 1_024_000, 819_200),
        (
            {"memory.max": "max\n", "memory.current": "5"},
            1_024_000,
            819_200,
        ),
        (
            {"a/memory.max": "500000\n", "a/memory.current": "400000\n", "a/b/memory.max": "max"},
            500_000,
            100_000,
        ),
        (
            {"a/b/memory.max": "500000\n", "a/b/memory.current": "600000\n"},
            500_000,
            0,
        ),
        (
            {"memory/memory.limit_in_bytes": "600000", "memory/memory.usage_in_bytes": "1000"},
            600_000,
            599_000,
        ),
        (
            {
                "memory/memory.limit_in_bytes": "9223372036854771712",
                "memory/memory.usage_in_bytes": "1",
            },
            1_024_000,
            819_200,
        ),
    ],
    ids=["none", "no limit", "of a parent", "used up", "version 1", "version 1 without"],
)
def test_memory_that_can_be_had(
    tmp_path: Path, files: dict[str, str], total: int, available: int
) -> None:
    groups = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    described = {"proc/meminfo": MEMINFO, "proc/self/cgroup": "0::/a/b\n", **groups}
    for name, text in described.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert memory(f"{tmp_path}/") == (total, available)


def test_where_nothing_tells_of_memory(tmp_path: Path) -> None:
    assert memory(f"{tmp_path}/") == (None, None)


def test_a_place_to_write_to(tmp_path: Path) -> None:
    found = place(str(tmp_path))
    assert found.problem is None
    assert found.size
    assert found.free
    assert not list(tmp_path.iterdir())
    assert place(str(tmp_path / "missing")).problem == "No such file or directory"


@pytest.fixture
def no_variables(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in [name for name in os.environ if name.startswith("SHOAL_")]:
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("SHOAL_TASK_RUNNER", "treads", "there is no such task runner"),
        ("SHOAL_TASK_RUNNER", "threads:4", None),
        ("SHOAL_LOG_BURST", "many", "a whole number from 0 up is needed"),
        ("SHOAL_MAX_THREADS", "0", "a whole number from 1 up is needed"),
        (
            "SHOAL_LIMITS_URL",
            "mysql://x",
            "the path of an SQLite file is needed, which may begin with sqlite:///, or a postgresql:// address",
        ),
        ("SHOAL_LIMITS_LEASE_SECONDS", "0", "a number of seconds above 0 is needed"),
        ("SHOAL_LIMITS_POLL_SECONDS", "0.1", None),
        ("SHOAL_LOGGING_LEVEL", "loud", "a level of `logging` is needed, say INFO"),
        ("SHOAL_LOGGING_LEVEL", "debug", None),
        ("SHOAL_LOGGING_LEVEL", "15", None),
    ],
)
def test_settings_are_checked(
    no_variables: pytest.MonkeyPatch, name: str, value: str, problem: str | None
) -> None:
    no_variables.setenv(name, value)
    assert Facts.here().settings == (Setting(name, value, problem=problem),)


def test_variables_that_nobody_reads(no_variables: pytest.MonkeyPatch) -> None:
    """Those of a runner's package are for that to know."""
    no_variables.setenv("SHOAL_LOG_BRUST", "1")
    no_variables.setenv("SHOAL_THREADS_OWN", "1")
    assert [setting.known for setting in Facts.here().settings] == [False, True]


def test_every_setting_is_known() -> None:
    """Whatever the core reads from the environment, the doctor can tell from a misspelt name."""
    package = Path(shoal.__file__).parent
    read = {
        name
        for file in package.rglob("*.py")
        for name in re.findall(r"\bSHOAL_[A-Z_]*[A-Z]\b", file.read_text())
    }
    assert read - {"SHOAL_DASK"} == set(doctor_facts.SETTINGS)


# ---------------------------------------------------------------------- the command


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine that is well, whatever this one is."""
    monkeypatch.setattr(Facts, "here", classmethod(lambda cls: WELL))
    return monkeypatch


@pytest.mark.usefixtures("machine")
def test_all_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["doctor"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "memory           9 GB available of 16 GB" in out
    assert "distributed      2025.1.0 (shoal-dask works with >=2025.1)" in out
    assert "ray              not installed" in out
    assert out.endswith("All is well.\n")


@pytest.mark.parametrize(
    ("facts", "code", "last"),
    [
        ({"cores": 2}, 0, "No problem, 1 warning."),
        ({"loopback": "Denied"}, 1, "1 problem."),
        ({"loopback": "Denied", "cores": 2}, 1, "1 problem, 1 warning."),
    ],
    ids=["warning", "problem", "both"],
)
def test_only_problems_fail(
    machine: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    facts: dict[str, object],
    code: int,
    last: str,
) -> None:
    changed = replace(WELL, **facts)  # type: ignore[arg-type]
    machine.setattr(Facts, "here", classmethod(lambda cls: changed))
    assert invoke(["doctor"]) == code
    assert capsys.readouterr().out.splitlines()[-1] == last
    assert invoke(["doctor", "--json"]) == code
    told = json.loads(capsys.readouterr().out)
    assert told["fine"] is (code == 0)
    assert told["facts"]["cores"] == changed.cores
    assert len(told["findings"]) == len(findings(changed))


def test_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["doctor", "--json"]) in (0, 1)
    out, err = capsys.readouterr()
    facts = json.loads(out)["facts"]
    assert err == ""
    assert 1 <= facts["cores"] <= facts["allowed_cpus"] <= facts["cpus"]
    assert facts["runners"]
    assert {package["name"] for package in facts["packages"]} >= {"shoal", "distributed", "ray"}
