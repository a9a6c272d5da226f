"""Who takes part: a small file for each system, written as a good user of it would, and the list of them, here.

    base.py       `System`: what every adapter can be asked for
    ours.py       the four runners, by their names
    futures.py    concurrent.futures        dask.py    distributed's client        ray.py   .remote() and ray.get
    joblib.py  loky.py  parsl.py  executorlib.py  prefect.py     others

Adapters run in a process of their own, which may be another interpreter: they import the standard library and their
engine, no more. This module imports none of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

__all__ = ["RUNNERS", "ContestantSpec", "UnknownName", "choose", "known"]

#: Ours, in the order in which they are shown.
RUNNERS = ("threads", "processes", "dask", "ray")


class UnknownName(Exception):
    """Nothing of a kind has this name.

    Attributes:
        kind: of what was asked for: a contestant, a scenario.
        name: what was asked for.
        known: the names that there are.
    """

    def __init__(self, kind: str, name: str, known: Collection[str]) -> None:
        super().__init__(kind, name, known)
        self.kind = kind
        self.name = name
        self.known = known

    def __str__(self) -> str:
        return f"there is no {self.kind} {self.name!r}, but: {', '.join(self.known)}"


@dataclass(frozen=True)
class ContestantSpec:
    """Who a contestant is, and where its adapter is.

    Attributes:
        name: what `--contestant` takes; unique.
        engine: what it runs on. Those of an engine are started together and take turns.
        adapter: its class, as `module:name` within this package.
        argument: what the adapter is given besides the number of workers: a runner's name, an address, a backend.
        bare: of ours: the name of its bare engine.
        needs: the module without which it cannot run.
        install: what installs that.
        packages: distributions whose versions bear on its figures.
        is_peer: whether it only takes part when asked for, by name or by `--full`.
    """

    name: str
    engine: str
    adapter: str
    argument: str = ""
    bare: str | None = None
    needs: str | None = None
    install: str = ""
    packages: tuple[str, ...] = ()
    is_peer: bool = False

    @property
    def ours(self) -> bool:
        """Whether it is a runner of Shoal."""
        return self.adapter.startswith("ours:")

    @property
    def is_installed(self) -> bool:
        """Whether this interpreter has what it needs."""
        return self.needs is None or find_spec(self.needs) is not None


def _ours(engine: str, bare: str, needs: str | None = None, argument: str = "") -> ContestantSpec:
    package = needs.replace("_", "-") if needs else ""
    return ContestantSpec(
        name=argument or engine,
        engine=argument or engine,
        adapter="ours:Shoal",
        argument=argument or engine,
        bare=bare,
        needs=needs,
        install=f"pip install ./packages/{package}" if package else "",
        packages=tuple(filter(None, ("shoal", package))),
    )


def _dask(address: str = "") -> ContestantSpec:
    return ContestantSpec(
        name=f"dask-client {address}".strip(),
        engine=address or "dask",
        adapter="dask:DaskClient",
        argument=address,
        needs="distributed",
        install="pip install distributed",
        packages=("distributed",),
    )


def _ray(address: str = "") -> ContestantSpec:
    return ContestantSpec(
        name=f"ray-remote {address}".strip(),
        engine=address or "ray",
        adapter="ray:RayRemote",
        argument=address,
        needs="ray",
        install="pip install ray",
        packages=("ray",),
    )


def _peer(
    name: str, engine: str, adapter: str, package: str = "", argument: str = ""
) -> ContestantSpec:
    return ContestantSpec(
        name=name,
        engine=engine,
        adapter=adapter,
        argument=argument,
        needs=package or None,
        install=f"pip install {package}" if package else "",
        packages=(package,) if package else (),
        is_peer=True,
    )


_ALL = (
    _ours("threads", bare="futures-threads"),
    ContestantSpec("futures-threads", "threads", "futures:Threads"),
    _peer("joblib-threads", "threads", "joblib:Joblib", "joblib", argument="threading"),
    _peer("prefect", "threads", "prefect:Prefect", "prefect"),
    _ours("processes", bare="futures-processes"),
    ContestantSpec("futures-processes", "processes", "futures:Processes"),
    _peer("futures-chunks", "processes", "futures:Chunks"),
    _peer("joblib", "processes", "joblib:Joblib", "joblib", argument="loky"),
    _peer("loky", "processes", "loky:Loky", "loky"),
    _peer("parsl", "processes", "parsl:Parsl", "parsl"),
    _peer("executorlib", "processes", "executorlib:Executorlib", "executorlib"),
    _ours("dask", bare="dask-client", needs="shoal_dask"),
    _dask(),
    _ours("ray", bare="ray-remote", needs="shoal_ray"),
    _ray(),
)

#: Schemes of addresses of clusters that run, by the engine they belong to.
_SCHEMES = {"tcp": "dask", "tls": "dask", "ws": "dask", "wss": "dask", "ray": "ray"}


def known() -> Mapping[str, ContestantSpec]:
    """All contestants by name, in the order in which they are shown."""
    return {spec.name: spec for spec in _ALL}


def choose(
    runners: Sequence[str] = (),
    contestants: Sequence[str] = (),
    *,
    peers: bool = False,
    asked: Iterable[str] = (),
) -> tuple[ContestantSpec, ...]:
    """Who takes part.

    Args:
        runners: these of ours with their bare engines, by name or by the address of a cluster that runs; all four, if
            nobody is named.
        contestants: these besides. If only they are named, they are all.
        peers: whether peers on the same engines take part too.
        asked: peers that have an interpreter of their own, and so take part.

    Raises:
        UnknownName: somebody has a name that nobody has.
    """
    specs = known()
    named = [*contestants, *asked]
    for name in named:
        if name not in specs:
            raise UnknownName("contestant", name, specs)
    chosen: dict[str, ContestantSpec] = {}
    for runner in runners or (() if contestants else RUNNERS):
        for spec in _with_bare_engine(runner):
            chosen[spec.name] = spec
    for name in named:
        chosen[name] = specs[name]
    engines = {spec.engine for spec in chosen.values()}
    if peers:
        chosen |= {n: s for n, s in specs.items() if s.is_peer and s.engine in engines}
    order = [*specs, *(name for name in chosen if name not in specs)]
    return tuple(chosen[name] for name in order if name in chosen)


def _with_bare_engine(runner: str) -> Iterable[ContestantSpec]:
    scheme, separator, _ = runner.partition("://")
    if separator and scheme in _SCHEMES:
        bare = {"dask": _dask, "ray": _ray}[_SCHEMES[scheme]](runner)
        return _ours("", bare.name, f"shoal_{_SCHEMES[scheme]}", argument=runner), bare
    if runner not in RUNNERS:
        raise UnknownName("contestant", runner, [*RUNNERS, "tcp://HOST:PORT", "ray://HOST:PORT"])
    ours = known()[runner]
    return ours, known()[ours.bare or ""]
