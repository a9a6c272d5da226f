"""What a function is, for its key: its source and all of the user's own code that it reaches.

A function is taken apart into parts, each with a name and a digest:

    etl.fold              the source of a function or class; for a library's, its name
    etl.fold(limit)       a default, if it is a constant
    etl.fold: scale       what it closes over, or what it was bound to: a constant
    etl.THRESHOLD         a global that is a constant
    helpers.clean         the source of a function or class that it uses, and so on, as deep as it goes
    module helpers        a module of the user's that it imports inside

Constants are numbers, texts, dates, enums, paths and tuples of them, but no global that some function sets. Anything else
that a function refers to counts by its name, which is in its source. May import `binding`, `digesting`, `naming`, `referring`, `source` and `walk`.
"""

from __future__ import annotations

import enum
import functools
import inspect
import weakref
from hashlib import sha256
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FunctionType,
    MappingProxyType,
    MethodType,
    ModuleType,
)
from typing import TYPE_CHECKING, Any

from shoal.exceptions.base import shown
from shoal.results.keys.binding import bound_arguments
from shoal.results.keys.digesting import digest_arguments, refuse
from shoal.results.keys.naming import (
    file_of_module,
    is_own,
    module_of_code,
    name_of,
    qualified,
    short_module,
)
from shoal.results.keys.referring import names_in
from shoal.results.keys.source import (
    class_tree,
    code_digest,
    file_of,
    function_tree,
    name_digest,
    tree_digest,
)
from shoal.results.keys.walk import Unstable, Walk, is_constant
from shoal.specs import FlowSpec, TaskSpec

if TYPE_CHECKING:
    import ast

    from shoal.results.keys.source import SourceFile

__all__ = ["function_digest", "function_parts", "function_texts", "known", "may_read_parameters"]

#: By what code comes to the flow run around it: names, and that of the class of `runtime.flow_run`.
_FLOW_RUN = frozenset({"flow_run", "_FlowRunView", "FlowRunContext", "get_run_context"})

_MISSING = object()


def function_parts(function: Any) -> dict[str, bytes]:
    """The digest of each part of a function's code.

    Args:
        function: a function, task, flow, method, partial, class or callable object.

    Returns:
        The digests, 32 bytes each, by what the parts are called; the first is the function's own.

    Raises:
        UnstableKeyError: it is bound to something that has no stable key.
    """
    return _known_or_refused(function).parts


def function_digest(function: Any) -> bytes:
    """32 bytes for all parts of a function's code. Arguments and errors as for `function_parts`."""
    return _known_or_refused(function).digest


def function_texts(function: Any) -> dict[str, str]:
    """The source of the parts of a function, for people.

    Arguments and errors as for `function_parts`.

    Returns:
        By name: of a function or class of the user's its source, after a line with its place, "etl.py:12"; of a constant
        a short repr, after an empty line.
    """
    return _known_or_refused(function).texts


def may_read_parameters(function: Any) -> bool:
    """Whether a function's code, with all of the user's own that it reaches, may ask for the parameters of the flow run around it.

    Arguments and errors as for `function_parts`.
    """
    words = _known_or_refused(function).words
    return "parameters" in words and not _FLOW_RUN.isdisjoint(words)


def _known_or_refused(function: Any) -> Known:
    try:
        return known(function)
    except (Unstable, RecursionError) as error:
        digest_arguments(bound_arguments(function))  # it may be one of these, and has a name
        refuse(error, "function", function)


class Known:
    """What was found out about a function, and what of it can change.

    Attributes:
        parts, texts: see `function_parts` and `function_texts`.
        words: names that the code has, and names of what it refers to, whatever that is called there.
        digest: of all parts.
    """

    __slots__ = ("_code", "_found", "digest")

    def __init__(self, function: Any) -> None:
        self._found = _Parts(function)
        self._code = getattr(function, "__code__", None)
        named = sorted((name_digest(name), digest) for name, digest in self.parts.items())
        self.digest = sha256(b"".join(map(b"%b%b".__mod__, named))).digest()

    @property
    def parts(self) -> dict[str, bytes]:
        return self._found.parts

    @property
    def texts(self) -> dict[str, str]:
        return self._found.texts

    @property
    def words(self) -> set[str]:
        return self._found.words

    def holds(self, function: Any) -> bool:
        """Whether all that it refers to is what it was."""
        return function.__code__ is self._code and self._found.hold()


