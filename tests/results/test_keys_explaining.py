"""What of a key has changed, in words."""

from __future__ import annotations

import pytest
from shoal.results.keys.explaining import Earlier, explain

SOURCE = "etl.py:10\ndef fold(x):\n    y = x + 1\n    return y"


def fold(text: str, digest: str) -> dict[str, str]:
    return {"argument 'x'": "aa", "code of etl.fold": digest, "text of etl.fold": text}


def test_nothing_has_changed() -> None:
    assert explain(fold(SOURCE, "00"), fold(f"{SOURCE}  # so", "00")) == []


@pytest.mark.parametrize(
    ("after", "words"),
    [
        ("etl.py:10\ndef fold(x):\n    y = x + 2\n    return y", "etl.py:11: `y = x + 2` was `y = x + 1`"),
        ("etl.py:20\n# so\ndef fold(x):\n\n    y = x + 2\n    return y", "etl.py:23: `y = x + 2` was `y = x + 1`"),
        ("etl.py:10\ndef fold(x):\n    y = x + 1\n    y += 1\n    return y", "etl.py:12: `y += 1` is new"),
        ("etl.py:10\ndef fold(x):\n    return y", "etl.py:11: `y = x + 1` is gone"),
    ],
    ids=["a line", "a line further down", "a new line", "a line that is gone"],
)  # fmt: skip
def test_a_line_of_code(after: str, words: str) -> None:
    said = explain(fold(after, "01"), fold(SOURCE, "00"))
    assert said == [f"code of etl.fold has changed, {words}"]


def test_arguments() -> None:
    said = explain(
        {"argument 'x'": "1", "argument 'y'": "1"}, {"argument 'x'": "2", "the run": "3"}
    )
    assert said == ["argument 'x' has changed", "argument 'y' is new", "the run is gone"]


def test_without_the_text_the_function_is_named() -> None:
    said = explain({"code of etl.fold": "1"}, {"code of etl.fold": "2"})
    assert said == ["code of etl.fold has changed"]


def test_a_constant() -> None:
    said = explain(
        {"code of etl.N": "1", "text of etl.N": "\n4"},
        {"code of etl.N": "2", "text of etl.N": "\n3"},
    )
    assert said == ["code of etl.N has changed, `4` was `3`"]


def test_the_nearest_has_most_in_common() -> None:
    now = {"a": "1", "b": "1", "c": "1"}
    assert Earlier([]).nearest(now) is None
    earlier = Earlier([{"a": "2"}, {"a": "1", "b": "1"}, {"a": "1", "c": "1"}, now])
    assert earlier.nearest({"a": "1", "b": "1"}) == 1
    assert earlier.nearest(now) == 3
    assert earlier.nearest({"a": "1", "b": "1"}, 2) == 3, "what is later does not count"
    assert earlier.nearest(now, 4) is None
    code = {"code of f": "1", "code of g": "1"}
    assert Earlier([{"a": "2", **code}, {"a": "1"}]).nearest({"a": "1", **code}) == 1, (
        "the arguments come first"
    )
