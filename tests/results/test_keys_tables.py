"""Keys of tables: pandas, Polars and Arrow, by their data, however it is kept."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from shoal.results.keys import digest

pd = pytest.importorskip("pandas")
pl = pytest.importorskip("polars")
pa = pytest.importorskip("pyarrow")

pytestmark = pytest.mark.slow  # two seconds to import them

NOON = dt.datetime(2026, 1, 1, 12)  # noqa: DTZ001  a naive one is a subject
PARTS = {"a": 1}, None, {"a": 2}
DECIMALS = [Decimal("1.5"), None]
OF_PANDAS: list[Any] = [
    *(pd.DataFrame(), pd.DataFrame({"a": []}), pd.DataFrame({"a": [1]}), pd.DataFrame({"b": [1]}), pd.DataFrame({"a": [1.0]})),
    *(pd.DataFrame({"a": [1]}, index=[1]), pd.DataFrame({"a": [1], "b": [2]}), pd.DataFrame({"b": [2], "a": [1]})),
    *(pd.Series([1, 2]), pd.Series([1, 2], name="n"), pd.Series([2, 1]), pd.Series([1, 2], dtype="int8"), pd.Series([1, 2], dtype=object)),
    *(pd.Series([1, None]), pd.Series([1, None], dtype="Int64"), pd.Series([1, 0], dtype="Int64"), pd.Series([True, None], dtype="boolean")),
    *(pd.Series(["a", "b"]), pd.Series(["ab", ""]), pd.Series(["a", None]), pd.Series(["a", ""]), pd.Series(["a", "b"], dtype="category")),
    *(pd.Series(pd.Categorical(["a"], ["a", "b"])), pd.Series(pd.Categorical(["a"], ["a", "b"], ordered=True)), pd.Categorical(["a"])),
    *(pd.Series(pd.date_range("2026", periods=2)), pd.Series(pd.date_range("2026", periods=2, tz="UTC")), pd.period_range("2026", periods=2)),
    *(pd.Series(pd.to_timedelta([1, 2])), pd.Timestamp(NOON), pd.Timestamp(NOON) + pd.Timedelta(1), pd.Timestamp(NOON, tz="UTC")),
    *(pd.NaT, pd.NA, pd.Timedelta(1), pd.Index([0, 1]), pd.RangeIndex(2), pd.MultiIndex.from_product([[1], ["a"]]), pd.interval_range(0, 2)),
    *(pd.Series([1, 2], dtype="int64[pyarrow]"), pd.arrays.SparseArray([0, 1]), pd.Series([[1], {"a": 2}])),
]  # fmt: skip
OF_POLARS: list[Any] = [
    *(pl.DataFrame(), pl.DataFrame({"a": [1]}), pl.DataFrame({"b": [1]}), pl.DataFrame({"a": [1.0]}), pl.DataFrame({"a": [1], "b": [1]})),
    *(pl.Series([1, 2]), pl.Series("n", [1, 2]), pl.Series([1, 2], dtype=pl.Int8), pl.Series([1, 2], dtype=pl.Int128), pl.Series([1, None])),
    *(pl.Series([1, 0]), pl.Series([True, None]), pl.Series([True, False]), pl.Series(["a", "b"]), pl.Series(["ab", ""]), pl.Series(["a", None])),
    *(pl.Series([b"a"]), pl.Series(["a"], dtype=pl.Categorical), pl.Series(["a"], dtype=pl.Enum(["a", "b"])), pl.Series(["a"], dtype=pl.Enum(["a"]))),
    *(pl.Series([[1], [2]]), pl.Series([[1, 2], []]), pl.Series([[1, 2], None]), pl.Series([[1, 2]], dtype=pl.Array(pl.Int64, 2)), pl.Series(PARTS)),
    *(pl.Series([NOON]), pl.Series([NOON.date()]), pl.Series([NOON.time()]), pl.Series([dt.timedelta(1)]), pl.Series(DECIMALS), pl.Series([None])),
    *(pl.Series([NOON], dtype=pl.Datetime("ms")), pl.Series([NOON], dtype=pl.Datetime("us", "UTC")), pl.Series([int], dtype=pl.Object)),
]  # fmt: skip
OF_ARROW: list[Any] = [
    *(pa.table({"a": [1]}), pa.table({"b": [1]}), pa.table({"a": [1.0]}), pa.table({"a": [1], "b": [2]}), pa.scalar(1), pa.int8(), pa.schema([])),
    *(pa.array([1, 2]), pa.array([1, 2], pa.int8()), pa.array([1, None]), pa.array([1, 0]), pa.array([True, None]), pa.array([True, False])),
    *(pa.array(["a", "b"]), pa.array(["ab", ""]), pa.array(["a", None]), pa.array([b"a"]), pa.array(["a"], pa.large_string()), pa.nulls(2)),
    *(pa.array(["a"], pa.string_view()), pa.array([b"ab"], pa.binary(2)), pa.array([[1], [2]]), pa.array([[1, 2], []]), pa.array([[1, 2], None])),
    *(pa.array([[1, 2]], pa.list_(pa.int8(), 2)), pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int8())), pa.array(PARTS), pa.array(DECIMALS)),
    *(pa.array([NOON]), pa.array([NOON.date()]), pa.array([NOON.time()]), pa.array(["a"]).dictionary_encode(), pa.array(np.array([1.5], np.float16))),
    *(pa.array([], pa.int8()), pa.array([], pa.struct([("a", pa.int8())])), pa.array([], pa.list_(pa.int8()))),
]  # fmt: skip


@pytest.mark.parametrize(
    "values", [OF_PANDAS, OF_POLARS, OF_ARROW], ids=["pandas", "polars", "arrow"]
)
def test_different_content_has_different_keys(values: list[Any]) -> None:
    seen: dict[bytes, Any] = {}
    for value in values:
        key = digest(value)
        assert digest(value) == key
        assert key not in seen, (value, seen[key])
        seen[key] = value


def frame(n: int = 3) -> Any:
    columns = {"a": range(n), "b": np.arange(n) / 2, "c": ["x", None, "z"][:n], "d": [NOON] * n}
    return pd.DataFrame(columns)


def test_pandas_counts_by_its_data() -> None:
    whole = frame()
    assert digest(pd.concat([whole[:1], whole[1:]])) == digest(whole)
    assert digest(whole[["a"]]) == digest(pd.DataFrame({"a": range(3)}))
    block = pd.DataFrame(np.arange(6.0).reshape(3, 2), columns=["a", "b"])
    assert digest(block) == digest(pd.DataFrame({"a": [0.0, 2, 4], "b": [1.0, 3, 5]}))
    kinds = pd.Series(["a", "b"], dtype="category")
    assert digest(pd.concat([kinds[:1], kinds[1:]])) == digest(kinds)
    assert type(kinds.array).__module__.startswith("pandas")
    python, arrow = pd.StringDtype("python"), pd.StringDtype("pyarrow")
    assert digest(pd.Series(["a"], dtype=python)) == digest(pd.Series(["a"], dtype=arrow))
    masked, other = pd.array([1, 5], "Int64"), pd.array([1, 7], "Int64")
    masked[1] = other[1] = pd.NA
    assert digest(masked) == digest(other)


def test_a_subclass_of_pandas_counts_with_what_it_keeps() -> None:
    class Map(pd.DataFrame):  # type: ignore[misc]
        _metadata = ["crs"]  # noqa: RUF012  so it is declared

    def made(crs: int) -> Any:
        frame = Map({"a": [1]})
        frame.crs = crs
        return frame

    assert digest(made(1)) == digest(made(1)) != digest(made(2))


def polars(middle: int = 5) -> Any:
    columns = {
        "a": [1, middle, 3],
        "s": ["x", None, ""],
        "l": [[1], [], None],
        "p": PARTS,
        "b": [True, None, False],
    }
    return pl.DataFrame(columns).with_columns(
        a=pl.when(pl.col.a == middle).then(None).otherwise(pl.col.a)
    )


def test_polars_counts_by_its_data() -> None:
    whole = polars()
    assert digest(whole) == digest(polars(7)), "what lies under a missing value"
    assert digest(pl.concat([whole[:1], whole[1:]], rechunk=False)) == digest(whole)
    assert digest(pl.concat([whole, whole])[3:]) == digest(whole)
    assert digest(whole.reverse().reverse()) == digest(whole)


def test_arrow_counts_by_its_data() -> None:
    columns = {
        "a": [1, None, 3],
        "s": ["x", None, ""],
        "l": [[1], [], None],
        "p": PARTS,
        "b": [True, None, False],
    }
    whole = pa.table({**columns, "k": pa.array(["u", "v", "u"]), "n": pa.array([1.5, 2, 3])})
    assert digest(pa.concat_tables([whole[:1], whole[1:]])) == digest(whole)
    assert digest(pa.concat_tables([whole, whole])[3:]) == digest(whole)
    assert digest(whole.take([0, 1, 2])) == digest(whole)
    assert digest(pa.array([True] * 9 + [False] * 3)[8:]) == digest(pa.array([True, *[False] * 3]))
    buffers = [pa.py_buffer(b"\x01"), pa.py_buffer(np.array([1, 7], "<i8"))]
    junk = pa.Array.from_buffers(pa.int64(), 2, buffers)
    assert digest(junk) == digest(pa.array([1, None])), "what lies under a missing value"


def test_long_columns() -> None:
    n = 1_200_000
    numbers = np.arange(n, dtype="f8")
    texts = [str(i) for i in range(200_000)]
    for make in (pd.Series, lambda values: pl.Series(values), pa.array):
        for values in (numbers, texts):
            changed: Any = values.copy()
            changed[-1] = changed[0]
            assert digest(make(values)) == digest(make(values)) != digest(make(changed))


CUT = {
    "lists of a fixed length": pa.array([[1, 2], [3, 4], None], pa.list_(pa.int8(), 2)),
    "maps": pa.array([[(1, 2)], [], [(3, 4)]], pa.map_(pa.int8(), pa.int8())),
    "views of lists": pa.array([[1], [2, 3], None], pa.list_view(pa.int8())),
    "runs": pa.RunEndEncodedArray.from_arrays([2, 3], [5, 6]),
    "unions": pa.UnionArray.from_dense(
        *(pa.array([0, 1, 0], pa.int8()), pa.array([0, 0, 1], pa.int32())),
        [pa.array([1, 2]), pa.array(["a"])],
    ),
}


@pytest.mark.parametrize("case", CUT)
def test_arrays_that_are_read_value_by_value_count_however_they_are_cut(case: str) -> None:
    array = CUT[case]
    cut = [pa.chunked_array([array[:i], array[i:]]) for i in range(4)]
    assert {digest(each) for each in cut} == {digest(array)}
    assert digest(array[:2]) != digest(array)


def test_a_batch_is_no_table() -> None:
    assert digest(pa.record_batch({"a": [1]})) != digest(pa.table({"a": [1]}))