_functions: weakref.WeakKeyDictionary[FunctionType, Known] = weakref.WeakKeyDictionary()


def known(function: Any) -> Known:
    """What is known of a function; looked up anew if anything it refers to has changed, as in a notebook.

    Raises:
        Unstable: as `function_parts`.
    """
    while isinstance(function, (TaskSpec, FlowSpec)):
        function = function.fn
    if type(function) is not FunctionType:  # what is bound to an object changes with it
        return Known(function)
    found = _functions.get(function)
    if found is None or not found.holds(function):
        found = _functions[function] = Known(function)
    return found


def _keep(value: Any) -> Any:
    """A value for a later comparison; kept alive only where it cannot be referred to weakly, as numbers and texts."""
    try:
        return weakref.ref(value)
    except TypeError:
        return (value,)


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not set, or deleted
        return _MISSING


def _is(kept: Any, value: Any) -> bool:
    if type(kept) is tuple:
        return kept[0] is value
    return value is not None and kept() is value


# ---------------------------------------------------------------------- the walk over code


class _Parts:
    """Collects the parts of a function.

    Attributes:
        parts: the digests by name.
        texts: see `function_texts`.
        words: see `Known`.
    """

    def __init__(self, function: Any) -> None:
        self.parts: dict[str, bytes] = {}
        self.texts: dict[str, str] = {}
        self.words: set[str] = set()
        #: What was looked at: the namespace, the name, the value then; the variable of a closure, the value then.
        self._globals_used: list[tuple[dict[str, Any], str, Any]] = []
        self._cells_used: list[tuple[CellType, Any]] = []
        self._seen: dict[int, Any] = {}  # by id; with the objects, so that no id is given out twice
        self.take(function, "")
        self._seen.clear()

    def hold(self) -> bool:
        """Whether each global and closure that was looked at has the value that it had. Hot."""
        return all(
            _is(kept, names.get(name, _MISSING)) for names, name, kept in self._globals_used
        ) and all(_is(kept, _content(cell)) for cell, kept in self._cells_used)

    def take(self, value: Any, name: str) -> None:
        """Adds what something is that code refers to, if that counts.

        Args:
            value: what it is.
            name: what it is called there; empty at the top.
        """
        if name and is_constant(value):
            self._constant(value, name)
            return
        if id(value) in self._seen:
            return
        self._seen[id(value)] = value
        kind = type(value)  # what an object says of its class itself may be anything
        self.words.add((value if kind is FunctionType or issubclass(kind, type) else kind).__name__)
        if issubclass(kind, (TaskSpec, FlowSpec)):
            self.take(value.fn, name)
        elif kind is FunctionType:
            self._function(value)
        elif issubclass(kind, type):
            self._class(value)
        elif issubclass(kind, functools.partial):
            given = value.args, *sorted(value.keywords.items())
            self._bound(value.func, given, name, "its partial")
        elif kind is MethodType:
            self._bound(value.__func__, value.__self__, name, "its self")
        elif "__wrapped__" in _attributes(value):
            self._add(name_of(kind), name_digest(name_of(kind)))
            self.take(value.__wrapped__, name)
        elif kind is BuiltinFunctionType or not name:
            self._callable(value)

    def _constant(self, value: Any, name: str) -> None:
        try:
            self._add(name, sha256(Walk().encode(value)).digest())
        except Unstable:  # a time zone of no name
            return
        self.texts.setdefault(name, f"\n{shown(value)}")

    def _add(self, name: str, digest: bytes) -> None:
        number = 2
        label = name
        while self.parts.get(label, digest) != digest:
            label = f"{name} #{number}"
            number += 1
        self.parts[label] = digest

    def _add_source(
        self, name: str, found: tuple[ast.AST, SourceFile] | None, otherwise: bytes
    ) -> None:
        self._add(name, otherwise if found is None else tree_digest(found[0]))
        if found is not None:
            node, file = found
            self.texts.setdefault(name, file.text_of(node))

    def _bound(self, function: Any, to: Any, name: str, what: str) -> None:
        self.take(function, name)
        if not name or is_constant(to):  # at the top it is all that tells one from another
            owner = name or qualified(getattr(function, "__qualname__", ""))
            self._add(f"{owner}: {what}", sha256(Walk().encode(to)).digest())

    def _callable(self, value: Any) -> None:
        if isinstance(value, BuiltinFunctionType):
            self._add(name_of(value), name_digest(name_of(value)))
        else:
            self._class(type(value))
            self._add("its state", sha256(Walk().encode(value)).digest())

    # ------------------------------------------------------------------ functions

    def _function(self, function: FunctionType) -> None:
        code, module = function.__code__, module_of_code(function)
        own = is_own(module)
        qualname = qualified(code.co_qualname)
        label = f"{short_module(module, code)}.{qualname}"
        found = function_tree(code) if own else None
        if not own:
            self._add(label, name_digest(f"{module}.{qualname}"))
            attributes = vars(function)
            if "__wrapped__" in attributes:
                self.take(attributes["__wrapped__"], label)
            if type(attributes.get("registry")) is MappingProxyType:  # of functools.singledispatch
                for branch in attributes["registry"].values():
                    self.take(branch, label)
        else:
            self._add_source(label, found, code_digest(code))
            self._defaults(function, label)
        self._closure(function, label)
        if own:
            self._globals(function, found[1].variables if found is not None else set())

    def _defaults(self, function: FunctionType, label: str) -> None:
        names = function.__code__.co_varnames[: function.__code__.co_argcount]
        defaults = function.__defaults__ or ()
        given = dict(zip(names[len(names) - len(defaults) :], defaults, strict=True))
        for name, value in {**given, **(function.__kwdefaults__ or {})}.items():
            self.take(value, f"{label}({name})")

    def _closure(self, function: FunctionType, label: str) -> None:
        for name, cell in zip(
            function.__code__.co_freevars, function.__closure__ or (), strict=True
        ):
            value = _content(cell)
            self._cells_used.append((cell, _keep(value)))
            if value is not _MISSING:
                self.take(value, f"{label}: {name}")

    def _globals(self, function: FunctionType, variables: set[str]) -> None:
        namespace, code = function.__globals__, function.__code__
        names = names_in(code)
        self.words |= names.words
        for path in names.used:
            self._global(namespace, path, variables | names.set, code)
        for imported in names.imported:
            self._imported(imported, namespace.get("__package__") or "")

    def _global(
        self, names: dict[str, Any], path: str, variables: set[str], code: CodeType
    ) -> None:
        """Follows a dotted name through the user's modules to what it stands for."""
        module = short_module(str(names.get("__name__", "")), code)
        for step in path.split("."):
            if step.startswith(
                "__"
            ):  # a module's own name and file are others where it is run or copied
                return
            value = names.get(step, _MISSING)
            self._globals_used.append((names, step, _keep(value)))
            if not issubclass(type(value), ModuleType):
                if value is not _MISSING and not (step in variables and is_constant(value)):
                    self.take(value, f"{module}.{step}")
                return
            if not is_own(value.__name__):
                return
            names, module, variables = vars(value), short_module(value.__name__, None), set()
            file = file_of(getattr(value, "__file__", None) or "")
            if file is not None:
                variables = file.variables

    def _imported(self, module: str, package: str) -> None:
        """A module that the function imports: its file, and those that it imports itself; without importing it."""
        level = len(module) - len(module.lstrip("."))
        if level:
            base = package.split(".")
            module = ".".join([*base[: len(base) - level + 1], module.lstrip(".")]).strip(".")
        label = f"module {module}"
        if label in self.parts or not is_own(module):
            return
        path = file_of_module(module)
        file = file_of(path) if path is not None else None
        if path is None or file is None:
            return
        self._add(label, tree_digest(file.tree))
        self.words |= names_in(file.code).words
        is_package = path.endswith("__init__.py")
        for name in file.imports:
            self._imported(name, module if is_package else module.rpartition(".")[0])

    # ------------------------------------------------------------------ classes

    def _class(self, kind: type) -> None:
        module = str(kind.__module__)
        if not is_own(module):
            self._add(name_of(kind), name_digest(name_of(kind)))
            return
        members = {name: (value, _methods_in(kind, value)) for name, value in vars(kind).items()}
        methods = [method for _, each in members.values() for method in each]
        codes = [method.__code__ for method in methods]
        inside = f"{kind.__qualname__}."
        written = [code for code in codes if code.co_qualname.startswith(inside)]
        label = f"{short_module(module, written[0] if written else None)}.{kind.__qualname__}"
        tree = class_tree(kind.__qualname__, written)
        self._add_source(label, tree, _class_digest(kind, members))
        for each in (*kind.__bases__, *_classes_in(kind)):
            if each is not object:
                self.take(each, label)
        if is_own(str(type(kind).__module__)):
            self.take(type(kind), label)
        for name, default in _fields(kind).items():
            if type(default) is FunctionType:
                self.take(default, f"{label}({name})")
        for function in methods:
            if function.__code__ not in written:  # a decorator's, or a method by assignment
                self.take(function, label)
                continue
            self._defaults(function, f"{label}.{function.__name__}")
            self._closure(function, f"{label}.{function.__name__}")
            self._globals(function, set())


