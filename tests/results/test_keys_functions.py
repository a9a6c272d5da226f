"""Keys of functions: what of the code counts, and what does not."""

from __future__ import annotations

import functools
import importlib
import sys
import textwrap
import threading
import warnings
from typing import TYPE_CHECKING, Any

import pytest
from shoal import flow, task
from shoal.exceptions import UnstableKeyError
from shoal.results.keys import digest, function_digest, function_parts, function_texts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Write = Callable[..., Any]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes modules, `etl="…"`, and gives `etl.f`, imported anew."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    written: set[str] = set()

    def write(**modules: str) -> Any:
        for name, source in modules.items():
            path = tmp_path / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(textwrap.dedent(source))
            written.add(name.partition("__")[0])
        forget()
        return importlib.import_module("etl").f

    def forget() -> None:
        importlib.invalidate_caches()
        for name in list(sys.modules):
            if name.partition(".")[0] in written:
                del sys.modules[name]

    yield write
    forget()


def both(write: Write, before: str, after: str, **modules: str) -> bool:
    """Whether two versions of a module have one key for `f`."""
    first = function_digest(write(etl=before, **modules))
    return first == function_digest(write(etl=after))


BASE = """
    LIMIT = 3
    class Part:
        size = 1
        def area(self): return self.size * LIMIT
    def helper(x): return inner(x) + 1
    def inner(x): return x * 2
    def f(x, most=10):
        return helper(min(x, most))
    def g(): pass
"""

SAME = {
    "a comment": ("    return helper", "    # so\n            return helper"),
    "layout": ("helper(min(x, most))", "helper(\n                min(x,   most)\n            )"),
    "brackets": ("return helper(min(x, most))", "return (helper((min(x, most))))"),
    "quotes and numbers": ("most=10", "most=0xA"),
    "another function": ("def g(): pass", "def g(): return 1"),
    "a constant that it does not use": ("LIMIT = 3", "LIMIT = 4"),
    "lines before it": ("LIMIT = 3", "import os\n\n\n    LIMIT = 3"),
}
OTHER = {
    "its body": ("min(x, most)", "max(x, most)"),
    "a default of its own": ("most=10", "most=11"),
    "a helper": ("+ 1", "+ 2"),
    "a helper's helper": ("x * 2", "x * 3"),
    "the type of a number": ("most=10", "most=10.0"),
}


@pytest.mark.parametrize("change", SAME)
def test_what_does_not_count(write: Write, change: str) -> None:
    assert both(write, BASE, BASE.replace(*SAME[change]))


@pytest.mark.parametrize("change", OTHER)
def test_what_counts(write: Write, change: str) -> None:
    assert not both(write, BASE, BASE.replace(*OTHER[change]))


@pytest.mark.parametrize(
    "value", ["1", "'a'", "(1, 'a')", "frozenset({1})", "Path('a')", "Kind.A", "date(2020, 1, 1)"]
)
def test_a_constant_of_the_module_counts(write: Write, value: str) -> None:
    head = """
    import enum
    from pathlib import Path
    from datetime import date
    class Kind(enum.Enum):
        A = 1
    """
    before = f"{head}\n    C = {value}\n    def f(): return C"
    assert both(write, before, before)
    assert not both(write, before, before.replace(f"C = {value}", "C = 2"))


@pytest.mark.parametrize("value", ["[1]", "{}", "object()", "open", "C()"])
def test_anything_else_counts_by_its_name(write: Write, value: str) -> None:
    before = f"class C: pass\nc = {value}\ndef f(): return c".replace("\n", "\n    ")
    after = before.replace(f"c = {value}", "c = [2]")
    assert (value == "open") != both(write, "\n    " + before, "\n    " + after)


def test_a_global_that_is_set_is_no_constant(write: Write) -> None:
    source = """
    count = 0
    def f():
        return count
    def bump():
        global count
        count += 1
    """
    function = write(etl=source)
    before = function_digest(function)
    function.__globals__["bump"]()
    assert function_digest(function) == before


