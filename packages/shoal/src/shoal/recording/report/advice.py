"""What a report advises: each rule looks at the figures, and says in words what took the time and what would help.

A rule is a function of the figures that gives advice or none. It says how many seconds are at stake, by which advice is
ordered; failures come first. Rules keep silent below a tenth of the elapsed time: advice that gains nothing hides that
which does.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from math import inf
from statistics import median

from shoal.recording.report.failing import failures_in_words
from shoal.recording.report.figures import Figures, TaskFigures, idle_waits, starts
from shoal.recording.report.words import many, seconds, share, size

__all__ = ["RULES", "Advice", "advice"]

#: What is at stake has to be this much of the elapsed time, and longer than half a second or a run is not worth it.
WORTH = 0.1


@dataclass(frozen=True)
class Advice:
    """A piece of advice.

    Attributes:
        rule: the name of the rule that gave it.
        text: what was found and what would help; names of tasks stand between backticks.
        stake: seconds of the elapsed time that are at stake; `inf` for what went wrong.
    """

    rule: str
    text: str
    stake: float


Rule = Callable[[Figures], "Advice | None"]


def advice(figures: Figures) -> list[Advice]:
    """All advice that the rules have, what is most at stake first."""
    found = [given for rule in RULES if (given := rule(figures)) is not None]
    return sorted(found, key=lambda given: -given.stake)


# ------------------------------------------------------------ what went wrong


def failures(figures: Figures) -> Advice | None:
    """Runs failed, never began, or were cancelled."""
    text = failures_in_words(figures)
    return Advice("failures", text, inf) if text else None


def deaths(figures: Figures) -> Advice | None:
    """Workers died."""
    events = [event for event in figures.record.events if event.kind == "death"]
    if not events:
        return None
    number_of = dict(zip(figures.record.columns.number, figures.record.columns.task, strict=True))
    tasks = Counter(number_of[e.number] for e in events if e.number in number_of)
    text = f"{many(len(events), 'death')} of workers"
    if tasks:
        name = figures.record.tasks[tasks.most_common(1)[0][0]].name
        text += f", most often in runs of `{name}`"
    return Advice(
        "deaths",
        f"{text}. A worker that is killed has often taken more memory than there is: have fewer at a time, or "
        "smaller pieces.",
        inf,
    )


def retries(figures: Figures) -> Advice | None:
    """Time went into attempts that were retried."""
    lost = max(figures.tasks, key=lambda task: task.lost, default=None)
    if lost is None or not lost.lost:
        return None
    slots = max(len(figures.workers.busy), 1)
    stake = lost.lost / slots
    if not _worth(figures, stake):
        return None
    return Advice(
        "retries",
        f"{share(lost.lost, figures.workers.runs)} of what workers did were attempts of `{lost.name}` that failed and "
        f"were retried, {seconds(lost.lost)} in all. If some errors never pass, say so by `retry_condition_fn`.",
        stake,
    )


# ------------------------------------------------------------ what the end waited for


def chain(figures: Figures) -> Advice | None:
    """Most of the time is one chain of runs, each of which needed the one before."""
    found = max(
        figures.path.chains("passed", "retry"),
        key=lambda steps: sum(s.seconds for s in steps),
        default=[],
    )
    length = sum(step.seconds for step in found)
    if len(found) < 2 or not _is_most(figures, length):
        return None
    counts = Counter(figures.record.tasks[step.task].name for step in found)
    name, count = counts.most_common(1)[0]
    runs = (
        f"{many(count, 'run')} of `{name}`"
        if len(counts) == 1
        else f"{many(len(found), 'run')}, {count:,} of them of `{name}`"
    )
    return Advice(
        "chain",
        f"{share(length, figures.elapsed)} of the time is one chain of {runs}, each of which needs the one before. "
        "More workers do not help: make these runs shorter, cut them into parts that can go side by side, or "
        "begin the chain earlier.",
        length,
    )


def one_by_one(figures: Figures) -> Advice | None:
    """The flow waits for each run before it submits the next, though nothing is passed."""
    found = max(figures.path.chains("code"), key=len, default=[])
    length = sum(step.seconds for step in found)
    if len(found) < 4 or not _is_most(figures, length):
        return None
    names = list(dict.fromkeys(figures.record.tasks[step.task].name for step in found))
    listed = ", ".join(f"`{name}`" for name in names[:3])
    return Advice(
        "one_by_one",
        f"{many(len(found), 'run')} ({listed}) went one after another for {share(length, figures.elapsed)} of the time, "
        "because the flow submitted each only after the one before had ended. Submit all before you ask for the first "
        "result, or pass on the futures themselves.",
        length,
    )


def code(figures: Figures) -> Advice | None:
    """The flow's own code takes the time."""
    stake = figures.path.gaps.get("code", 0.0) + _before(figures)
    if not _worth(figures, stake, 0.2):
        return None
    return Advice(
        "code",
        f"For {share(stake, figures.elapsed)} of the time ({seconds(stake)}), the end waited for the flow's own code and "
        "not for a task. Do such work in tasks, or submit before it what does not need it.",
        stake,
    )


