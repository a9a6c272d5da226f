"""Why a run found no kept result: what its key is made of, beside what the key of an earlier run was made of. Pure.

Parts are texts by name, as a record keeps them: digests in hexadecimal, and texts, `text_name` of each: the source of a function,
after a line that says where it stood, or a constant after an empty line. May import the standard library only.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Earlier", "code_name", "explain", "text_name"]

_CODE = "code of "
_TEXT = "text of "


def code_name(name: str) -> str:
    """What the digest of a function is called among the parts."""
    return f"{_CODE}{name}"


def text_name(name: str) -> str:
    """What the source of a function is called among the parts."""
    return f"{_TEXT}{name}"


class Earlier:
    """Earlier runs, of which one is found that has the most in common with another run.

    By part, as each element of a map may be looked for among as many.

    Args:
        runs: the parts of each, the latest first.
    """

    def __init__(self, runs: Iterable[Mapping[str, str]]) -> None:
        self._count = 0
        self._having: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
        for place, parts in enumerate(runs):
            self._count = place + 1
            for part in _digests(parts).items():
                self._having[part].append(place)

    def nearest(self, now: Mapping[str, str], first: int = 0) -> int | None:
        """Which has the most in common: first of its arguments, then of its code; of several the first. `None` if there are none.

        Args:
            now: the parts of the run.
            first: the place of the first that counts.
        """
        arguments: Counter[int] = Counter()
        code: Counter[int] = Counter()
        for part in _digests(now).items():
            of_its_kind = code if part[0].startswith(_CODE) else arguments
            of_its_kind.update(self._having.get(part, ()))
        return max(range(first, self._count), key=lambda i: (arguments[i], code[i]), default=None)


def explain(now: Mapping[str, str], before: Mapping[str, str]) -> list[str]:
    """What has changed, a sentence each; none where nothing has.

    Args:
        now: the parts of a run's key.
        before: those of an earlier run's.
    """
    today, then = _digests(now), _digests(before)
    return [
        _sentence(name, now, before)
        for name in dict.fromkeys([*today, *then])
        if today.get(name) != then.get(name)
    ]


def _digests(parts: Mapping[str, str]) -> dict[str, str]:
    return {name: part for name, part in parts.items() if not name.startswith(_TEXT)}


def _sentence(name: str, now: Mapping[str, str], before: Mapping[str, str]) -> str:
    if name not in before:
        return f"{name} is new"
    if name not in now:
        return f"{name} is gone"
    text = text_name(name.removeprefix(_CODE))
    if name.startswith(_CODE) and text in now and text in before:
        line = _changed_line(now[text], before[text])
        if line is not None:
            return f"{name} has changed, {line}"
    return f"{name} has changed"


def _changed_line(now: str, before: str) -> str | None:
    """The first line of a source that is not as it was, with its place; `None` if only comments and blank lines differ."""
    place, *lines = now.splitlines()
    was = [line for line in before.splitlines()[1:] if _counts(line)]
    numbered = [(number, line) for number, line in enumerate(lines) if _counts(line)]
    match = SequenceMatcher(None, was, [line for _, line in numbered], autojunk=False)
    for kind, first, _, new, end in match.get_opcodes():
        if kind == "equal":
            continue
        if not place:
            return f"`{lines[0]}` was `{was[0]}`"
        file, _, start = place.rpartition(":")
        number = numbered[min(new, len(numbered) - 1)][0] if numbered else 0
        where = f"{file}:{int(start) + number}"
        if kind == "insert":
            return f"{where}: `{numbered[new][1].strip()}` is new"
        if kind == "delete" or new == end:
            return f"{where}: `{was[first].strip()}` is gone"
        return f"{where}: `{numbered[new][1].strip()}` was `{was[first].strip()}`"
    return None


def _counts(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")