def test_a_helper_of_another_module(write: Write) -> None:
    etl = "import helpers\nfrom helpers import other\ndef f(x): return helpers.clean(x) + other(x)"
    helpers = (
        "LIMIT = 3\ndef clean(x): return x\ndef other(x): return x + LIMIT\ndef unused(): pass"
    )
    before = function_digest(write(etl=etl, helpers=helpers))
    assert function_digest(write(helpers=helpers.replace("pass", "return 3"))) == before
    assert function_digest(write(helpers=helpers.replace("return x\n", "return x + 1\n"))) != before
    assert function_digest(write(helpers=helpers.replace("LIMIT = 3", "LIMIT = 4"))) != before


def test_a_module_that_is_imported_inside(write: Write) -> None:
    etl = "def f(x):\n    from pack.helpers import clean\n    import json\n    return clean(x)"
    helpers = "from .base import C\ndef clean(x): return x + C"
    before = function_digest(
        write(etl=etl, pack__helpers=helpers, pack__base="C = 1", pack____init__="")
    )
    assert "pack.helpers" not in sys.modules
    assert function_digest(write(pack__helpers=f"# said\n{helpers}")) == before
    assert function_digest(write(pack__base="C = 2")) != before
    write()(1)
    assert "pack.helpers" in sys.modules
    again = write(pack__base="C = 1")
    again(1)
    assert function_digest(again) == before, "imported or not, it is the same"


def test_recursion(write: Write) -> None:
    source = "def f(n): return g(n - 1) if n else 0\ndef g(n): return f(n - 1) if n else 1"
    assert both(write, source, source)
    assert not both(write, source, source.replace("else 1", "else 2"))


def test_the_names_and_methods_of_a_class_without_source() -> None:
    def made(value: int) -> Any:
        names: dict[str, Any] = {"__name__": "nowhere"}
        exec(
            "class C:\n    def m(self): return g()\ndef g(): return N\ndef f(): return C()",
            names,
        )
        names["N"] = value
        return names["f"]

    assert function_digest(made(1)) == function_digest(made(1)) != function_digest(made(2))


def test_a_class_with_its_methods_and_bases(write: Write) -> None:
    source = """
    def helper(): return 1
    class Base:
        def low(self): return helper()
    class Part(Base):
        '''A part.'''
        def high(self): return 2
        @property
        def size(self): return 3
    def f(): return Part().high()
    """
    assert both(write, source, source.replace("return 2", "return  2  # so"))
    for change in ("return 1", "return 2", "return 3", "return helper()"):
        assert not both(write, source, source.replace(change, "return 7"))


IN_CLASSES = {
    "a method by assignment": "def m(self): return 1\nclass K:\n    q = m\n    def z(self): pass",
    "a decorator of a method": """
        import functools
        def deco(fn):
            @functools.wraps(fn)
            def wrapped(*args): return fn(*args), 1
            return wrapped
        class K:
            @deco
            def q(self): pass""",
    "under a decorator": "def deco(fn): return lambda *args: fn(*args)\nclass K:\n    @deco\n    def q(self): return 1",
    "a class within": "class K:\n    class Inner:\n        def m(self): return 1",
    "a metaclass": "class Meta(type):\n    def m(cls): return 1\nclass K(metaclass=Meta): pass",
    "a base without methods": "class A: pass\nclass B1(A): pass\nclass B2(A): pass\nclass K(B1): pass",
    "a default of a dataclass": "from dataclasses import dataclass\n@dataclass\nclass K:\n    x: int = 1",
    "what makes a default": """
        from dataclasses import dataclass, field
        @dataclass
        class K:
            x: int = field(default_factory=lambda: 1)""",
    "a default of a named tuple": "from typing import NamedTuple\nclass K(NamedTuple):\n    x: int = 1",
    "a default of a model": "import pydantic\nclass K(pydantic.BaseModel):\n    x: int = 1",
}