def straggler(figures: Figures) -> Advice | None:
    """Workers are idle while a few long runs end."""
    time, record = figures.workers, figures.record
    slots = len(time.busy)
    if slots < 2 or not time.total:
        return None
    columns = record.columns
    # From when on less than half of the workers' runs were still going.
    ends = sorted(
        columns.ended[indices[-1]] - record.started for indices in figures.order[:-1] if indices
    )
    if len(ends) < 2:
        return None
    middle, end = ends[(len(ends) - 1) // 2], ends[-1]
    stake = end - middle
    if not _worth(figures, stake, 0.2):
        return None
    late = [
        i
        for indices in figures.order
        for i in indices[-3:]
        if columns.ended[i] - record.started > middle
        and columns.ended[i] - columns.begun[i] >= 0.5 * stake
    ]
    if not late or len(late) > slots / 2:
        return None
    task = columns.task[max(late, key=lambda i: columns.ended[i] - columns.begun[i])]
    typical = figures.task(task).seconds.median
    runs = [i for i in late if columns.task[i] == task]
    longest = max(columns.ended[i] - columns.begun[i] for i in runs)
    idle = share(time.idle + time.over, time.total)
    name = record.tasks[task].name
    if len(runs) > 1:
        took = f"{many(len(runs), 'run')} of `{name}` took up to {seconds(longest)} each"
    else:
        took = f"one run of `{name}` took {seconds(longest)}"
    usual = f" (the usual one takes {seconds(typical)})" if longest > 2 * typical else ""
    since = record.started + middle
    others = sum(
        columns.ended[i] - max(columns.begun[i], since)
        for indices in figures.order[:-1]
        for i in takewhile(lambda i: columns.ended[i] > since, reversed(indices))
        if i not in runs
    )
    rest = "little" if others > 0.05 * stake else "nothing"
    # What could have begun at once needed nothing but a place in front.
    first = min(columns.ready[i] - record.started for i in late) < figures.elapsed * 0.1
    help_ = (
        "put them first"
        if first
        else "submit what they need earlier, or cut them into smaller ones"
    )
    return Advice(
        "straggler",
        f"Workers were idle {idle} of their time: at the end {took}{usual}, and {rest} else was left to do. Long runs cost "
        f"least at the beginning: {help_}.",
        stake,
    )


def too_many_workers(figures: Figures) -> Advice | None:
    """Fewer runs can go at once than there are workers."""
    time, slots = figures.workers, len(figures.workers.busy)
    most = max(figures.curve, default=0.0)
    if slots < 3 or not time.total or not 0 < most < 0.6 * slots:
        return None
    wasted = 1 - most / slots
    if not _worth(figures, figures.elapsed * wasted):
        return None
    return Advice(
        "too_many_workers",
        f"Of {slots:,} workers no more than {most:,.0f} were busy at once for long: there were not more runs that could go "
        "side by side. As many workers would do, or smaller runs to share among them.",
        figures.elapsed * wasted * 0.1,
    )


def more_workers(figures: Figures) -> Advice | None:
    """Everything waits for workers, and they are busy."""
    time, slots = figures.workers, len(figures.workers.busy)
    if not time.total or time.runs < 0.85 * time.total:
        return None
    waited = [step for step in figures.path.steps if step.after == "worker"]
    queued = sum(step.seconds for step in waited)
    if len(waited) < 2 or not _worth(figures, queued, 0.5):
        return None
    return Advice(
        "more_workers",
        f"{many(slots, 'worker')} {'was' if slots == 1 else 'were'} busy {share(time.runs, time.total)} of the time, and "
        f"{share(queued, figures.elapsed)} of it the end waited for one to be free. More workers would help, if there "
        "are processors for them.",
        queued * 0.5,
    )


def uneven(figures: Figures) -> Advice | None:
    """Runs waited for a worker that was busy, while others were idle."""
    record, slots = figures.record, len(figures.workers.busy)
    if slots < 2 or not figures.elapsed:
        return None
    behind = [
        step
        for step in figures.path.steps
        if step.after == "worker" and figures.at_once(step.began) < 0.6 * slots
    ]
    stake = sum(step.seconds for step in behind)
    if not _worth(figures, stake, 0.2):
        return None
    task = Counter(step.task for step in behind).most_common(1)[0][0]
    return Advice(
        "uneven",
        f"{many(len(behind), 'run')}, most of them of `{record.tasks[task].name}`, waited behind others on a busy worker for "
        f"{share(stake, figures.elapsed)} of the time, while other workers were idle. Runs of a task that has not been "
        "measured yet travel together as if they were short: give the long ones a task of their own.",
        stake,
    )


# ------------------------------------------------------------ what is not the user's


def short_runs(figures: Figures) -> Advice | None:
    """Runs are so short that what is around them takes longer."""
    slots = max(len(figures.workers.busy), 1)
    for task in sorted(figures.tasks, key=lambda task: -task.runs):
        per_run = figures.workers.messages / max(sum(t.runs for t in figures.tasks), 1)
        usual = task.seconds.median
        if task.runs < 100 or not per_run or usual > per_run:
            continue
        stake = per_run * task.runs / slots
        if not _worth(figures, stake):
            continue
        single = task.runs - task.mapped
        instead = (
            "Use `map` in place of many times `submit`: runs of a map share messages"
            if single > task.runs / 2
            else "Have each run do more, such as a list of elements and not one"
        )
        return Advice(
            "short_runs",
            f"Runs of `{task.name}` take {seconds(usual)}, and what is around each takes {seconds(per_run)}. {instead}.",
            stake,
        )
    return None


def start(figures: Figures) -> Advice | None:
    """The runner takes long to start."""
    taken = starts(figures.record)
    known = [index for index, length in enumerate(taken) if length == length]
    if not known:
        return None
    slowest = max(known, key=taken.__getitem__)
    longest, stake = figures.record.runners[slowest], taken[slowest]
    if not _worth(figures, stake, 0.3):
        return None
    return Advice(
        "start",
        f"{longest.name} took {seconds(stake)} to start, {share(stake, figures.elapsed)} of the time. Keep one open over "
        "several flows (`with runner:`), or use threads for flows as short as this.",
        stake,
    )


def absent(figures: Figures) -> Advice | None:
    """Workers came late."""
    workers, record = figures.record.workers, figures.record
    entered = {runner.index: runner.started for runner in record.runners}
    # Threads of this process come when there is something for them to do.
    late = [
        worker.joined - entered[worker.runner]
        for worker in workers
        if worker.runner in entered and (worker.host, worker.pid) != (record.host, record.pid)
    ]
    if not late:
        return None
    usual = median(late)
    if not _worth(figures, usual, 0.3):
        return None
    return Advice(
        "absent",
        f"The usual worker came {seconds(usual)} after the runner had started. What can be done meanwhile is small; a "
        "cluster that is there already spares the wait.",
        usual * 0.5,
    )


# ------------------------------------------------------------ what is moved, and what is waited for


def shipped(figures: Figures) -> Advice | None:
    """A large result goes to many runs, one by one."""
    columns, edges = figures.record.columns, figures.record.edges
    sizes = {
        number: bytes_
        for number, bytes_ in zip(columns.number, columns.bytes, strict=True)
        if bytes_ >= 1_000_000
    }
    if not sizes or not len(edges):
        return None
    takers: Counter[int] = Counter()
    for first, stop in zip(edges.first, edges.stop, strict=True):
        if stop - first == 1 and first in sizes:
            takers[first] += 1
    if not takers:
        return None
    number = max(takers, key=lambda number: takers[number] * sizes[number])
    moved = takers[number] * sizes[number]
    if takers[number] < 10 or moved < 1_000_000_000:
        return None
    task_of = dict(zip(columns.number, columns.task, strict=True))
    name = figures.record.tasks[task_of[number]].name
    return Advice(
        "shipped",
        f"`{name}` ships {size(sizes[number])} to each of {many(takers[number], 'run')}, {size(moved)} in all: pass it "
        "once, as `unmapped(…)` of one map, which sends it once to each worker; or pass a path, and have each run read "
        "the part that it needs.",
        figures.elapsed * WORTH,
    )


def results(figures: Figures) -> Advice | None:
    """Large results come back."""
    largest = max(figures.tasks, key=lambda task: task.size, default=None)
    if largest is None or largest.size < 1_000_000_000:
        return None
    return Advice(
        "results",
        f"Results of `{largest.name}` were {size(largest.size)}, up to {size(largest.largest)} each. What only other tasks "
        "read can stay in files or in a store, and its path be the result.",
        figures.elapsed * WORTH,
    )


def limits(figures: Figures) -> Advice | None:
    """Runs wait for slots of a limit."""
    worst = _waited_most(figures, "limits")
    if worst is None or not worst.waits["limits"].total:
        return None
    waits = worst.waits["limits"]
    if not _worth(figures, waits.most):
        return None
    return Advice(
        "limits",
        f"{many(waits.count, 'run')} of `{worst.name}` waited for a limit, {seconds(waits.median)} usually and "
        f"{seconds(waits.most)} at most, though workers may have been idle. Raise the limit if what it guards bears it, "
        "or have runs hold it only around the part that needs it.",
        waits.most,
    )


def delays(figures: Figures) -> Advice | None:
    """The end waits for delays of retries."""
    stake = figures.path.gaps.get("retry", 0.0)
    if not _worth(figures, stake):
        return None
    names: dict[str, float] = defaultdict(float)
    for step in figures.path.steps:
        if step.after == "retry":
            names[figures.record.tasks[step.task].name] += step.gap
    name = max(names, key=lambda name: names[name])
    return Advice(
        "delays",
        f"For {share(stake, figures.elapsed)} of the time the end waited for retries of `{name}` to begin. A shorter "
        "`retry_delay_seconds`, or one that grows from a short one (`exponential_backoff`), would gain that.",
        stake,
    )


def blocked(figures: Figures) -> Advice | None:
    """Runs wait in their bodies for others, and hold their worker."""
    waits = idle_waits(figures.record, figures.order)
    total = sum(waits.values())
    if not figures.workers.total or total < 0.3 * figures.workers.total:
        return None
    stake = total / max(len(figures.workers.busy), 1)
    if not _worth(figures, stake):
        return None
    return Advice(
        "blocked",
        f"{many(len(waits), 'run')} waited in the middle for other runs, {seconds(total)} in all. A task that submits "
        "others can return their futures or pass them on, and then nothing of it has to wait.",
        stake * 0.5,
    )


RULES: tuple[Rule, ...] = (
    failures,
    deaths,
    retries,
    chain,
    one_by_one,
    code,
    straggler,
    too_many_workers,
    more_workers,
    uneven,
    short_runs,
    start,
    absent,
    shipped,
    results,
    limits,
    delays,
    blocked,
)


def _worth(figures: Figures, stake: float, least: float = WORTH) -> bool:
    """Whether so many seconds are worth a word."""
    return figures.elapsed > 0 and stake >= least * figures.elapsed


def _is_most(figures: Figures, seconds: float) -> bool:
    """Whether so many seconds of the path are worth a word, and most of the time in which there were runs: how long a runner
    took to start hides nothing.
    """
    steps = figures.path.steps
    with_runs = figures.elapsed - (steps[0].began if steps else 0.0)
    return seconds >= 0.5 * with_runs and _worth(figures, seconds)


def _before(figures: Figures) -> float:
    """Seconds from when the flow could begin until it submitted its first run."""
    record = figures.record
    starts = [runner.started for runner in record.runners] or [
        run.began for run in record.flow_runs
    ]
    first = min((at for at in record.columns.submitted if at == at), default=None)
    return max(first - min(starts), 0.0) if starts and first is not None else 0.0


def _waited_most(figures: Figures, what: str) -> TaskFigures | None:
    known = [task for task in figures.tasks if what in task.waits]
    return max(known, key=lambda task: task.waits[what].total, default=None)