def _attributes(value: Any) -> dict[str, Any]:
    """An object's own attributes, without asking the object."""
    try:
        return object.__getattribute__(value, "__dict__")  # type: ignore[no-any-return]
    except AttributeError:
        return {}


def _classes_in(kind: type) -> list[type]:
    """The classes that are written within a class."""
    inside = f"{kind.__qualname__}."
    return [
        each
        for each in vars(kind).values()
        if isinstance(each, type)
        and each.__module__ == kind.__module__
        and each.__qualname__.startswith(inside)
    ]


def _methods_in(kind: type, member: Any) -> list[FunctionType]:
    """The functions of an attribute of a class, which may be a method of any kind, that somebody wrote for it."""
    found: tuple[Any, ...]
    how = type(member)
    if issubclass(how, property):
        found = (member.fget, member.fset, member.fdel)
    elif issubclass(how, (TaskSpec, FlowSpec)):
        found = (member.fn,)
    elif issubclass(how, functools.cached_property):
        found = (member.func,)
    elif issubclass(how, (staticmethod, classmethod)):
        found = (member.__func__,)
    elif how is FunctionType:
        found = (member,)
    else:
        found = (_attributes(member).get("__wrapped__"),)
    chain: list[Any] = []
    for each in found:
        while type(each) is FunctionType and each not in chain:
            chain.append(each)
            each = _attributes(each).get("__wrapped__")
    return [
        each for each in chain if is_own(module_of_code(each)) and not _is_generated(kind, each)
    ]