@pytest.mark.parametrize("case", IN_CLASSES)
def test_what_is_in_a_class_counts(write: Write, case: str) -> None:
    source = f"{textwrap.dedent(IN_CLASSES[case])}\ndef f(): return K, __name__"
    changed = source.replace("B1(A)", "B3(A)").replace("B1", "B2") if "B1" in source else source
    changed = changed.replace("1", "7")
    assert both(write, source, source.replace("def f()", "def  f()"))
    assert not both(write, source, changed)


def test_a_method_that_wraps_itself() -> None:
    class Wound:
        def turn(self) -> Any:
            return self.turn

    Wound.turn.__wrapped__ = Wound.turn  # type: ignore[attr-defined]
    assert function_digest(Wound) == function_digest(Wound)


def test_a_partial_of_the_module_counts_with_its_constants(write: Write) -> None:
    source = "import functools\ng = functools.partial(int, base=2)\nh = functools.partial(max, 3)\ndef f(x): return g(x), h(x)"
    assert both(write, source, source)
    assert not both(write, source, source.replace("2", "7"))
    assert not both(write, source, source.replace("3", "7"))


@pytest.mark.parametrize(
    ("decorator", "use"),
    [
        ("def deco(fn): return lambda x: fn(x) + 1", "@deco"),
        ("import functools\ndef deco(fn):\n    @functools.wraps(fn)\n    def w(x): return fn(x) + 1\n    return w", "@deco"),
        ("import functools", "@functools.cache"),
        ("import functools", "@functools.partial"),
        ("from contextlib import contextmanager", "@contextmanager"),
        ("from shoal import task", "@task(retries=1)"),
        ("from shoal import flow", "@flow"),
    ],
    ids=["plain", "wraps", "cache", "partial", "of a library", "task", "flow"],
)  # fmt: skip
def test_under_a_decorator(write: Write, decorator: str, use: str) -> None:
    source = f"{decorator}\n{use}\ndef f(x):\n    return x"
    assert both(write, source, source.replace("return x", "return x  # so"))
    assert not both(write, source, source.replace("    return x", "    return x * 2"))
    if "def deco" in decorator:
        assert not both(write, source, source.replace("+ 1", "+ 2"))


def test_options_of_a_task_do_not_count(write: Write) -> None:
    source = "from shoal import task\n@task(retries=1)\ndef f(x): return x"
    assert both(write, source, source.replace("retries=1", "retries=2, tags=['a']"))


def test_a_closure_counts_by_what_it_closes_over() -> None:
    def make(scale: Any) -> Any:
        return lambda x: x * scale

    assert function_digest(make(2)) == function_digest(make(2))
    assert function_digest(make(2)) != function_digest(make(3))
    assert function_digest(make(2)) != function_digest(make(2.0))
    assert function_digest(make(len)) != function_digest(make(max))
    assert function_digest(make([2])) == function_digest(make([3])), "not a constant"


def test_lambdas_of_one_line() -> None:
    one, two = (lambda x: x + 1), (lambda x: x + 2)
    assert function_digest(one) != function_digest(two)
    first, second = (lambda: 1), (lambda: 1)
    assert function_digest(first) == function_digest(second)


def test_what_is_bound_counts() -> None:
    class Part:
        def __init__(self, n: int) -> None:
            self.n = n

        def area(self) -> int:
            return self.n

        def __call__(self) -> int:
            return self.n

    def add(a: int, b: int) -> int:
        return a + b

    assert function_digest(Part(1).area) == function_digest(Part(1).area)
    assert function_digest(Part(1).area) != function_digest(Part(2).area)
    assert function_digest(Part(1)) == function_digest(Part(1))
    assert function_digest(Part(1)) != function_digest(Part(2))
    assert function_digest(functools.partial(add, 1)) == function_digest(functools.partial(add, 1))
    assert function_digest(functools.partial(add, 1)) != function_digest(functools.partial(add, 2))


@pytest.mark.parametrize(
    "made",
    [lambda: len, lambda: [].append, lambda: str.upper, lambda: "".join],
    ids=["len", "append", "upper", "join"],
)
def test_functions_of_python(made: Callable[[], Any]) -> None:
    assert function_digest(made()) == function_digest(made())
    assert function_digest(made()) != function_digest(print)


