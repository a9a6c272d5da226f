"""Which runner a flow should have, and why: sentences, each with the figures it is derived from. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from shoal_bench.measurement import BYTES, SECONDS
from shoal_bench.trial.child import SEQUENTIAL
from shoal_bench.trial.trial import Trial, differs

__all__ = ["CLEARLY", "advise"]

#: One runner is recommended before another if the other takes so many times as long at least.
CLEARLY = 1.15
#: Bytes for each second from which it is said how much passes through the driver.
MUCH_MOVED = 50e6
#: Runners of this machine, which need no engine.
LOCAL = ("threads", "processes")


def advise(trials: Sequence[Trial], metg: Mapping[str, float]) -> list[str]:
    """What a flow's trials come to.

    Args:
        trials: on the sequential runner first, as far as it could be run there.
        metg: for each runner the length, in seconds, of the shortest mapped tasks that are worth spreading: half of the
            time of its workers is work then.
    """
    return [
        *_choice(trials),
        *_lengths(trials, metg),
        *_moved(trials),
        *_differences(trials),
    ]


def _choice(trials: Sequence[Trial]) -> Iterator[str]:
    ended = sorted((t for t in trials if t.failed is None), key=lambda trial: trial.seconds)
    spread = [trial for trial in ended if trial.runner != SEQUENTIAL]
    if not spread:
        yield "There is nothing to recommend: the flow ended on no runner."
        return
    alone = next((trial for trial in ended if trial.runner == SEQUENTIAL), None)
    best = spread[0]
    if alone is not None and alone.seconds < CLEARLY * best.seconds:
        yield (
            f"Leave it on one thread: spread, it took {SECONDS.show(best.seconds)} at best ({best.runner}), "
            f"one task after the other {SECONDS.show(alone.seconds)}."
        )
    else:
        beside = (
            "" if alone is None else f", one task after the other {SECONDS.show(alone.seconds)}"
        )
        alike = [t for t in spread[1:] if t.seconds < CLEARLY * best.seconds]
        local = next((t for t in [best, *alike] if t.runner in LOCAL), best)
        yield f"Take {local.runner}: it took {SECONDS.show(local.seconds)}{beside}."
        if alike:
            others = ", ".join(
                f"{t.runner} ({SECONDS.show(t.seconds)})" for t in [best, *alike] if t is not local
            )
            yield f"No clear difference: {others}."
    started = [
        f"{trial.runner} ({SECONDS.show(trial.started)})"
        for trial in spread
        if trial.started > trial.seconds / 2
    ]
    if started:
        yield (
            f"Most of the time it was {' and '.join(started)} that started; more work, or a cluster that runs already, "
            "makes that little."
        )


def _lengths(trials: Sequence[Trial], metg: Mapping[str, float]) -> Iterator[str]:
    for trial in trials:
        for name, (runs, seconds) in sorted(trial.tasks.items(), key=lambda item: -item[1][1]):
            length = seconds / runs
            short = [
                f"{runner} ({SECONDS.show(least)})"
                for runner, least in metg.items()
                if length < least
            ]
            if runs > 1 and short:
                yield (
                    f"Runs of {name} take {SECONDS.show(length)}, too short to be worth spreading on "
                    f"{', '.join(short)}: give each more to do."
                )


def _moved(trials: Sequence[Trial]) -> Iterator[str]:
    for trial in trials:
        if trial.failed is None and trial.moved > MUCH_MOVED * max(trial.seconds, 1.0):
            yield (
                f"On {trial.runner}, {BYTES.show(trial.moved)} passed through the driver: "
                "make large values in tasks, and pass them on as futures."
            )


def _differences(trials: Sequence[Trial]) -> Iterator[str]:
    first = next((trial for trial in trials if trial.value is not None), None)
    for trial in trials:
        if trial.failed is not None:
            yield f"On {trial.runner} the flow failed: {trial.failed.splitlines()[0]}"
        elif first is not None and trial is not first and differs(first, trial):
            yield (
                f"{trial.runner} gave another result than {first.runner}: "
                "the flow depends on order, on shared state or on chance."
            )