def _is_generated(kind: type, function: FunctionType) -> bool:
    """Whether dataclasses, attrs or namedtuple made it of the fields; each version of Python makes another."""
    marks = ("__dataclass_fields__", "__attrs_attrs__", "_field_defaults")
    return function.__code__.co_filename.startswith("<") and any(hasattr(kind, m) for m in marks)


def _fields(kind: type) -> dict[str, Any]:
    """The defaults of the fields of a dataclass, pydantic model, class of attrs or named tuple, or what makes them."""
    said: dict[str, Any] = {}
    for each in reversed(kind.__mro__):  # not `getattr`, which may ask a metaclass
        said |= vars(each)
    fields = {**said.get("__dataclass_fields__", {}), **said.get("__pydantic_fields__", {})}
    fields |= {field.name: field for field in said.get("__attrs_attrs__", ())}
    found = {name: _default(field) for name, field in fields.items()}
    return {**found, **said.get("_field_defaults", {})}


def _default(field: Any) -> Any:
    default = getattr(field, "default", None)  # attrs has in it what makes one
    made_by = getattr(field, "default_factory", getattr(default, "factory", None))
    return made_by if type(made_by) is FunctionType else default


def _class_digest(kind: type, members: dict[str, tuple[Any, list[FunctionType]]]) -> bytes:
    """A class whose source is not known: its methods, and the attributes and fields that are constants."""

    def constant(value: Any) -> Any:
        return value if is_constant(value) else None

    facts: list[Any] = [kind.__qualname__, [base.__qualname__ for base in kind.__bases__]]
    if isinstance(kind, enum.EnumMeta):
        facts += [(name, constant(each._value_)) for name, each in kind._member_map_.items()]
        members = {name: each for name, each in members.items() if each[1]}
    fields = _fields(kind)
    for name, annotation in inspect.get_annotations(kind).items():
        type_name = name_of(annotation) if isinstance(annotation, type) else str(annotation)
        facts.append((name, type_name, constant(fields.get(name))))
    for name, (member, methods) in sorted(members.items()):
        if methods:
            facts.append((name, [code_digest(each.__code__) for each in methods]))
        elif not name.startswith("__"):
            facts.append((name, constant(member)))
    return sha256(Walk().encode(facts)).digest()