def test_without_source_the_code_object_counts() -> None:
    def made(source: str) -> Any:
        names: dict[str, Any] = {"__name__": "nowhere"}
        exec(source, names)
        return names["f"]

    before = made("def f(x):\n    def g(): return x\n    return g() + 1")
    same = made("# so\n\ndef f(x):\n    def g():\n        return x\n    return (g() + 1)")
    assert function_digest(before) == function_digest(same)
    assert function_digest(before) != function_digest(made("def f(x): return x + 1"))
    one, two = made("def f(): return 1"), made("def f(): return True")
    assert function_digest(one) != function_digest(two)


def test_a_file_that_was_edited_since_is_not_believed(write: Write, tmp_path: Path) -> None:
    function = write(etl="def f(x):\n    return x + 1\n")
    (tmp_path / "etl.py").write_text("def f(x):\n    return x + 2\n")
    old = function_digest(function)
    assert function_digest(write()) != old


def test_a_file_that_python_warns_of_is_read(write: Write) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        function = write(etl="def f(x):\n    return '\\d' + x")
    assert function_texts(function)


def test_what_a_notebook_defines_anew_is_seen(write: Write) -> None:
    function = write(etl=BASE)
    before = function_digest(function)
    names = function.__globals__
    kept = names["inner"]
    names["inner"] = lambda x: x
    assert function_digest(function) != before
    names["inner"] = kept
    assert function_digest(function) == before


def test_parts_are_named(write: Write) -> None:
    parts = function_parts(write(etl=BASE))
    assert list(parts) == ["etl.f", "etl.f(most)", "etl.helper", "etl.inner"]
    assert all(len(each) == 32 for each in parts.values())


def test_texts_say_where_they_stand(write: Write) -> None:
    texts = function_texts(write(etl=BASE))
    assert list(texts) == ["etl.f", "etl.f(most)", "etl.helper", "etl.inner"]
    assert texts["etl.f(most)"] == "\n10"
    assert texts["etl.inner"] == "etl.py:7\ndef inner(x): return x * 2"


def test_tasks_and_flows_count_as_their_functions() -> None:
    def load(x: int) -> int:
        return x

    assert function_digest(task(load)) == function_digest(flow(load)) == function_digest(load)
    assert digest(task(load)) == digest(task(load, retries=2))  # type: ignore[call-overload]


def test_a_function_that_dispatches_counts_with_its_branches(write: Write) -> None:
    source = """
    import functools
    @functools.singledispatch
    def f(x): return 0
    @f.register
    def _(x: int): return 1
    """
    assert both(write, source, source)
    assert not both(write, source, source.replace("return 0", "return 5"))
    assert not both(write, source, source.replace("return 1", "return 5"))


def test_objects_that_misbehave_count_by_name(write: Write) -> None:
    source = """
    class Odd:
        def __getattr__(self, name): raise RuntimeError(name)
        @property
        def __class__(self): raise RuntimeError
    odd = Odd()
    def f(): return odd
    """
    assert both(write, source, source)


def test_a_variable_of_a_closure_that_is_set_is_seen() -> None:
    def make(scale: int) -> Any:
        def scaled(x: int) -> int:
            return x * scale

        def rescale(to: int) -> None:
            nonlocal scale
            scale = to

        return scaled, rescale

    scaled, rescale = make(2)
    before = function_digest(scaled)
    assert function_digest(scaled) == before
    rescale(3)
    assert function_digest(scaled) == function_digest(make(3)[0]) != before


def test_what_is_bound_and_unstable_is_refused() -> None:
    class Holder:
        def __init__(self) -> None:
            self.lock = threading.Lock()

        def work(self) -> None: ...

    with pytest.raises(UnstableKeyError, match=r"parameters\['self'\]\.lock \(_thread\.lock\)"):
        function_digest(Holder().work)
